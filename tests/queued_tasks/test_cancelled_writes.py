"""A write that has begun is seen to its end, whatever becomes of who wanted it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import asyncpg
import httpx
import pytest
from helpers import eventually
from mail_samples import digest, send
from rows import count

from fastedgy.app import FastEdgy
from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.connections import Connections
from fastedgy.database import connect
from fastedgy.dependencies import Inject, get_service
from fastedgy.errors import InvalidContext
from fastedgy.ids import new_id
from fastedgy.queued_task import clear_all_hooks, on_post_create, on_pre_create
from fastedgy.queued_tasks import QueuedTasks

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
async def locked(queue_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A transaction that lets nobody write tasks; roll it back to let them."""
    connection = await connect(queue_url)
    await connection.execute("BEGIN; LOCK TABLE queued_tasks IN SHARE MODE")
    yield connection
    await connection.close()


@pytest.fixture(autouse=True)
def no_hooks() -> Any:
    yield
    clear_all_hooks()


def posting(route: Any) -> FastEdgy:
    app = FastEdgy()
    app.post("/add")(route)
    return app


@pytest.mark.parametrize("func", [send, digest], ids=["plain", "with a key"])
async def test_a_route_that_stops_waiting_still_has_its_tasks(
    serve: Serve, connection: asyncpg.Connection, locked: asyncpg.Connection, func: Any
) -> None:
    given_up = asyncio.Event()

    async def route(tasks: QueuedTasks = Inject(QueuedTasks)) -> str:
        tasks.add_task(send, "other")
        ref = tasks.add_task(func, 1)
        with suppress(TimeoutError):
            await ref.wait(timeout=0.1)
        given_up.set()
        return str(await ref.get_task_id())

    async with serve(posting(route)) as client:
        answer = asyncio.create_task(client.post("/add"))
        await given_up.wait()
        await locked.execute("ROLLBACK")
        response = await answer

    assert response.status_code == 200
    assert await count(connection) == 2
    assert await count(connection, f"id = '{response.json()}'") == 1


async def test_the_route_fails_if_what_it_stopped_waiting_for_does(
    serve: Serve, connection: asyncpg.Connection, locked: asyncpg.Connection
) -> None:
    async def route(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        tasks.add_task(send, "other")
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await tasks.add_task(send, "a", parent=new_id())
        await locked.execute("ROLLBACK")

    async with serve(posting(route)) as client:
        assert (await client.post("/add")).status_code == 500

    assert await count(connection) == 0


async def test_hooks_are_not_cut_off_with_who_waits_for_them(
    serve: Serve, connection: asyncpg.Connection
) -> None:
    called = []

    async def hook(task: Any) -> None:
        called.append(task.id)
        await asyncio.sleep(0.2)
        task.context["tenant"] = "acme"

    async def route(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        tasks.add_task(send, "a")
        with suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await tasks.add_task(send, "b")

    on_pre_create(hook)
    async with serve(posting(route)) as client:
        assert (await client.post("/add")).status_code == 200

    assert await count(connection, """context = '{"tenant": "acme"}'""") == 2
    assert len(called) == 2


async def test_what_was_given_up_and_fails_is_nobody_elses_error(
    tasks: QueuedTasks, connection: asyncpg.Connection, locked: asyncpg.Connection
) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await tasks.add_task(send, "a", parent=new_id())
    innocent = asyncio.ensure_future(_written(tasks.add_task(send, "innocent")))
    await asyncio.sleep(0)
    await locked.execute("ROLLBACK")
    await innocent

    assert await count(connection) == 1


async def _written(ref: Any) -> None:
    await ref


async def test_closing_waits_for_a_write_whose_caller_was_cancelled(
    tasks: QueuedTasks, connection: asyncpg.Connection, locked: asyncpg.Connection
) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await tasks.add_task(send, "a")
    closing = asyncio.create_task(tasks.close())
    await locked.execute("ROLLBACK")
    await closing

    assert await count(connection) == 1


# Hooks


@pytest.mark.parametrize("register", [on_pre_create, on_post_create])
@pytest.mark.parametrize("awaits", [False, True])
async def test_a_hook_may_add_tasks(
    serve: Serve, connection: asyncpg.Connection, register: Any, awaits: bool
) -> None:
    found = []

    async def hook(task: Any) -> None:
        if task.function.endswith(":send"):
            ref = get_service(QueuedTasks).add_task(digest, task.id.int % 1000)
            if awaits:
                found.append(await ref.get_state())

    async def route(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        tasks.add_task(send, "a")

    register(hook)
    async with serve(posting(route)) as client:
        async with asyncio.timeout(10):
            assert (await client.post("/add")).status_code == 200

    assert await count(connection) == 2
    assert found == (["enqueued"] if awaits else [])


async def test_what_a_hook_adds_is_written_after_its_caller_was_cancelled(
    tasks: QueuedTasks, connection: asyncpg.Connection, locked: asyncpg.Connection
) -> None:
    on_post_create(lambda task: task.name.endswith("send") and tasks.add_task(digest, 1))
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await tasks.add_task(send, "a")
    await locked.execute("ROLLBACK")
    await tasks.close()

    assert await count(connection) == 2


async def test_a_context_that_a_hook_has_made_unfit_fails_the_route(
    serve: Serve, connection: asyncpg.Connection
) -> None:
    async def route(tasks: QueuedTasks = Inject(QueuedTasks)) -> str:
        ref = tasks.add_task(send, "a")
        with pytest.raises(InvalidContext, match="on_pre_create"):
            await ref
        return await ref.get_state()

    on_pre_create(lambda task: task.context.update(it=object()))
    async with serve(posting(route)) as client:
        assert (await client.post("/add")).json() == "cancelled"

    assert await count(connection) == 0


async def test_what_a_hook_adds_in_a_transaction_goes_with_it(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    on_post_create(lambda task: task.name.endswith("send") and tasks.add_task(digest, 1))
    with suppress(ZeroDivisionError):
        async with tasks.transaction():
            tasks.add_task(send, "a")
            raise ZeroDivisionError
    assert await count(connection) == 0

    async with tasks.transaction():
        tasks.add_task(send, "a")
    assert await count(connection) == 2


async def test_hooks_run_once_where_the_database_is_away_at_first(
    queue_url: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def hook(task: Any) -> None:
        seen.append(task.id)
        task.context["tenant"] = "acme"

    on_pre_create(hook)
    on_post_create(lambda task: seen.append(task.id))
    config = QueuedTaskConfig()
    away = Connections("postgres://127.0.0.1:1/a", Settings(), config)
    tasks = QueuedTasks(away, config)
    ref = tasks.add_task(send, "a")
    await eventually(lambda: tried(seen))
    monkeypatch.setattr(tasks, "_connections", Connections(queue_url, Settings(), config))
    await ref
    await tasks.close()

    assert seen == [ref.id, ref.id]
    assert await count(connection, """context = '{"tenant": "acme"}'""") == 1


def tried(seen: list[Any]) -> None:
    assert seen


# Event loops


async def test_a_sync_route_may_run_a_loop_of_its_own(
    serve: Serve, connection: asyncpg.Connection
) -> None:
    app = FastEdgy()

    @app.post("/sync")
    def sync(tasks: QueuedTasks = Inject(QueuedTasks)) -> str:
        async def add() -> str:
            ref = await get_service(QueuedTasks).add_task(send, "own loop")
            return await ref.get_state()

        return asyncio.run(add())

    @app.post("/plain")
    async def plain(tasks: QueuedTasks = Inject(QueuedTasks)) -> str:
        return await (await tasks.add_task(send, "plain")).get_state()

    async with serve(app) as client:
        async with asyncio.timeout(30):
            answers = await asyncio.gather(
                *[client.post("/sync" if number % 3 == 0 else "/plain") for number in range(60)]
            )

    assert [answer.json() for answer in answers] == ["enqueued"] * 60
    assert await count(connection) == 60


async def test_a_loop_of_its_own_may_write_beside_itself_and_give_up(
    serve: Serve, connection: asyncpg.Connection, locked: asyncpg.Connection
) -> None:
    app = FastEdgy()

    @app.post("/sync")
    def sync(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        async def give_up() -> None:
            ref = tasks.add_task(send, "given up")
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await asyncio.gather(_written(ref), _written(ref))

        async def beside() -> None:
            ref = tasks.add_task(send, "beside")
            await asyncio.gather(_written(ref), _written(ref))

        asyncio.run(give_up())
        locking.call_soon_threadsafe(given_up.set)
        asyncio.run(beside())
        asyncio.run(beside())

    locking, given_up = asyncio.get_running_loop(), asyncio.Event()
    async with serve(app) as client:
        answer = asyncio.create_task(client.post("/sync"))
        await given_up.wait()
        await locked.execute("ROLLBACK")
        assert (await answer).status_code == 200

    assert await count(connection, "args ->> 0 = 'given up'") == 1
    assert await count(connection) == 3
