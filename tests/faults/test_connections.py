"""Connections that freeze, answers that come late or never, and what a worker makes of them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import asyncpg
import fault_tasks
import pytest
from crew import Crew
from helpers import eventually
from proxy import proxy
from rows import TABLES, WORKER, add_taken, read
from supervised import Supervised, enqueue, reaches

from fastedgy.config import QueuedTaskConfig
from fastedgy.ids import new_id
from fastedgy.store import recovery
from fastedgy.worker.counters import Counters
from fastedgy.worker.executor import Executor
from fastedgy.worker.report import Board
from fastedgy.worker.results import Results
from fastedgy.worker.wire import GivenUp, Wire


async def test_a_transaction_on_a_frozen_connection_is_given_up_and_done_again(
    database_url: str,
) -> None:
    wire = Wire(database_url, QueuedTaskConfig(statement_timeout=0.5), Counters(), "test")
    frozen: list[int] = []

    async def work(connection: asyncpg.Connection) -> int:
        async with connection.transaction():
            await connection.fetchval("SELECT 1")
            if not frozen:
                frozen.append(connection.get_server_pid())
                try:
                    os.kill(frozen[0], signal.SIGSTOP)
                except (ProcessLookupError, PermissionError):
                    pytest.skip("the server runs elsewhere")
            return int(await connection.fetchval("SELECT 2"))

    try:
        assert await asyncio.wait_for(wire.run(work), 30) == 2
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    await wire.close()
    assert wire.losses == 1


@pytest.mark.parametrize("large", [True, False])
async def test_work_that_takes_long_is_given_more_time_if_it_may_be_large(
    database_url: str, large: bool
) -> None:
    wire = Wire(database_url, QueuedTaskConfig(statement_timeout=0.6), Counters(), "test")

    async def work(connection: asyncpg.Connection) -> int:
        return int(await connection.fetchval("SELECT 1 FROM pg_sleep(1.4)"))

    running = wire.run(work, until=lambda: wire.losses == 3, may_be_large=large)
    if large:
        assert await running == 1
        assert wire.losses == 2, "after 0.6 s, and after 1.2 s"
    else:
        with pytest.raises(GivenUp):
            await running
    await wire.close()


async def test_a_claim_that_arrives_late_is_given_back_by_its_worker_which_does_not_know_it(
    connection: asyncpg.Connection, supervise: Callable[..., Supervised]
) -> None:
    supervised = supervise()
    await supervised.ready(connection)
    worker_id = await connection.fetchval(
        "SELECT id FROM queued_task_workers WHERE state = 'running'"
    )

    id = await enqueue(connection, fault_tasks.ping, queue="nobody serves this by name")
    await reaches(connection, id, "done")
    await connection.execute(
        "UPDATE queued_tasks SET state = 'doing', worker_id = $2, run = run + 1,"
        " date_started = clock_timestamp(), date_ended = NULL WHERE id = $1",
        id, worker_id,
    )  # fmt: skip

    row = await reaches(connection, id, "done")
    assert row["losses"] == 0
    assert row["run"] == 4, "taken back, claimed again"


async def test_a_hand_back_that_arrives_late_takes_nothing(connection: asyncpg.Connection) -> None:
    record = await add_taken(connection)

    late = await recovery.hand_back(connection, TABLES, worker_id=WORKER, within=0.0)
    assert late.total == 0
    assert (await read(connection, record["id"]))["state"] == "doing"

    in_time = await recovery.hand_back(connection, TABLES, worker_id=WORKER, within=5.0)
    assert in_time.total == 1


async def test_what_was_claimed_before_the_lease_was_lost_starts_when_it_is_back() -> None:
    ended: list[Any] = []
    completer = SimpleNamespace(
        put=lambda outcome, run=None: ended.append(outcome), traces=SimpleNamespace(wake=None)
    )
    lease = SimpleNamespace(lease_until=time.monotonic() - 1)

    async def flush_added(run: Any) -> None:
        raise AssertionError("nothing was added")

    async def unasked(ids: Any) -> Any:
        raise AssertionError("nothing here has parents")

    executor = Executor(
        QueuedTaskConfig(), Counters(), completer, Board(None, 1),  # type: ignore[arg-type]
        Results(unasked, unasked), concurrency=1, flush_added=flush_added,
    )  # fmt: skip
    executor.lease = lease
    executor.accept([claimed(), claimed()])
    assert (executor.busy, executor.queued, executor.room()) == (0, 2, 0)

    lease.lease_until = time.monotonic() + 60
    executor.resume()

    def both() -> None:
        assert len(ended) == 2

    await eventually(both)
    assert {outcome.state for outcome in ended} == {"done"}
    await executor.drained()


def claimed() -> Any:
    """A claimed row of a task without arguments, in the order of the claim's columns."""
    values = {
        "id": new_id(), "run": 1, "attempt": 1, "max_retries": 0,
        "function": "fault_tasks:ping", "name": "ping", "queue": "default", "priority": 0,
        "date_enqueued": datetime.now(UTC), "args": "[]", "kwargs": "{}", "context": "{}",
        "timeout": None, "closure": None, "extra": None, "gate": None,
    }  # fmt: skip

    class Row(dict[str, Any]):
        def __iter__(self) -> Any:
            return iter(self.values())

    return Row(values)


async def test_a_worker_that_starts_while_the_database_is_away_waits_for_it(
    database_url: str, crash_crew: Crew, connection: asyncpg.Connection
) -> None:
    async with proxy(database_url) as tap:
        await tap.close()
        worker = crash_crew.begin(app="fault_app:app", url=tap.url)

        def waits() -> None:
            assert "Waiting for the database" in worker.output

        await eventually(waits)
        await tap.open()
        await worker.ready()
        id = await enqueue(connection, fault_tasks.ping)
        await reaches(connection, id, "done")
        worker.tell()
        assert await worker.ended() == 0


async def test_a_worker_that_waits_for_the_database_ends_with_its_supervisor(
    database_url: str, crash_crew: Crew
) -> None:
    async with proxy(database_url) as tap:
        await tap.close()
        worker = crash_crew.begin(app="fault_app:app", url=tap.url)

        def waits() -> None:
            assert "Waiting for the database" in worker.output

        await eventually(waits)
        worker.abandon()
        assert await worker.ended() == 3
