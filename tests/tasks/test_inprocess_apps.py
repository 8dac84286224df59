"""In-process tasks in applications: installed once, twice, never, mounted, and over WebSockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse
from starlette.background import BackgroundTask

from fastedgy.app import FastEdgy, running
from fastedgy.config import Settings
from fastedgy.dependencies import Inject
from fastedgy.errors import ConfigurationError, FastAPITasksUninitializedAppError
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.tasks import TaskConfig, Tasks, TasksScheduler, add_tasks, task_counts
from fastedgy.testing import TasksOver, tasks_over

said: list[str] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    said.clear()


async def say(word: str) -> None:
    said.append(word)


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")


async def test_twice_on_one_app_is_a_clear_error() -> None:
    app = FastAPI()
    add_tasks(app)
    with pytest.raises(ConfigurationError, match=r"Call add_tasks\(app\) once"):
        add_tasks(app)
    with pytest.raises(ConfigurationError, match="a FastEdgy has them from the start"):
        add_tasks(FastEdgy())


async def test_never_is_a_clear_error_that_names_the_cure() -> None:
    app = FastAPI()

    @app.get("/")
    async def read(tasks: Tasks) -> None:
        tasks.schedule(say, "never")

    async with client_of(app) as client:
        with pytest.raises(FastAPITasksUninitializedAppError, match=r"Call add_tasks\(app\) right"):
            await client.get("/")


async def test_without_its_lifespan_too() -> None:
    app = FastAPI()
    add_tasks(app)

    @app.get("/")
    async def read(tasks: Tasks) -> None:
        tasks.schedule(say, "never")

    async with client_of(app) as client:
        with pytest.raises(FastAPITasksUninitializedAppError, match="run it with its lifespan"):
            await client.get("/")


async def test_after_its_start_is_too_late() -> None:
    app = FastAPI()
    async with client_of(app) as client:
        await client.get("/")
    with pytest.raises(ConfigurationError, match="came too late"):
        add_tasks(app)


async def test_several_apps_have_each_their_own() -> None:
    apps = [FastAPI(), FastAPI()]
    for app, name in zip(apps, ("left", "right"), strict=True):
        add_tasks(app, config=TaskConfig(name=name))

        @app.get("/")
        async def read(tasks: Tasks) -> None:
            tasks.schedule(say, tasks.config.name or "")

    left, right = apps
    async with left.router.lifespan_context(left):
        async with right.router.lifespan_context(right), client_of(right) as client:
            await client.get("/")
            await tasks_over(right)
            assert list(task_counts(right)) == ["right"]
        assert task_counts(left) == {}
        async with TasksOver(left), client_of(left) as client:
            await client.get("/")
    assert said == ["right", "left"]


async def test_a_mounted_app_uses_those_of_the_outer_one() -> None:
    outer, inner, own = FastAPI(), FastAPI(), FastAPI()
    add_tasks(outer)
    add_tasks(own)  # its lifespan is not run when it is mounted
    outer.mount("/inner", inner)
    outer.mount("/own", own)

    for app in (inner, own):

        @app.get("/")
        async def read(tasks: Tasks) -> None:
            tasks.after_response.schedule(say, "after")

    async with outer.router.lifespan_context(outer), client_of(outer) as client:
        await client.get("/inner/")
        await client.get("/own/")
        await tasks_over(outer)
    assert said == ["after", "after"]


async def test_the_same_tasks_reach_all_dependencies_of_a_route() -> None:
    app = FastAPI()
    add_tasks(app)
    seen: list[TasksScheduler] = []

    async def plain(tasks: Tasks) -> None:
        seen.append(tasks)
        tasks.after_response.schedule(say, "plain dependency")

    async def yielding(tasks: Tasks) -> AsyncIterator[None]:
        seen.append(tasks)
        yield
        tasks.after_route.schedule(say, "the end of a dependency")

    @app.get("/", dependencies=[Depends(plain), Depends(yielding, scope="function")])
    async def read(tasks: Tasks) -> None:
        seen.append(tasks)

    async with app.router.lifespan_context(app), TasksOver(app), client_of(app) as client:
        await client.get("/")
    assert len({id(tasks) for tasks in seen}) == 1
    assert said == ["the end of a dependency", "plain dependency"]


async def test_a_response_with_background_tasks_and_cookies_is_left_alone() -> None:
    app = FastAPI()
    add_tasks(app)

    @app.get("/")
    async def read(tasks: Tasks, response: Response) -> JSONResponse:
        tasks.after_response.schedule(say, "after")
        return JSONResponse({}, background=BackgroundTask(say, "background"))

    async with app.router.lifespan_context(app), TasksOver(app), client_of(app) as client:
        await client.get("/")
    assert said == ["background", "after"]


async def test_a_route_that_is_not_entered_runs_nothing() -> None:
    app = FastAPI()
    add_tasks(app)

    async def schedules(tasks: Tasks) -> None:
        tasks.after_route.schedule(say, "after")

    @app.get("/", dependencies=[Depends(schedules)])
    async def read(number: int) -> None: ...

    async with app.router.lifespan_context(app), TasksOver(app), client_of(app) as client:
        assert (await client.get("/?number=x")).status_code == 422
    assert said == []


async def test_middleware_may_replace_the_response() -> None:
    app = FastAPI()
    add_tasks(app)

    @app.middleware("http")
    async def around(request: Request, call_next: Any) -> Response:
        await call_next(request)
        return Response("another")

    @app.get("/")
    async def read(tasks: Tasks) -> None:
        tasks.after_response.schedule(say, "after")

    async with app.router.lifespan_context(app), TasksOver(app), client_of(app) as client:
        assert (await client.get("/")).text == "another"
    assert said == ["after"]


async def test_context_variables_of_the_route_reach_its_tasks() -> None:
    from contextvars import ContextVar

    request_id: ContextVar[str] = ContextVar("request_id", default="none")
    app = FastAPI()
    add_tasks(app)

    async def tell() -> None:
        said.append(request_id.get())

    @app.get("/")
    async def read(tasks: Tasks) -> None:
        request_id.set("r-1")
        tasks.schedule(tell)
        tasks.after_response.schedule(tell)

    @app.get("/sync")
    def read_in_thread(tasks: Tasks) -> None:
        request_id.set("r-2")
        tasks.schedule(tell)

    async with app.router.lifespan_context(app), TasksOver(app), client_of(app) as client:
        await client.get("/")
        await client.get("/sync")
    assert sorted(said) == ["r-1", "r-1", "r-2"]


async def test_over_a_websocket_the_moments_follow_its_end() -> None:
    app = FastAPI()
    add_tasks(app)

    @app.websocket("/ws")
    async def chat(websocket: WebSocket, tasks: Tasks) -> None:
        await websocket.accept()
        tasks.after_response.schedule(say, "after_response")
        tasks.after_route.schedule(say, "after_route")
        tasks.schedule(say, "now")
        await websocket.receive_text()
        said.append("received")
        await websocket.close()

    messages = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}]
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(0)
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {
        "type": "websocket", "path": "/ws", "raw_path": b"/ws", "headers": [], "root_path": "",
        "query_string": b"", "scheme": "ws", "client": ("a", 1), "server": ("b", 2),
        "subprotocols": [], "asgi": {"version": "3.0"},
    }  # fmt: skip
    async with app.router.lifespan_context(app), TasksOver(app):
        await app(scope, receive, send)
    assert sent == ["websocket.accept", "websocket.close"]
    assert said == ["now", "received", "after_route", "after_response"]


def other(number: int) -> int:
    return number


async def test_a_fastedgy_has_them_and_what_a_task_adds_to_the_queue_is_written_at_its_end(
    database_url: str, connection: Any
) -> None:
    app = FastEdgy(settings=Settings(database_url=database_url), tasks=TaskConfig(name="all"))

    async def adds(queue: QueuedTasks = Inject(QueuedTasks)) -> None:
        queue.add_task(other, 1)
        assert await connection.fetchval("SELECT count(*) FROM queued_tasks") == 0

    async def adds_and_fails(queue: QueuedTasks = Inject(QueuedTasks)) -> None:
        queue.add_task(other, 2)
        raise ValueError("nobody wants it now")

    @app.get("/")
    async def read(
        tasks: Tasks, queue: Annotated[QueuedTasks, Inject(QueuedTasks)], fail: bool = False
    ) -> None:
        done = tasks.schedule(adds_and_fails if fail else adds)
        with pytest.raises(ValueError, match="nobody") if fail else nullcontext():
            await done.wait(30)

    async with running(app), client_of(app) as client:
        assert (await client.get("/")).status_code == 200
        assert await connection.fetchval("SELECT count(*) FROM queued_tasks") == 1
        assert (await client.get("/?fail=1")).status_code == 200
        await tasks_over(app)
    assert await connection.fetchval("SELECT count(*) FROM queued_tasks") == 1
