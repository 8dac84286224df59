"""Circuit breakers: closed, open, half open, by one row that all share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from uuid import uuid4

import asyncpg
import pytest
import step_tasks
from crew import Hire, reaches
from helpers import eventually
from rows import TABLES, add, take
from step_tasks import noted

from fastedgy.errors import (
    CircuitOpen,
    ConfigurationError,
    InvalidFunction,
    NotConnected,
    TaskFailed,
)
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.store import breakers
from fastedgy.workflows import CircuitBreaker
from fastedgy.workflows import breaker as breaker_module


@pytest.fixture
async def script(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[QueuedTasks]:
    """A script: breakers work there as in tasks and routes."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    async with QueuedTasks() as tasks:
        yield tasks


async def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError):
            async with breaker:
                raise ConnectionError("away")


async def rest(connection: asyncpg.Connection) -> None:
    """Let the rest of all open breakers be over."""
    await connection.execute("UPDATE queued_task_breakers SET opened_at = now() - interval '1 day'")


async def test_failures_in_a_row_open_it(
    script: QueuedTasks, connection: asyncpg.Connection
) -> None:
    breaker = CircuitBreaker("p", failure_threshold=3, reset_timeout=timedelta(seconds=30))
    assert breaker.state == "closed"
    await fail(breaker, 2)
    async with breaker:
        pass
    await fail(breaker, 2)
    assert breaker.state == "closed"
    await fail(breaker)
    assert breaker.state == "open"
    with pytest.raises(
        CircuitOpen, match="'p' is open .last error: ConnectionError: away."
    ) as refused:
        async with breaker:
            noted.append("never")
    assert 25 < refused.value.retry_after <= 30
    assert noted == []


async def test_after_its_rest_one_probe_at_a_time_goes_through(
    script: QueuedTasks, connection: asyncpg.Connection
) -> None:
    breaker = CircuitBreaker("p", failure_threshold=1, success_threshold=2)
    await fail(breaker)
    await rest(connection)
    probing, go_on = asyncio.Event(), asyncio.Event()

    async def probe() -> None:
        async with breaker:
            probing.set()
            await go_on.wait()

    first = asyncio.create_task(probe())
    await probing.wait()
    assert await breaker.get_state() == "half_open"
    for _ in range(3):
        with pytest.raises(CircuitOpen):
            await breaker.call(step_tasks.effect, "never")
    go_on.set()
    await first
    assert breaker.state == "half_open"
    assert await breaker.call(step_tasks.effect, "second") == "did second"
    assert breaker.state == "closed"
    assert noted == ["second"]


async def test_a_probe_that_fails_opens_it_again(
    script: QueuedTasks, connection: asyncpg.Connection
) -> None:
    breaker = CircuitBreaker("p", failure_threshold=1, success_threshold=1)
    await fail(breaker)
    await rest(connection)
    await fail(breaker)
    assert breaker.state == "open"
    with pytest.raises(CircuitOpen):
        async with breaker:
            pass


async def test_of_many_that_come_at_once_one_is_the_probe(
    script: QueuedTasks, connection: asyncpg.Connection
) -> None:
    breaker = CircuitBreaker("p", failure_threshold=1)
    await fail(breaker)
    await rest(connection)

    async def one() -> str:
        try:
            async with breaker:
                await asyncio.sleep(0.2)
        except CircuitOpen:
            return "refused"
        return "probe"

    assert sorted(await asyncio.gather(*(one() for _ in range(10)))) == ["probe"] + ["refused"] * 9


async def test_a_probe_that_was_stopped_makes_way_and_says_nothing(
    script: QueuedTasks, connection: asyncpg.Connection
) -> None:
    breaker = CircuitBreaker("p", failure_threshold=1, success_threshold=1)
    await fail(breaker)
    await rest(connection)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), breaker:
            await asyncio.sleep(30)
    assert await breaker.get_state() == "half_open"
    async with breaker:
        pass
    assert breaker.state == "closed"


async def test_what_a_call_says_that_began_before_it_opened_does_not_count(
    script: QueuedTasks, connection: asyncpg.Connection
) -> None:
    breaker = CircuitBreaker("p", failure_threshold=1)
    async with breaker:
        await fail(breaker)
    assert await breaker.get_state() == "open"
    with pytest.raises(ConnectionError):
        async with CircuitBreaker("q", failure_threshold=1):
            await CircuitBreaker("q").reset()
            raise ConnectionError
    assert await CircuitBreaker("q").get_state() == "open"


async def test_exceptions_that_are_ignored_are_answers(script: QueuedTasks) -> None:
    breaker = CircuitBreaker("p", failure_threshold=1, ignore=(LookupError,))
    with pytest.raises(KeyError):
        async with breaker:
            raise KeyError
    assert await breaker.get_state() == "closed"


async def test_it_can_be_reset_and_the_audit_knows_by_whom(
    script: QueuedTasks, connection: asyncpg.Connection
) -> None:
    breaker = CircuitBreaker("p", failure_threshold=1)
    await fail(breaker)
    await breaker.reset(actor="ann")
    assert breaker.state == "closed"
    async with breaker:
        pass
    row = await connection.fetchrow("SELECT actor, action, target FROM queued_task_audit")
    assert tuple(row) == ("ann", "breaker.reset", "breaker:p")
    assert await breakers.reset(connection, TABLES, "unknown", actor="ann") is None
    [listed] = await breakers.list_breakers(connection, TABLES)
    assert (listed.name, listed.state, listed.failure_threshold) == ("p", "closed", 1)


async def test_numbers_that_nobody_gives_are_those_of_the_row(script: QueuedTasks) -> None:
    assert (await CircuitBreaker("p").get_metrics()).failure_threshold == 5
    await CircuitBreaker("p", failure_threshold=7).get_metrics()
    metrics = await CircuitBreaker("p", success_threshold=3).get_metrics()
    assert (metrics.failure_threshold, metrics.success_threshold) == (7, 3)
    assert metrics.reset_timeout == 30


async def test_a_probe_outside_of_a_task_counts_as_long_as_it_gives_signs_of_life(
    script: QueuedTasks, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker_module, "PROBE", 0.3)
    breaker = CircuitBreaker("p", failure_threshold=1)
    await fail(breaker)
    await rest(connection)
    async with breaker:
        for _ in range(6):
            await asyncio.sleep(0.1)
            with pytest.raises(CircuitOpen):
                await breaker.enter()
    dead = await breakers.probe(
        connection, TABLES, "p", token=uuid4(), task_id=None, run=None, seconds=-1
    )
    assert dead is not None
    async with breaker:
        pass


async def test_a_probe_whose_task_was_taken_from_it_is_none_any_more(
    script: QueuedTasks, connection: asyncpg.Connection
) -> None:
    breaker = CircuitBreaker("p", failure_threshold=1)
    await fail(breaker)
    await rest(connection)
    id = await add(connection)
    [row] = await take(connection)
    token = uuid4()
    assert await breakers.probe(
        connection, TABLES, "p", token=token, task_id=id, run=row["run"], seconds=1_000
    )
    with pytest.raises(CircuitOpen):
        await breaker.enter()
    await connection.execute("UPDATE queued_tasks SET run = run + 1")
    await connection.execute(
        "UPDATE queued_task_breakers SET date_changed = now() - interval '2 seconds'"
    )
    async with breaker:
        pass
    # What it says when it comes back is not heard.
    assert await breakers.failed(connection, TABLES, "p", token=token, error="late") is None


@pytest.mark.parametrize(
    "words",
    [
        {"failure_threshold": 0}, {"success_threshold": 1.5}, {"failure_threshold": True},
        {"reset_timeout": 0}, {"reset_timeout": "soon"}, {"name": ""}, {"name": "x" * 201},
        {"name": "\x00"},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_when_it_is_declared(words: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        CircuitBreaker(**{"name": "p", **words})  # type: ignore[arg-type]


async def test_it_needs_async_functions_and_a_database() -> None:
    breaker = CircuitBreaker("p")
    with pytest.raises(InvalidFunction):
        breaker(lambda: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(NotConnected):
        async with breaker:
            pass


async def test_a_decorated_function_in_tasks(hire: Hire, connection: asyncpg.Connection) -> None:
    async with hire() as staff:
        for _ in range(2):
            with pytest.raises(TaskFailed):
                await staff.tasks.add_task(step_tasks.buy, True).wait(timeout=30)
        said = await staff.tasks.add_task(step_tasks.buy, False).wait(timeout=30)
        assert said.startswith("open for")
        await rest(connection)
        for _ in range(2):
            assert await staff.tasks.add_task(step_tasks.buy, False).wait(timeout=30) == "sold"
        assert step_tasks.shop.state == "closed"
    assert noted == ["asked"] * 4


async def test_a_task_behind_an_open_breaker_waits_and_spends_no_attempt(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    CircuitBreaker("guarded", failure_threshold=1, reset_timeout=0.5, success_threshold=1)
    async with hire() as staff:
        with pytest.raises(TaskFailed):
            await staff.tasks.add_task(step_tasks.behind_a_guard, True).wait(timeout=30)
        refs = [staff.tasks.add_task(step_tasks.behind_a_guard) for _ in range(3)]
        assert [await ref.wait(timeout=30) for ref in refs] == ["yes"] * 3
        for ref in refs:
            row = await reaches(connection, ref.id, "done")
            assert row["attempt"] == 1
    assert noted == ["called"] * 4


async def test_a_sync_task_goes_through_its_breaker_too(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    CircuitBreaker("guarded", failure_threshold=2, reset_timeout=60, success_threshold=1)
    async with hire(concurrency=1) as staff:
        add = partial(staff.tasks.add_task, step_tasks.sync_behind_a_guard)
        assert await add().wait(timeout=30) == "yes"
        staff.claims_ahead()  # what is claimed while the breaker is closed finds it open
        async with staff.tasks:  # all in one statement, and so in one claim
            fails = [add(True), add(True)]
            late = add()
        for ref in fails:
            with pytest.raises(TaskFailed) as failure:
                await ref.wait(timeout=30)
            assert failure.value.error_type == "ConnectionError"
        row = await reaches(connection, late.id, "scheduled")
        assert row["attempt"] == 0
        assert {entry["what"] for entry in json.loads(row["history"])} == {"snoozed"}
        assert noted == ["called"] * 3
        await rest(connection)
        assert await add().wait(timeout=30) == "yes"
    assert noted == ["called"] * 4


async def test_time_that_is_over_counts_as_a_failure(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    CircuitBreaker("guarded", failure_threshold=1, reset_timeout=30)
    async with hire() as staff:
        maker = staff.tasks.task(timeout=2.0)
        with pytest.raises(TaskFailed):
            await maker.add_task(step_tasks.behind_a_guard, hangs=True).wait(timeout=30)

        async def is_open() -> None:
            state = await connection.fetchval("SELECT state FROM queued_task_breakers")
            assert state == "open"

        await eventually(is_open)
