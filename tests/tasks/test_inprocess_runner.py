"""Many tasks: limits, backlogs, moments that are over, and the shutdown."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI
from helpers import eventually

from fastedgy.errors import InvalidTransition, TaskCancelled
from fastedgy.tasks import (
    Task,
    TaskBacklogFull,
    TaskConfig,
    TaskMomentOver,
    TasksNotRunning,
    TasksScheduler,
    add_tasks,
    task_counts,
)
from fastedgy.tasks.install import runner_of
from fastedgy.testing import tasks_over


class Gate:
    """Tasks that run until it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.inside = 0
        self.most = 0

    async def __call__(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.opened.wait()
        finally:
            self.inside -= 1


async def nothing() -> None:
    return


@asynccontextmanager
async def running(config: TaskConfig | None = None) -> AsyncIterator[TasksScheduler]:
    app = FastAPI()
    add_tasks(app, config=config)
    async with app.router.lifespan_context(app):
        yield TasksScheduler(runner_of(app))


async def test_a_limit_holds_back_what_is_too_much(tasks: TasksScheduler, app: FastAPI) -> None:
    gate = Gate()
    scheduled = [tasks.task(name="call", limit=2).schedule(gate) for _ in range(5)]
    tasks.task(name="other").schedule(nothing)
    await eventually(lambda: _holds(gate.inside == 2))
    assert [task.state for task in scheduled] == ["running"] * 2 + ["waiting"] * 3
    gate.opened.set()
    await tasks_over(app)
    assert gate.most == 2
    assert task_counts(app)["call"].done == 5


async def test_a_backlog_that_is_full_refuses_with_a_clear_error(
    tasks: TasksScheduler, app: FastAPI
) -> None:
    gate = Gate()
    call = tasks.task(name="call", limit=1, backlog=2)
    for _ in range(3):
        call.schedule(gate)
    with pytest.raises(TaskBacklogFull, match="2 in-process tasks of call wait already"):
        call.schedule(gate)
    later = tasks.after_response.task(name="call", limit=1, backlog=2)
    with pytest.raises(TaskBacklogFull):
        later.schedule(gate)
    assert task_counts(app)["call"].refused == 2
    gate.opened.set()
    await tasks_over(app)
    later.schedule(gate)
    tasks.after_route._take()
    tasks._response_over()
    await tasks_over(app)
    assert task_counts(app)["call"].done == 4


async def test_tasks_of_a_moment_to_come_count_as_waiting(
    tasks: TasksScheduler, app: FastAPI
) -> None:
    later = tasks.after_route.task(name="call", limit=1, backlog=1)
    later.schedule(nothing)
    later.schedule(nothing)
    with pytest.raises(TaskBacklogFull):
        later.schedule(nothing)
    await tasks._route_over()
    await tasks_over(app)
    assert task_counts(app)["call"].done == 2


async def test_a_moment_that_is_over_takes_no_more_tasks(
    tasks: TasksScheduler, app: FastAPI
) -> None:
    await tasks._route_over()
    with pytest.raises(TaskMomentOver, match=r"tasks\.after_route, but that moment is over"):
        tasks.after_route.schedule(nothing)
    tasks.after_response.schedule(nothing)
    tasks._response_over()
    with pytest.raises(TaskMomentOver, match=r"tasks\.after_response"):
        tasks.after_response.task(name="late").schedule(nothing)
    await tasks.schedule(nothing).wait(30)
    await tasks_over(app)


async def test_waiting_in_the_route_for_what_follows_it_is_an_error(app: FastAPI) -> None:
    tasks = TasksScheduler(runner_of(app))
    task = tasks.after_response.schedule(nothing)
    with pytest.raises(InvalidTransition, match="would never end"):
        await task.wait()
    waiting = asyncio.create_task(task.wait(30))  # another asyncio task may well wait
    await asyncio.sleep(0)
    await tasks._route_over()
    tasks._response_over()
    await waiting


async def test_what_a_route_that_raised_had_scheduled_is_cancelled(
    tasks: TasksScheduler, app: FastAPI
) -> None:
    task = tasks.after_route.schedule(nothing)
    tasks._drop()
    assert task.state == "cancelled"
    with pytest.raises(TaskCancelled, match="its route raised"):
        await task.wait(1)
    await tasks_over(app)


async def test_a_shutdown_cancels_plain_tasks_and_waits_for_shielded_ones() -> None:
    gate, order = Gate(), list[str]()

    async def shielded() -> str:
        await gate.opened.wait()
        order.append("shielded")
        return "through"

    async def plain() -> None:
        try:
            await gate.opened.wait()
        except asyncio.CancelledError:
            order.append("plain cancelled")
            gate.opened.set()
            raise

    async with running() as tasks:
        done = tasks.task(shield=True).schedule(shielded)
        stopped = tasks.schedule(plain)
    assert order == ["plain cancelled", "shielded"]
    assert await done.wait() == "through"
    with pytest.raises(TaskCancelled, match="the application shut down"):
        await stopped.wait()


async def test_the_shield_covers_the_error_handler() -> None:
    handled = []

    async def fail_later() -> None:
        await asyncio.sleep(0.01)
        raise ValueError("no")

    async def handler(task: Task, error: Exception) -> None:
        await asyncio.sleep(0.01)
        handled.append(str(error))

    async with running() as tasks:
        tasks.task(shield=True, on_error=handler).schedule(fail_later)
    assert handled == ["no"]


async def test_the_shutdown_says_by_name_what_it_gave_up(caplog: pytest.LogCaptureFixture) -> None:
    async with running(TaskConfig(shutdown_timeout=0.02)) as tasks:
        task = tasks.task(name="payment_7", shield=True).schedule(Gate())
    assert "given up, as they did not end within 0.02 s of the shutdown: payment_7" in caplog.text
    assert task.state == "cancelled"


async def test_the_shutdown_does_not_wait_for_a_thread_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = threading.Event()
    async with running() as tasks:
        task = tasks.task(name="thread").schedule(gate.wait, 10)
        await eventually(lambda: _holds(task.started.is_set()))
    assert task.state == "cancelled"
    assert "thread is a sync function: it was given up" in caplog.text
    gate.set()


async def test_waiting_tasks_end_with_the_application_unless_shielded() -> None:
    ran = []

    async def work(name: str) -> None:
        ran.append(name)
        await asyncio.sleep(0.01)

    async with running() as tasks:
        for name in ("first", "second"):
            tasks.task(name="shielded", limit=1, shield=True).schedule(work, name)
        plain = [tasks.task(name="plain", limit=1).schedule(work, "plain") for _ in range(2)]
    assert ran == ["first", "plain", "second"]
    assert [task.state for task in plain] == ["cancelled", "cancelled"]


async def test_a_task_scheduled_after_the_end_is_cancelled_or_refused() -> None:
    async with running() as tasks:
        pass
    assert tasks.schedule(nothing).state == "cancelled"

    async def leave() -> TasksScheduler:
        async with running() as tasks:
            return tasks

    dead = await asyncio.to_thread(lambda: asyncio.run(leave()))
    with pytest.raises(TasksNotRunning, match="has been shut down"):
        dead.schedule(nothing)


async def test_the_applications_own_resources_outlive_shielded_tasks() -> None:
    order = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        order.append("opened")
        yield {"database": "open"}
        order.append("closed")

    async def work() -> None:
        await asyncio.sleep(0.01)
        order.append("worked")

    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    async with app.router.lifespan_context(app) as state:
        assert state == {"database": "open"}
        TasksScheduler(runner_of(app)).task(shield=True).schedule(work)
    assert order == ["opened", "worked", "closed"]


async def test_the_helper_names_what_is_left(tasks: TasksScheduler, app: FastAPI) -> None:
    gate = Gate()
    tasks.task(name="endless").schedule(gate)
    with pytest.raises(TimeoutError, match="endless"):
        await tasks_over(app, timeout=0.01)
    gate.opened.set()
    await tasks_over(app)


def _holds(fact: bool) -> None:
    assert fact
