"""The API against its own description: made-up requests, and no answer that is not documented."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID

import panel_tasks
import pytest
import requests
import schemathesis
import uvicorn
from helpers import execute, wait_until
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from panels import WRITE, application, bearer
from schemathesis import GenerationMode, checks

from fastedgy.app import running
from fastedgy.config import Settings

STREAMS = ("/queue/api/events", "/queue/api/tasks/{id}/events")
EXAMPLES = 5
"""For each operation, of data that fits and of data that does not."""
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


def description() -> Any:
    """Without the streams, which have no end, and without the test's own route."""
    found = dict(application().openapi())
    left_out = (*STREAMS, "/sign-up")
    found["paths"] = {path: item for path, item in found["paths"].items() if path not in left_out}
    return found


def test_every_operation_is_described_with_examples_and_errors() -> None:
    for path, methods in description()["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["description"], where
            answers = operation["responses"]
            assert {"401", "422", "503"} <= answers.keys(), where
            good = next(answers[status] for status in ("200", "201", "204") if status in answers)
            if "204" not in answers:
                assert any("example" in body for body in good["content"].values()), where


def test_operations_have_ids_of_their_own() -> None:
    items = description()["paths"].values()
    ids = [operation["operationId"] for item in items for operation in item.values()]

    assert len(ids) == len(set(ids))


@contextmanager
def serving(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The application on a socket, in a thread of its own."""
    monkeypatch.setenv("DATABASE_URL", url)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(application(), ws="none", log_config=None, log_level="error")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()

    def started() -> None:
        assert server.started or not thread.is_alive()

    try:
        wait_until(started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


async def furnish(url: str) -> list[UUID]:
    """Tasks in several states, a schedule and a breaker; the ids of the tasks."""
    async with running(application(), settings=Settings(database_url=url)) as tasks:
        parent = tasks.add_task(panel_tasks.sign_up, "ann", "hunter2")
        refs = [
            parent,
            tasks.add_task(panel_tasks.add, 1, parent=parent),
            tasks.task(delay=60).add_task(panel_tasks.add, 1),
            tasks.add_task(panel_tasks.add, 2),
        ]
        ids = [await ref.get_task_id() for ref in refs]
        await tasks.cancel(ids[3])
    await execute(
        url,
        "INSERT INTO queued_task_breakers (name, state, opened_at)"
        " VALUES ('payments', 'open', now())",
        "INSERT INTO queued_task_schedules (name, function, every, next_due)"
        " VALUES ('nightly', 'panel_tasks:add', 3600, now() + interval '1 hour')",
    )
    return ids


def test_made_up_requests_get_documented_answers(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = asyncio.run(furnish(database_url))
    known = {"id": [str(id) for id in ids], "name": ["payments", "nightly", "mail"]}
    schema = schemathesis.openapi.from_dict(description())
    failures: list[str] = []
    with serving(database_url, monkeypatch) as site, requests.Session() as session:
        send = partial(
            schemathesis.Case.call_and_validate, base_url=site, headers=bearer(WRITE),
            timeout=30, session=session,
        )  # fmt: skip
        for found in schema.get_all_operations():
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                try:
                    ask(found.ok(), mode, send, known)
                except Unsatisfiable:  # there is nothing about it that could be wrong
                    continue
                except Exception as error:
                    failures.append(f"{found.ok().method} {found.ok().path}: {error}")

    assert not failures, "\n\n".join(failures)


def ask(
    operation: Any, mode: GenerationMode, send: Callable[..., Any], known: dict[str, list[str]]
) -> None:
    """Ask one operation a few times, mostly about things that are there."""
    # Without a worker the queue is unhealthy, which is 503 by design.
    wanted = CHECKS[1:] if operation.path == "/health/queue" else CHECKS
    number = count()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES, phases=[Phase.generate], database=None, deadline=None,
        derandomize=True, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def once(case: Any) -> None:
        turn = next(number)
        for name, values in known.items():
            if name in (case.path_parameters or {}) and turn % 5:
                case.path_parameters[name] = values[turn % len(values)]
        send(case, checks=wanted)

    once()
