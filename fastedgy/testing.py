"""For tests of code that schedules tasks."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from fastapi import FastAPI

from fastedgy.tasks.install import runner_of


async def tasks_over(app: FastAPI, timeout: float = 30.0) -> None:
    """Return when all in-process tasks of an application are over, with their error handlers and
    the tasks that they scheduled. For tests in the application's own event loop.

    Raises TimeoutError, which names what is left, after `timeout` seconds.
    """
    await runner_of(app).settled(timeout)


def wait_for_tasks(app: FastAPI, timeout: float = 30.0) -> None:
    """`tasks_over` for tests in another thread: with a TestClient, or a server in a thread."""
    runner = runner_of(app)
    if runner.is_here():
        raise RuntimeError(
            "wait_for_tasks() in the application's own event loop would never end: use "
            "`await tasks_over(app)`, or `async with TasksOver(app)`."
        )
    future = asyncio.run_coroutine_threadsafe(runner.settled(timeout), runner.loop)
    future.result(timeout + 5)


class TasksOver:
    """`with TasksOver(app): …`, or `async with`: at the end of the block all tasks are over.

    @pytest.fixture
    def client():
        with TestClient(app) as client, TasksOver(app):
            yield client
    """

    def __init__(self, app: FastAPI, timeout: float = 30.0) -> None:
        self._app = app
        self._timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            wait_for_tasks(self._app, self._timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await tasks_over(self._app, self._timeout)
