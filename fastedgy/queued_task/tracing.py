"""OpenTelemetry: spans from the code that adds a task to the one that runs it, and to its children.

Off until `instrument()` is called, which `QUEUE_TRACES=true` does at the application's start; then
nothing of OpenTelemetry is even imported. Which trace a task belongs to is in its row, as a W3C
traceparent. Who exports the spans is OpenTelemetry's business: set up a tracer provider.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fastedgy.errors import ConfigurationError
from fastedgy.queued_task.control import Retry, Snooze
from fastedgy.queued_task.middleware import CallNext, put_first, remove_middleware
from fastedgy.queued_task.running import TaskRun, current

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider

active = False
"""Whether spans are made: all that is looked at while they are not."""

_tracer: Tracer | None = None


class Traced(Protocol):
    """What is known of a task that is being added. `trace`: its traceparent."""

    id: Any
    trace: str | None

    @property
    def spec(self) -> Any: ...


def instrument(provider: TracerProvider | None = None) -> None:
    """Make spans from now on, with this provider or the one that is set globally.

    Calling it again changes the provider. Raises ConfigurationError where OpenTelemetry is not
    installed.
    """
    global active, _tracer
    try:
        from opentelemetry import trace
    except ImportError:
        raise ConfigurationError(
            "QUEUE_TRACES=true needs OpenTelemetry: pip install 'fastedgy[otel]'."
        ) from None
    _tracer = trace.get_tracer("fastedgy", tracer_provider=provider)
    put_first(run_in_span)
    active = True


def uninstrument() -> None:
    """Make no more spans."""
    global active, _tracer
    remove_middleware(run_in_span)
    active, _tracer = False, None


def mark(tasks: Sequence[Traced]) -> None:
    """Note in tasks that are added together which trace they belong to. Only while `active`."""
    if _tracer is None or not tasks:
        return
    from opentelemetry.trace import SpanKind

    spec = tasks[0].spec
    attributes = {
        "messaging.system": "fastedgy",
        "messaging.operation.type": "send",
        "messaging.destination.name": spec.queue,
        "task.name": spec.name,
    }
    if len(tasks) == 1:
        attributes["task.id"] = str(tasks[0].id)
    else:
        attributes["messaging.batch.message_count"] = len(tasks)
    span = _tracer.start_span(f"enqueue {spec.name}", kind=SpanKind.PRODUCER, attributes=attributes)
    traceparent = _traceparent(span)
    span.end()
    for task in tasks:  # one and the same text, which the store sends once for all
        task.trace = traceparent


async def run_in_span(task: TaskRun, call_next: CallNext) -> Any:
    """The middleware: each attempt is a span, a child of the one that added the task."""
    if _tracer is None:
        return await call_next(task)
    from opentelemetry.trace import SpanKind

    span = _tracer.start_span(
        f"task.{task.name}",
        context=_context(_trace_of(task)),
        kind=SpanKind.CONSUMER,
        attributes={
            "messaging.system": "fastedgy",
            "messaging.operation.type": "process",
            "messaging.destination.name": task.queue,
            "task.id": str(task.id),
            "task.name": task.name,
            "task.function": task.function,
            "task.attempt": task.attempt,
        },
    )
    from opentelemetry import context, trace

    token = context.attach(trace.set_span_in_context(span))
    try:
        value = await call_next(task)
    except BaseException as error:
        _note(span, error)
        raise
    else:
        span.set_attribute("task.outcome", "returned")
        return value
    finally:
        context.detach(token)
        span.end()


def log_fields() -> dict[str, Any]:
    """What log lines in JSON say of where they come from: the task, its attempt, its trace."""
    fields: dict[str, Any] = {}
    run = current.get()
    if run is not None:
        fields = {"task_id": str(run.id), "task": run.name, "attempt": run.attempt}
    trace_id = span_id = None
    if active:
        from opentelemetry import trace

        now = trace.get_current_span().get_span_context()
        if now.is_valid:
            trace_id, span_id = f"{now.trace_id:032x}", f"{now.span_id:016x}"
    if trace_id is None and run is not None and (traceparent := _trace_of(run)):
        parts = traceparent.split("-")
        trace_id = parts[1] if len(parts) == 4 else None
    if trace_id is not None:
        fields["trace_id"] = trace_id
    if span_id is not None:
        fields["span_id"] = span_id
    return fields


def _trace_of(run: TaskRun) -> str | None:
    extra = getattr(run, "extra", None)
    trace: str | None = getattr(extra, "trace", None)
    return trace


def _traceparent(span: Span) -> str | None:
    now = span.get_span_context()
    if not now.is_valid:
        return None
    return f"00-{now.trace_id:032x}-{now.span_id:016x}-{int(now.trace_flags):02x}"


def _context(traceparent: str | None) -> Context:
    """Where a task's span belongs. Never to what the worker itself happens to be in."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {"traceparent": traceparent} if traceparent else {}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _note(span: Span, error: BaseException) -> None:
    from opentelemetry.trace import Status, StatusCode

    if isinstance(error, Retry | Snooze):
        span.set_attribute("task.outcome", type(error).__name__.lower())
    elif isinstance(error, asyncio.CancelledError):
        span.set_attribute("task.outcome", "stopped")
    else:
        span.set_attribute("task.outcome", "raised")
        span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
