"""What the workers count: exactly, cheaply, and never backwards."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from rows import TABLES, WORKER

from fastedgy.config import QueuedTaskConfig
from fastedgy.ids import new_id
from fastedgy.store import history, outcomes
from fastedgy.store.history import Total
from fastedgy.store.outcomes import Done, Outcome
from fastedgy.store.rollups import quantile
from fastedgy.worker import rollups
from fastedgy.worker.counters import Counters
from fastedgy.worker.rollups import Rollups
from fastedgy.worker.running import Running
from fastedgy.worker.wire import Wire


@pytest.fixture
def counting(database_url: str) -> Rollups:
    config = QueuedTaskConfig()
    return Rollups(Wire(database_url, config, Counters(), "test"), TABLES, WORKER)


def ended(
    word: str = "done", *, name: str = "a", queue: str = "default", took: float = 0.1,
    waited: float = 0.02,
) -> Outcome:  # fmt: skip
    """An outcome as the executor hands it on."""
    run: Any = Running.__new__(Running)
    now = time.monotonic()
    run.name, run.queue = name, queue
    run.enqueued = datetime.now(UTC) - timedelta(seconds=took + waited)
    claim = (new_id(), 1, now - took, now)
    made: dict[str, Any] = {
        "done": lambda: Done(*claim),
        "failed": lambda: outcomes.failed(*claim, "ValueError", "no"),
        "retry": lambda: outcomes.retry(*claim, 5.0, "ValueError", "no"),
        "cancelled": lambda: outcomes.cancelled(*claim, "no"),
        "interrupted": lambda: outcomes.interrupted(*claim),
        "snoozed": lambda: outcomes.snoozed(*claim, 5.0),
    }
    outcome: Outcome = made[word]()
    outcome.of = run
    return outcome


async def totals(connection: asyncpg.Connection) -> dict[str, Total]:
    return {each.name: each for each in await history.totals(connection, TABLES)}


async def flushed(counting: Rollups) -> None:
    counting.stop(within=5)
    await counting.run()
    await counting._wire.close()


async def test_a_large_batch_is_counted_exactly_though_few_are_measured(
    counting: Rollups, connection: asyncpg.Connection
) -> None:
    batch = [ended(name="a") for _ in range(700)] + [ended(name="b") for _ in range(299)]
    batch += [ended(name="rare", took=7.0)]

    counting.add(batch)
    await flushed(counting)
    found = await totals(connection)

    assert {name: each.tally.done for name, each in found.items()} == {
        "a": 700, "b": 299, "rare": 1
    }  # fmt: skip
    for each in found.values():
        assert sum(each.tally.runs) == sum(each.tally.waits) == each.tally.done
    assert found["a"].tally.run_seconds == pytest.approx(70, rel=0.05)
    assert found["rare"].tally.run_seconds == pytest.approx(7, rel=0.01)


async def test_every_way_to_end_has_its_count(
    counting: Rollups, connection: asyncpg.Connection
) -> None:
    words = ("done", "failed", "failed", "retry", "cancelled", "interrupted", "snoozed")
    counting.add([ended(word) for word in words])
    await flushed(counting)

    tally = (await totals(connection))["a"].tally

    assert (tally.done, tally.failed, tally.retried, tally.cancelled) == (1, 2, 1, 1)
    assert sum(tally.runs) == 1
    assert sum(tally.waits) == 5
    assert quantile(tally.waits, 0.5) == pytest.approx(0.02, rel=0.5)


async def test_what_was_fenced_and_what_never_ran_is_not_counted(
    counting: Rollups, connection: asyncpg.Connection
) -> None:
    late, unstarted = ended(), ended()
    unstarted.of = None
    counting.add([ended(), late, unstarted], fenced=[late])
    await flushed(counting)

    assert (await totals(connection))["a"].tally.done == 1


async def test_the_minute_the_hour_and_all_time_are_written_at_once(
    counting: Rollups, connection: asyncpg.Connection
) -> None:
    counting.add([ended(queue="mail")])
    await flushed(counting)

    rows = await connection.fetch(
        "SELECT seconds, minute, name FROM queued_task_rollups"
        " WHERE worker_id = $1 AND queue = 'mail' AND done = 1 ORDER BY seconds, name", WORKER,
    )  # fmt: skip

    assert [(row["seconds"], row["name"]) for row in rows] == [
        (0, ""), (0, "a"), (60, ""), (60, "a"), (3600, ""), (3600, "a")
    ]  # fmt: skip
    now = datetime.now(UTC)
    assert rows[0]["minute"].year == 1970
    assert timedelta(0) <= now - rows[2]["minute"] < timedelta(minutes=2)
    assert timedelta(0) <= now - rows[4]["minute"] < timedelta(hours=1, minutes=1)


async def test_writing_the_same_counts_twice_changes_nothing(
    counting: Rollups, connection: asyncpg.Connection
) -> None:
    counting.add([ended(), ended()])
    await counting._flush()
    counting._dirty = set(counting._rows)  # as after an answer that was lost
    await counting._flush()
    counting.add([ended()])
    await flushed(counting)

    assert (await totals(connection))["a"].tally.done == 3


async def test_counts_that_could_not_be_written_are_written_later(
    counting: Rollups, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> float:
        raise asyncpg.DataError("not today")

    counting.add([ended()])
    with monkeypatch.context() as broken:
        broken.setattr(rollups.rollups, "write", refuse)
        with pytest.raises(asyncpg.DataError):
            await counting._flush()
    await flushed(counting)

    assert (await totals(connection))["a"].tally.done == 1


async def test_names_without_end_are_counted_together(
    counting: Rollups, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "MOST_KINDS", 3)
    counting.add([ended(name=f"order {number}") for number in range(10)])
    counting.add([ended(name="order 0")])
    await flushed(counting)

    found = await totals(connection)

    assert set(found) == {"order 0", "order 1", "order 2", rollups.OTHERS}
    assert found["order 0"].tally.done == 2
    assert found[rollups.OTHERS].tally.done == 7


async def test_a_minute_that_is_over_leaves_the_memory(counting: Rollups) -> None:
    counting.add([ended()])
    await counting._flush()
    held = len(counting._rows)
    counting._minute -= 180  # as if that had been three hours ago
    counting.add([ended()])
    await counting._flush()
    counting._forget(counting._now() + 2 * 3600)
    await counting._wire.close()

    assert held == 6
    assert {key.seconds for key in counting._rows} == {0}


async def test_an_idle_process_writes_nothing(
    counting: Rollups, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    flush = Rollups._flush

    async def seen(self: Rollups) -> None:
        written.append(bool(self._fresh or self._dirty))
        await flush(self)

    monkeypatch.setattr(Rollups, "_flush", seen)
    counting.add([])
    await flushed(counting)

    assert written == [False]
