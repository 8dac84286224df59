"""Group commit: what several routes add at the same moment becomes rows in one statement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar

import asyncpg
import httpx
import pytest
from helpers import eventually
from mail_samples import digest, report, send
from proxy import Proxy
from rows import count

from fastedgy.app import FastEdgy
from fastedgy.dependencies import Inject, get_service
from fastedgy.queued_task import clear_all_hooks, on_post_create, on_pre_create
from fastedgy.queued_tasks import QueuedTasks, group_commit

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

GATE = 77
GUARD = f"""
CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.args ->> 0 LIKE 'held%' THEN PERFORM pg_advisory_xact_lock_shared({GATE}); END IF;
    IF NEW.args ->> 0 LIKE 'bad%' THEN RAISE EXCEPTION 'no such address'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON queued_tasks FOR EACH ROW EXECUTE FUNCTION guard();
"""


class Post:
    """An application with a route that adds a task, and its clients."""

    def __init__(self, client: httpx.AsyncClient, gate: asyncpg.Connection) -> None:
        self._client = client
        self._gate = gate

    def start(self, address: str, kind: str = "plain") -> asyncio.Task[int]:
        """Add a task in a route; the task's value is the status of its response."""
        return asyncio.create_task(self._post(address, kind))

    async def _post(self, address: str, kind: str) -> int:
        parameters = {"address": address, "kind": kind}
        return (await self._client.post("/add", params=parameters)).status_code

    async def held(self, address: str = "held") -> asyncio.Task[int]:
        """Start one, and return once its statement is at the gate."""
        started = self.start(address)
        await eventually(lambda: at_the_gate(self._gate))
        return started

    async def lined_up(self, *addresses: str, kind: str = "plain") -> list[asyncio.Task[int]]:
        """Start several, and return once all wait for the statement that is under way."""
        waiting = get_service(QueuedTasks)._here().commits._waiting
        before = len(waiting)
        started = [self.start(address, kind) for address in addresses]
        await eventually(lambda: all_there(len(waiting) - before, len(started)))
        return started


def all_there(found: int, wanted: int) -> None:
    assert found == wanted


async def at_the_gate(connection: asyncpg.Connection) -> None:
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    assert await connection.fetchval(locks) == 1


async def add(address: str, kind: str = "plain", tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
    if kind == "late":
        tasks.task(delay=60).add_task(send, address)
    elif kind == "keyed":
        tasks.add_task(digest, 1)
    elif kind == "many":
        tasks.add_tasks(report, [(number,) for number in range(group_commit.SMALL + 1)])
    else:
        tasks.add_task(send, address)


@pytest.fixture
async def gate(connection: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """A closed gate in the database: the rows of `held…` wait for it, `bad…` are refused."""
    await connection.execute(GUARD)
    await connection.execute("SELECT pg_advisory_lock($1)", GATE)
    try:
        yield connection
    finally:
        await connection.execute("SELECT pg_advisory_unlock_all()")
        await connection.execute("DROP TRIGGER guard ON queued_tasks; DROP FUNCTION guard()")


async def open_gate(gate: asyncpg.Connection) -> None:
    await gate.execute("SELECT pg_advisory_unlock($1)", GATE)


@asynccontextmanager
async def posting(
    serve: Serve, gate: asyncpg.Connection, url: str | None = None
) -> AsyncIterator[Post]:
    app = FastEdgy()
    app.post("/add")(add)
    async with serve(app, url) as client:
        yield Post(client, gate)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody gives up on a write that is under way."""
    monkeypatch.setattr(group_commit, "PATIENCE", 60.0)


async def transactions(connection: asyncpg.Connection, addresses: str) -> int:
    return int(
        await connection.fetchval(
            "SELECT count(DISTINCT xmin::text) FROM queued_tasks WHERE args ->> 0 LIKE $1",
            addresses,
        )
    )


async def test_what_comes_during_a_write_is_written_by_the_next_statement(
    serve: Serve, gate: asyncpg.Connection, wire: Proxy, patient: None
) -> None:
    async with posting(serve, gate, wire.url) as post:
        first = await post.held()
        others = await post.lined_up(*(f"a{number}" for number in range(10)))
        later = await post.lined_up("b1", "b2", kind="late")
        wire.reset()
        await open_gate(gate)
        assert set(await asyncio.gather(first, *others, *later)) == {200}

        [statement] = [text for text in wire.statements if "INSERT" in text]
        assert "INSERT INTO queued_tasks" in statement
    assert await count(gate) == 13
    assert await transactions(gate, "%") == 2
    assert await count(gate, "state = 'scheduled'") == 2


async def test_a_write_that_is_stuck_holds_nobody_up_for_long(
    serve: Serve, gate: asyncpg.Connection
) -> None:
    async with posting(serve, gate) as post:
        stuck = await post.held()
        others = [post.start(f"a{number}") for number in range(3)]
        async with asyncio.timeout(10):
            assert await asyncio.gather(*others) == [200, 200, 200]
            assert await post.start("b") == 200
        assert not stuck.done()
        assert await transactions(gate, "a%") == 1
        await open_gate(gate)
        assert await stuck == 200


async def test_one_that_cannot_be_written_fails_alone(
    serve: Serve, gate: asyncpg.Connection, patient: None
) -> None:
    async with posting(serve, gate) as post:
        first = await post.held()
        others = await post.lined_up("a1", "bad", "a2")
        await open_gate(gate)
        assert await asyncio.gather(first, *others) == [200, 200, 500, 200]
        assert await post.start("a3") == 200

    assert await count(gate, "args ->> 0 LIKE 'a%'") == 3
    assert await count(gate) == 4


async def test_after_a_lost_answer_each_is_written_once(
    serve: Serve, gate: asyncpg.Connection, wire: Proxy, patient: None
) -> None:
    async with posting(serve, gate, wire.url) as post:
        first = await post.held()
        others = await post.lined_up("a1", "a2", "a3")
        wire.lose_answer("task.args, task.kwargs")  # the statement of several rows
        await open_gate(gate)
        assert await asyncio.gather(first, *others) == [200, 200, 200, 200]
        assert wire.lost == 1

    assert await count(gate, "args ->> 0 LIKE 'a%'") == 3
    assert await transactions(gate, "a%") == 1


async def test_a_request_that_is_cancelled_takes_no_other_with_it(
    serve: Serve, gate: asyncpg.Connection, patient: None
) -> None:
    async with posting(serve, gate) as post:
        first = await post.held("held1")
        waiting, other = await post.lined_up("a1", "held2")
        waiting.cancel()
        await asyncio.wait([waiting])
        await open_gate(gate)
        assert [await first, await other] == [200, 200]

        # And now while they are being written.
        await gate.execute("SELECT pg_advisory_lock($1)", GATE)
        first = await post.held("held3")
        leaving, staying = await post.lined_up("held4", "held5")
        first.cancel()
        await eventually(lambda: at_the_gate(gate))
        leaving.cancel()
        await asyncio.wait([first, leaving])
        await open_gate(gate)
        assert await staying == 200

    # Their routes had returned: what they wanted written is.
    assert await count(gate) == 6


@pytest.mark.parametrize("kind", ["keyed", "many"])
async def test_what_may_wait_for_locks_or_takes_long_is_written_by_itself(
    serve: Serve, gate: asyncpg.Connection, patient: None, kind: str
) -> None:
    async with posting(serve, gate) as post:
        stuck = await post.held()
        async with asyncio.timeout(10):
            assert await post.start("a", kind) == 200
        await open_gate(gate)
        assert await stuck == 200


async def test_hooks_run_where_the_task_was_added(
    serve: Serve, gate: asyncpg.Connection, patient: None
) -> None:
    who: ContextVar[str] = ContextVar("who", default="nobody")
    heard: list[str] = []
    app = FastEdgy()

    @app.post("/add")
    async def add(address: str, tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        who.set(address)
        tasks.add_task(send, address)

    on_pre_create(lambda draft: heard.append(who.get()))
    on_post_create(lambda draft: heard.append(who.get()))
    try:
        async with serve(app) as client:
            post = Post(client, gate)
            first = await post.held()
            others = await post.lined_up("a1", "a2")
            assert sorted(heard) == ["a1", "a2", "held"]
            await open_gate(gate)
            assert await asyncio.gather(first, *others) == [200, 200, 200]
    finally:
        clear_all_hooks()
    assert sorted(heard) == ["a1", "a1", "a2", "a2", "held", "held"]
    assert await transactions(gate, "a%") == 1
