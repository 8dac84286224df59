"""`durable=True`: the row beside the task, in every timing mode, and who goes on when we stop."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import asyncpg
import durable_tasks
import httpx
import pytest
from durable_tasks import fail, fail_twice, hold, later, on_error, pointless, said, work
from fastapi import FastAPI, HTTPException
from helpers import eventually

from fastedgy import connections
from fastedgy.app import FastEdgy, running
from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.dependencies import get_container_service, get_service
from fastedgy.errors import (
    ConfigurationError,
    InvalidArguments,
    InvalidFunction,
    InvalidOption,
    TaskCancelled,
)
from fastedgy.ids import new_id
from fastedgy.models.tables import Tables
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.store import overview
from fastedgy.store.insert import insert
from fastedgy.store.newtask import NewTask, Spec
from fastedgy.tasks import Task, TaskConfig, Tasks, TasksScheduler, add_tasks
from fastedgy.tasks.install import runner_of
from fastedgy.testing import tasks_over
from fastedgy.worker.assignment import Assignment
from fastedgy.worker.completer import Completer
from fastedgy.worker.report import Report
from fastedgy.worker.worker import Worker

FAST = QueuedTaskConfig(heartbeat=0.2, lease=6, fallback_polling_interval=0.2)

Route = Callable[[TasksScheduler], Awaitable[Any]]


@pytest.fixture(autouse=True)
def fresh() -> None:
    get_container_service().reset()
    said.clear()
    durable_tasks.gates.clear()


class Shop:
    """An application whose route does what the test wants."""

    def __init__(self, url: str, connection: asyncpg.Connection) -> None:
        self.url = url
        self.connection = connection
        self.app = FastEdgy(settings=Settings(database_url=url), queue=FAST)
        self.route: Route | None = None

        @self.app.post("/")
        async def act(tasks: Tasks) -> None:
            assert self.route is not None
            await self.route(tasks)

        @self.app.post("/sync")
        def act_in_thread(tasks: Tasks) -> None:
            tasks.task(durable=True).schedule(work, 1)
            tasks.after_response.task(durable=True).schedule(work, 2)

    async def post(self, route: Route, path: str = "/") -> int:
        self.route = route
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            return (await client.post(path)).status_code

    async def rows(self) -> list[Any]:
        return list(await self.connection.fetch("SELECT * FROM queued_tasks ORDER BY id"))

    async def states(self) -> list[str]:
        return [row["state"] for row in await self.rows()]

    async def ended(self, *states: str) -> list[Any]:
        """Wait until the rows are in these states."""

        async def check() -> list[Any]:
            assert await self.states() == list(states)
            return await self.rows()

        return await eventually(check)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        """A worker in this process. It runs in an application of its own."""
        async with running(
            FastAPI(), settings=Settings(database_url=self.url), queue=FAST
        ) as queue:
            worker = Worker(
                Assignment(concurrency=20), self.url, FAST, queue, Tables(), Report(None)
            )
            working = asyncio.create_task(worker.run())
            yield worker
            worker.stop()
            await asyncio.wait_for(working, 30)


@pytest.fixture
async def shop(database_url: str, connection: asyncpg.Connection) -> Shop:
    return Shop(database_url, connection)


@pytest.mark.parametrize("moment", ["now", "after_route", "after_response"])
async def test_a_row_says_what_a_durable_task_does(shop: Shop, moment: str) -> None:
    durable_tasks.gates["here"] = asyncio.Event()
    tasks: list[Task[..., Any]] = []

    async def route(scheduler: TasksScheduler) -> None:
        at = scheduler if moment == "now" else getattr(scheduler, moment)
        tasks.append(at.task(durable=True, name="holding").schedule(hold, "here"))

    async with running(shop.app):
        assert await shop.post(route) == 200
        await eventually(lambda: _holds(said == [("began", "here")]))
        [row] = await shop.rows()
        [owner] = await shop.connection.fetch("SELECT * FROM queued_task_workers")
        assert (row["state"], row["run"], row["attempt"]) == ("doing", 1, 1)
        assert (row["name"], row["function"]) == ("holding", "durable_tasks:hold")
        assert row["worker_id"] == owner["id"]
        assert (owner["state"], owner["concurrency"]) == ("running", 0)
        durable_tasks.gates["here"].set()
        assert await tasks[0].wait(30) == "here"
        [row] = await shop.ended("done")
        assert (row["result"], row["attempt"], row["losses"]) == ('"here"', 1, 0)
    [owner] = await shop.connection.fetch("SELECT * FROM queued_task_workers")
    assert owner["state"] == "stopped"


async def test_its_row_goes_out_with_the_routes_other_rows(shop: Shop) -> None:
    async def route(tasks: TasksScheduler) -> None:
        queue = get_service(QueuedTasks)
        queue.add_task(work, 1)
        tasks.after_response.task(durable=True, name="second").schedule(work, 2)
        tasks.after_route.task(durable=True).schedule(work, 3)
        assert await shop.states() == []

    async with running(shop.app):
        await shop.connection.execute(
            "ALTER TABLE queued_tasks ADD COLUMN inserted_by xid8 DEFAULT pg_current_xact_id()"
        )
        assert await shop.post(route) == 200
        rows = await shop.ended("enqueued", "done", "done")
    assert len({row["inserted_by"] for row in rows}) == 1
    assert said == [("work", 3), ("work", 2)]


async def test_a_route_that_raises_leaves_the_immediate_ones_only(shop: Shop) -> None:
    async def route(tasks: TasksScheduler) -> None:
        tasks.task(durable=True).schedule(work, 1)
        tasks.after_route.task(durable=True).schedule(work, 2)
        tasks.after_response.task(durable=True).schedule(work, 3)
        raise HTTPException(409)

    async with running(shop.app):
        assert await shop.post(route) == 409
        await tasks_over(shop.app)
        await shop.ended("done")
    assert said == [("work", 1)]


async def test_a_row_that_was_flushed_before_its_route_raised_is_cancelled(shop: Shop) -> None:
    async def route(tasks: TasksScheduler) -> None:
        tasks.after_route.task(durable=True).schedule(work, 2)
        await get_service(QueuedTasks).flush()
        assert await shop.states() == ["doing"]
        raise HTTPException(409)

    async with running(shop.app):
        assert await shop.post(route) == 409
        await shop.ended("cancelled")
    assert said == []


async def test_from_a_sync_route(shop: Shop) -> None:
    async def unused(tasks: TasksScheduler) -> None: ...

    async with running(shop.app):
        assert await shop.post(unused, "/sync") == 200
        await shop.ended("done", "done")
    assert sorted(said) == [("work", 1), ("work", 2)]


async def test_progress_logs_and_the_result_are_in_the_row(shop: Shop) -> None:
    async def route(tasks: TasksScheduler) -> None:
        tasks.task(durable=True).schedule(work, 4)

    async with running(shop.app):
        await shop.post(route)
        [row] = await shop.ended("done")
    assert (row["context"], row["result"]) == ('{"percent": 100}', "8")
    assert row["date_enqueued"] <= row["date_started"] <= row["date_ended"]
    lines = await shop.connection.fetch("SELECT message FROM queued_task_logs")
    assert [line["message"] for line in lines] == ["worked"]


async def test_retries_and_the_error_handler_run_here_and_are_counted_in_the_row(
    shop: Shop,
) -> None:
    async def route(tasks: TasksScheduler) -> None:
        tasks.task(durable=True, retries=2, backoff=0.001).schedule(fail_twice)
        tasks.task(durable=True, retries=1, backoff=0.001, on_error=on_error, name="mail").schedule(
            fail, "no such address"
        )
        tasks.task(durable=True, retries=5).schedule(pointless)

    async with running(shop.app):
        await shop.post(route)
        through, failed, discarded = await shop.ended("done", "failed", "failed")
    assert (through["attempt"], through["result"]) == (3, '"through"')
    assert (failed["attempt"], failed["error_type"]) == (2, "ValueError")
    assert "no such address" in failed["error_traceback"]
    assert discarded["error_type"] == "Discard"
    assert ("handler", "mail", ("no such address",), "no such address") in said


async def test_a_snoozed_one_goes_to_the_workers(shop: Shop) -> None:
    async def route(tasks: TasksScheduler) -> None:
        tasks.task(durable=True).schedule(later)

    async with running(shop.app):
        await shop.post(route)
        [row] = await shop.ended("scheduled")
    assert row["attempt"] == 0


async def test_it_can_be_cancelled_like_any_other_task(shop: Shop) -> None:
    durable_tasks.gates["here"] = asyncio.Event()
    tasks: list[Task[..., Any]] = []

    async def route(scheduler: TasksScheduler) -> None:
        tasks.append(scheduler.task(durable=True, shield=True).schedule(hold, "here"))

    async with running(shop.app) as queue:
        await shop.post(route)
        await eventually(lambda: _holds(said == [("began", "here")]))
        assert await queue.cancel(tasks[0].run.id)
        with pytest.raises(TaskCancelled, match="on request"):
            await tasks[0].wait(30)
        await shop.ended("cancelled")


async def test_a_shutdown_hands_over_at_no_cost(shop: Shop) -> None:
    durable_tasks.gates["long"] = asyncio.Event()
    tasks: list[Task[..., Any]] = []

    async def route(scheduler: TasksScheduler) -> None:
        tasks.append(scheduler.task(durable=True, retries=3).schedule(hold, "long"))

    async with running(shop.app):
        await shop.post(route)
        await eventually(lambda: _holds(said == [("began", "long")]))
    [row] = await shop.rows()
    assert (row["state"], row["attempt"], row["losses"]) == ("enqueued", 0, 0)
    with pytest.raises(TaskCancelled, match="shut down"):
        await tasks[0].wait()

    durable_tasks.gates.clear()
    async with shop.worker():
        [row] = await shop.ended("done")
    assert (row["attempt"], row["run"]) == (1, 2)
    assert said == [("began", "long"), ("began", "long"), ("ended", "long")]


async def test_shielded_ones_end_here(shop: Shop) -> None:
    durable_tasks.gates["long"] = asyncio.Event()

    async def route(tasks: TasksScheduler) -> None:
        tasks.task(durable=True, shield=True).schedule(hold, "long")
        tasks.task(durable=True).schedule(hold, "plain")
        asyncio.get_running_loop().call_later(0.1, durable_tasks.gates["long"].set)

    async with running(shop.app):
        await shop.post(route)
        await eventually(lambda: _holds(("ended", "plain") in said))
    assert await shop.states() == ["done", "done"]


async def test_the_error_handler_runs_where_the_last_attempt_runs(shop: Shop) -> None:
    durable_tasks.gates["x"] = asyncio.Event()

    async def route(tasks: TasksScheduler) -> None:
        tasks.after_response.task(durable=True, limit=1, name="mail", on_error=on_error).schedule(
            hold, "x"
        )
        tasks.after_response.task(durable=True, limit=1, name="mail", on_error=on_error).schedule(
            fail, "by the worker"
        )

    async with running(shop.app):
        await shop.post(route)
        await eventually(lambda: _holds(said == [("began", "x")]))
    assert await shop.states() == ["enqueued", "enqueued"]
    durable_tasks.gates.clear()
    async with shop.worker():
        await shop.ended("done", "failed")
    assert ("handler", "mail", ("by the worker",), "by the worker") in said


async def test_without_the_queue_it_is_a_clear_error() -> None:
    app = FastAPI()
    add_tasks(app, config=TaskConfig(durable=True))
    async with app.router.lifespan_context(app):
        tasks = TasksScheduler(runner_of(app))
        with pytest.raises(ConfigurationError, match="durable=True needs the queue"):
            tasks.schedule(work, 1)
        assert await tasks.task(durable=False).schedule(work, 1).wait(30) == 2


async def test_what_cannot_travel_is_refused_at_once(shop: Shop) -> None:
    async def nested() -> None: ...

    async with running(shop.app):
        tasks = TasksScheduler(runner_of(shop.app)).task(durable=True)
        with pytest.raises(InvalidFunction):
            tasks.schedule(nested)
        with pytest.raises(InvalidArguments):
            tasks.schedule(work, object())  # type: ignore[arg-type]
        with pytest.raises((InvalidFunction, InvalidOption)):
            TasksScheduler(runner_of(shop.app)).task(durable=True, on_error=nested).schedule(
                work, 1
            )
        await tasks_over(shop.app)
    assert await shop.rows() == []


async def test_the_loops_of_the_owner_have_nothing_of_the_request_that_needed_it_first(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_request: ContextVar[str | None] = ContextVar("of_request", default=None)
    seen: list[str | None] = []
    run, connect = Completer.run, connections.connect

    async def looking_run(self: Completer) -> None:
        seen.append(of_request.get())
        await run(self)

    async def looking_connect(*args: Any, **kwargs: Any) -> asyncpg.Connection:
        seen.append(of_request.get())
        return await connect(*args, **kwargs)

    monkeypatch.setattr(Completer, "run", looking_run)
    monkeypatch.setattr(connections, "connect", looking_connect)

    async def route(scheduler: TasksScheduler) -> None:
        of_request.set("its customer")
        scheduler.after_response.task(durable=True).schedule(work, 1)

    async with running(shop.app):
        assert await shop.post(route) == 200
        await shop.ended("done")
        assert seen == [None, None]


async def test_the_counts_of_all_names_are_in_the_process_row(shop: Shop) -> None:
    async def route(tasks: TasksScheduler) -> None:
        tasks.task(durable=True, name="mail").schedule(work, 1)
        tasks.task(name="plain").schedule(work, 1)

    async def told() -> list[overview.WorkerRow]:
        found = await overview.list_workers(shop.connection, Tables())
        counts = overview.in_process(found)
        assert {name: one["done"] for name, one in counts.items()} == {"mail": 1, "plain": 1}
        return found

    async with running(shop.app):
        await shop.post(route)
        [process] = await eventually(told)
        status = await asyncio.to_thread(_status, shop.url)
    assert process.is_web
    assert not process.serves("default")
    assert status["in_process"]["mail"]["done"] == 1
    assert status["workers"]["processes"] == 0


def _status(url: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "fastedgy", "queue", "status", "--json"],
        env={**os.environ, "DATABASE_URL": url, "QUEUE_LEASE": "15"},
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return json.loads(done.stdout)


async def test_owned_rows_may_be_written_again_after_a_lost_answer(
    connection: asyncpg.Connection,
) -> None:
    spec = Spec("mail", "shop:mail", owner=new_id())
    other = Spec("other", "shop:other")
    rows = [NewTask(new_id(), spec), NewTask(new_id(), spec, context='{"a": 1}')]
    for again in (False, True):
        await insert(connection, Tables(), rows, channel="bell", again=again)
    mixed = [NewTask(new_id(), spec), NewTask(new_id(), other)]
    for again in (False, True):
        await insert(connection, Tables(), mixed, channel="bell", again=again)
    found = await connection.fetch("SELECT * FROM queued_tasks ORDER BY id")
    assert [row["state"] for row in found] == ["doing", "doing", "doing", "enqueued"]
    assert [row["worker_id"] for row in found] == [spec.owner] * 3 + [None]
    assert [(row["run"], row["attempt"]) for row in found] == [(1, 1)] * 3 + [(0, 0)]


async def test_a_process_that_was_declared_lost_stops_and_starts_anew(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    durable_tasks.gates["here"] = asyncio.Event()
    tasks: list[Task[..., Any]] = []

    async def route(scheduler: TasksScheduler) -> None:
        tasks.append(scheduler.task(durable=True).schedule(hold, "here"))

    async def again(scheduler: TasksScheduler) -> None:
        tasks.append(scheduler.task(durable=True).schedule(work, 1))

    async with running(shop.app):
        await shop.post(route)
        await eventually(lambda: _holds(said == [("began", "here")]))
        await shop.connection.execute(
            "UPDATE queued_task_workers SET state = 'lost', date_ended = now()"
        )
        with pytest.raises(TaskCancelled, match="lease"):
            await tasks[0].wait(30)
        await shop.post(again)
        assert await tasks[1].wait(30) == 2
        await eventually(lambda: _holds(runner_of(shop.app).owner is not None))
    states = await shop.connection.fetch("SELECT state FROM queued_task_workers ORDER BY id")
    assert [row["state"] for row in states] == ["lost", "stopped"]
    assert "was declared lost" in caplog.text


async def test_a_task_of_the_queue_may_follow_a_durable_one(shop: Shop) -> None:
    async def route(tasks: TasksScheduler) -> None:
        first = tasks.after_response.task(durable=True).schedule(work, 1)
        get_service(QueuedTasks).add_task(work, 2, parent=first.run.id)

    async with running(shop.app):
        assert await shop.post(route) == 200
        await shop.ended("done", "enqueued")


def _holds(fact: bool) -> None:
    assert fact
