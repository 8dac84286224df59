"""The caller's own transaction: tasks that are committed, or undone, with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import HTTPException
from mail_samples import digest, send
from proxy import Proxy
from rows import count

from fastedgy.app import FastEdgy
from fastedgy.dependencies import Inject
from fastedgy.errors import InvalidTransition, ParentNotFound, TaskNotFound
from fastedgy.ids import new_id
from fastedgy.orm import Database, registry
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.queued_tasks.waiting import wait_all

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
async def notes(connection: asyncpg.Connection) -> None:
    """A table of the application's own."""
    await connection.execute("DROP TABLE IF EXISTS notes; CREATE TABLE notes (text text)")


def opened() -> Any:
    return registry.database.transaction(isolation_level="READ_COMMITTED")


async def note(text: str) -> None:
    await registry.database.execute(f"INSERT INTO notes VALUES ('{text}')")


async def written(connection: asyncpg.Connection) -> tuple[list[str], list[str]]:
    """The notes and the first arguments of the tasks."""
    texts = await connection.fetch("SELECT text FROM notes ORDER BY text")
    args = await connection.fetch("SELECT args ->> 0 AS text FROM queued_tasks ORDER BY text")
    return [row["text"] for row in texts], [row["text"] for row in args]


pytestmark = pytest.mark.usefixtures("notes")


# flush()


async def test_flush_writes_with_the_open_transaction(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    async with tasks:
        async with opened():
            await note("a")
            tasks.add_task(send, "a")
            await tasks.flush()
            assert await written(connection) == ([], [])
        assert await written(connection) == (["a"], ["a"])


async def test_flush_is_undone_with_the_transaction(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    async with tasks:
        with pytest.raises(ValueError, match="undo"):
            async with opened():
                await note("a")
                tasks.add_task(send, "a")
                await tasks.flush()
                raise ValueError("undo")
        tasks.add_task(send, "b")

    assert await written(connection) == ([], ["b"])


async def test_an_awaited_ref_is_written_with_the_open_transaction(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    async with tasks:
        with pytest.raises(ValueError, match="undo"):
            async with opened():
                ref = await tasks.add_task(send, "a")
                assert ref.id is not None
                raise ValueError("undo")

    assert await count(connection) == 0


@pytest.mark.parametrize("func", [send, digest], ids=["plain", "with a key"])
async def test_flush_uses_the_callers_own_connection(
    serve: Serve, connection: asyncpg.Connection, wire: Proxy, func: Any
) -> None:
    app = FastEdgy()

    @app.post("/add")
    async def add(
        tasks: QueuedTasks = Inject(QueuedTasks), database: Database = Inject(Database)
    ) -> None:
        async with database.transaction(isolation_level="READ_COMMITTED"):
            await database.execute("INSERT INTO notes VALUES ('a')")
            tasks.add_task(func, 1)
            await tasks.flush()

    async with serve(app, wire.url) as client:
        assert (await client.post("/add")).status_code == 200

    transactions = await connection.fetch(
        "SELECT xmin::text FROM queued_tasks UNION SELECT xmin::text FROM notes"
    )
    assert len(transactions) == 1


async def test_a_parent_written_in_the_same_transaction_is_found(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    async with tasks, opened():
        parent = await tasks.add_task(send, "a")
        await tasks.add_task(send, "b", parent=parent)

    assert await count(connection, "state = 'waiting'") == 1


async def test_a_missing_parent_leaves_the_callers_transaction_usable(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    async with tasks, opened():
        tasks.add_task(send, "a", parent=new_id())
        with pytest.raises(ParentNotFound):
            await tasks.flush()
        await note("b")

    assert await written(connection) == (["b"], [])


async def test_waiting_inside_the_transaction_that_writes_is_refused(tasks: QueuedTasks) -> None:
    async with tasks, opened():
        with pytest.raises(InvalidTransition, match="Leave the transaction first"):
            await tasks.add_task(send, "a").wait(timeout=30)
        ref = tasks.add_task(send, "a")
        await tasks.flush()
        with pytest.raises(InvalidTransition, match="Leave the transaction first"):
            await ref.wait(timeout=30)
        with pytest.raises(InvalidTransition, match="Leave the transaction first"):
            await wait_all([ref], timeout=30)


# tasks.transaction()


async def test_a_block_is_written_with_its_transaction(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    async with tasks.transaction():
        await note("a")
        tasks.add_task(send, "a")
        assert await written(connection) == ([], [])

    assert await written(connection) == (["a"], ["a"])
    rows = await connection.fetch(
        "SELECT xmin::text FROM queued_tasks UNION SELECT xmin::text FROM notes"
    )
    assert len(rows) == 1


async def test_a_block_that_raises_leaves_neither_rows_nor_tasks(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    with pytest.raises(ValueError, match="undo"):
        async with tasks.transaction():
            await note("a")
            ref = tasks.add_task(send, "a")
            raise ValueError("undo")

    assert await written(connection) == ([], [])
    with pytest.raises(TaskNotFound):
        await tasks.ref(ref.id or "").get_state()


@pytest.mark.parametrize("inner_fails", [False, True])
@pytest.mark.parametrize("outer_fails", [False, True])
async def test_a_nested_block_that_is_undone_drops_its_own_tasks_only(
    tasks: QueuedTasks, connection: asyncpg.Connection, inner_fails: bool, outer_fails: bool
) -> None:
    async def block(name: str, fails: bool, inside: Callable[[], Any] | None = None) -> None:
        try:
            async with tasks.transaction():
                await note(f"{name} before")
                tasks.add_task(send, f"{name} before")
                if inside is not None:
                    await inside()
                await note(f"{name} later")
                tasks.add_task(send, f"{name} later")
                if fails:
                    raise ValueError
        except ValueError:
            pass

    async with tasks:
        tasks.add_task(send, "around")
        await block("outer", outer_fails, lambda: block("inner", inner_fails))

    kept = []
    if not outer_fails:
        kept += [] if inner_fails else ["inner before", "inner later"]
        kept += ["outer before", "outer later"]
    assert await written(connection) == (kept, sorted([*kept, "around"]))


async def test_a_block_joins_a_transaction_that_is_open(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    with pytest.raises(ValueError, match="undo"):
        async with opened():
            async with tasks.transaction():
                tasks.add_task(send, "a")
            raise ValueError("undo")

    assert await count(connection) == 0


async def test_a_block_in_a_route_that_fails_later_is_kept(
    serve: Serve, connection: asyncpg.Connection
) -> None:
    app = FastEdgy()

    @app.post("/add")
    async def add(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        tasks.add_task(send, "dropped with the route")
        async with tasks.transaction():
            await note("kept")
            tasks.add_task(send, "kept")
        raise HTTPException(418)

    async with serve(app) as client:
        assert (await client.post("/add")).status_code == 418

    assert await written(connection) == (["kept"], ["kept"])


async def test_a_block_whose_tasks_cannot_be_written_is_undone(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    with pytest.raises(ParentNotFound):
        async with tasks.transaction():
            await note("a")
            tasks.add_task(send, "a", parent=new_id())

    assert await written(connection) == ([], [])


async def test_a_parent_that_is_to_be_written_after_the_block_is_no_parent_yet(
    serve: Serve, connection: asyncpg.Connection
) -> None:
    app = FastEdgy()

    @app.post("/add")
    async def add(flush: bool, tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        parent = tasks.add_task(send, "a")
        if flush:
            await parent
        async with tasks.transaction():
            tasks.add_task(send, "b", parent=parent)

    async with serve(app) as client:
        assert (await client.post("/add", params={"flush": False})).status_code == 500
        assert await count(connection) == 0
        assert (await client.post("/add", params={"flush": True})).status_code == 200
        assert await count(connection) == 2


async def test_the_connection_is_as_before_after_a_block(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    async with tasks.transaction():
        tasks.add_task(send, "a")
    await note("by itself")

    assert await written(connection) == (["by itself"], ["a"])


async def test_blocks_of_two_tasks_at_once_do_not_meet(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    async def block(name: str) -> None:
        async with tasks.transaction():
            tasks.add_task(send, name)
            await asyncio.sleep(0)
            tasks.add_task(send, name)
            if name == "bad":
                raise ValueError

    await asyncio.gather(block("good"), block("bad"), return_exceptions=True)

    assert await written(connection) == ([], ["good", "good"])


async def test_a_connection_lost_at_the_commit_fails_the_route(
    serve: Serve, connection: asyncpg.Connection, wire: Proxy
) -> None:
    app = FastEdgy()

    @app.post("/add")
    async def add(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        async with tasks.transaction():
            await note("a")
            tasks.add_task(send, "a")
            wire.cut()

    async with serve(app, wire.url) as client:
        assert (await client.post("/add")).status_code == 500

    assert await written(connection) == ([], [])
