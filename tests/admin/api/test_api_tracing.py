"""Spans from a request to the tasks it adds and to their children, and what logs say of them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import asyncpg
import panel_tasks
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from panels import Panel, Work

from fastedgy.errors import ConfigurationError
from fastedgy.logs import JSONFormatter
from fastedgy.queued_task import middleware as public
from fastedgy.queued_task import tracing
from fastedgy.queued_task.middleware import registered, remove_middleware

provider = TracerProvider()


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """The spans that have ended, while tracing is on."""
    exporter = InMemorySpanExporter()
    processor = SimpleSpanProcessor(exporter)
    provider.add_span_processor(processor)
    tracing.instrument(provider)
    yield exporter
    tracing.uninstrument()
    exporter.clear()
    processor.shutdown()


def named(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    [found] = [span for span in spans.get_finished_spans() if span.name == name]
    return found


async def test_a_request_its_task_and_the_tasks_child_are_one_trace(
    panel: Panel, work: Work, spans: InMemorySpanExporter, connection: asyncpg.Connection
) -> None:
    tracer = provider.get_tracer("test")
    async with work():
        with tracer.start_as_current_span("POST /orders"):
            ref = panel.tasks.add_task(panel_tasks.parent, 1)
            await ref.get_task_id()
        child = await ref.wait(30)
        await panel.tasks.ref(child).wait(30)

    request = named(spans, "POST /orders")
    enqueue = named(spans, "enqueue panel_tasks.parent")
    run = named(spans, "task.panel_tasks.parent")
    add_child = named(spans, "enqueue panel_tasks.add")
    run_child = named(spans, "task.panel_tasks.add")
    chain = [request, enqueue, run, add_child, run_child]
    for before, after in pairwise(chain):
        assert before.context is not None
        assert after.parent is not None
        assert after.parent.span_id == before.context.span_id, (before.name, after.name)
    assert len({span.context.trace_id for span in chain if span.context}) == 1
    assert (enqueue.kind, run.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert run.attributes is not None
    assert run.attributes["task.id"] == str(ref.id)
    assert run.attributes["task.attempt"] == 1
    row = await connection.fetchrow("SELECT trace FROM queued_tasks WHERE id = $1", ref.id)
    assert enqueue.context is not None
    ids = f"{enqueue.context.trace_id:032x}-{enqueue.context.span_id:016x}"
    assert row["trace"].startswith(f"00-{ids}-")


async def test_each_attempt_is_a_span_and_a_failure_is_an_error(
    panel: Panel, work: Work, spans: InMemorySpanExporter
) -> None:
    async with work():
        with pytest.raises(Exception, match="ValueError"):
            await panel.tasks.add_task(panel_tasks.fail).wait(30)

    runs = [span for span in spans.get_finished_spans() if span.name == "task.panel_tasks.fail"]
    assert [span.attributes["task.attempt"] for span in runs if span.attributes] == [1, 2]
    assert {span.status.status_code for span in runs} == {StatusCode.ERROR}
    assert runs[0].events[0].name == "exception"
    assert len({span.context.trace_id for span in runs if span.context}) == 1


async def test_many_tasks_that_are_added_together_are_one_span(
    panel: Panel, spans: InMemorySpanExporter, connection: asyncpg.Connection
) -> None:
    panel.tasks.add_tasks(panel_tasks.add, [(number,) for number in range(50)])
    await panel.tasks.flush()

    span = named(spans, "enqueue panel_tasks.add")
    assert span.attributes is not None
    assert span.attributes["messaging.batch.message_count"] == 50
    assert await connection.fetchval("SELECT count(DISTINCT trace) FROM queued_tasks") == 1


async def test_logs_in_json_say_which_task_attempt_and_trace(
    panel: Panel, work: Work, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(JSONFormatter().format(record))

    logger = logging.getLogger("panel")
    handler = Keep()
    logger.addHandler(handler)
    try:
        async with work():
            ref = panel.tasks.add_task(panel_tasks.fail)
            with pytest.raises(Exception, match="ValueError"):
                await ref.wait(30)
    finally:
        logger.removeHandler(handler)

    first, second = (json.loads(line) for line in lines)
    runs = [span for span in spans.get_finished_spans() if span.name == "task.panel_tasks.fail"]
    assert first["task_id"] == second["task_id"] == str(ref.id)
    assert (first["task"], first["attempt"], second["attempt"]) == ("panel_tasks.fail", 1, 2)
    assert [run.context.trace_id for run in runs if run.context] == [
        int(first["trace_id"], 16), int(second["trace_id"], 16),
    ]  # fmt: skip
    assert first["span_id"] != second["span_id"]


async def test_without_tracing_rows_have_no_trace_and_no_middleware_is_there(
    panel: Panel, connection: asyncpg.Connection
) -> None:
    await panel.tasks.add_task(panel_tasks.add, 1).get_task_id()

    assert await connection.fetchval("SELECT trace FROM queued_tasks") is None
    assert tracing.run_in_span not in registered()
    assert tracing.log_fields() == {}


def test_nothing_of_opentelemetry_is_imported_unless_it_is_wanted() -> None:
    script = "import sys, fastedgy.queued_tasks; print('opentelemetry' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "False"


def test_without_opentelemetry_the_setting_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'fastedgy\[otel\]'"):
        tracing.instrument()


def test_the_span_is_around_all_other_middleware(spans: InMemorySpanExporter) -> None:
    @public
    async def inner(task: object, call_next: object) -> None: ...

    try:
        tracing.instrument(provider)
        assert next(iter(registered())) is tracing.run_in_span
        assert list(registered()).count(tracing.run_in_span) == 1
    finally:
        remove_middleware(inner)
