"""One turn of the fetcher, and one passage through the gates: what they leave in the line."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from rows import TABLES, WORKER, add, change

from fastedgy.config import QueuedTaskConfig
from fastedgy.database import connect
from fastedgy.store import claim, events, queues
from fastedgy.store.gates import GateLane
from fastedgy.store.notify import SILENT
from fastedgy.worker.counters import Counters
from fastedgy.worker.fetcher import Fetcher
from fastedgy.worker.gate_lanes import GateLanes
from fastedgy.worker.lanes import BEGINNING, MOST, Lanes
from fastedgy.worker.passage import pass_gates
from fastedgy.worker.pruning import Pruner
from fastedgy.worker.wire import Wire


class Slots:
    """Stands for an executor with so many free slots."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.taken: list[Any] = []
        self.queued = 0

    def room(self) -> int:
        return self.free - len(self.taken)

    def has_slot(self, beside: int) -> bool:
        return self.room() > beside

    def came(self, number: int, *, gated: bool) -> None:
        assert number <= self.room()

    def accept(self, rows: list[Any], *, first: bool = False) -> None:
        self.taken += rows


@pytest.fixture
async def wire(database_url: str) -> AsyncIterator[Wire]:
    opened = Wire(database_url, QueuedTaskConfig(), Counters(), "test")
    yield opened
    await opened.close()


@pytest.mark.parametrize("free", [1, 4])
async def test_a_look_at_the_gates_leaves_no_slot_empty_while_plain_tasks_wait(
    wire: Wire, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(random, "getrandbits", lambda bits: 0)
    for _ in range(10):
        await add(connection)
    slots: Any = Slots(free)
    fetcher = Fetcher(
        wire, TABLES, uuid4(), QueuedTaskConfig(), SILENT, Counters(), slots, slots, ()
    )
    for _ in range(10):
        if slots.room() == 0 or not await fetcher._turn():
            break
    assert len(slots.taken) == free


async def test_a_limit_of_a_queue_counts_for_gates_that_were_free_before(
    connection: asyncpg.Connection,
) -> None:
    for _ in range(10):
        await add(connection, limit=1_000, gate="key")
    await queues.set_limits(connection, TABLES, "default", max_running=2, rate=None, actor="ann")
    lane = GateLane("default", "key", 0)
    passage = await pass_gates(
        connection, TABLES, worker_id=WORKER, lanes=[(lane, BEGINNING)], limited={},
        limited_queues=frozenset({"default"}), free={lane: 1_000}, room=10,
    )  # fmt: skip
    assert len(passage.rows) == 2


async def test_a_lane_whose_tasks_are_locked_is_not_taken_for_an_empty_one(
    connection: asyncpg.Connection, database_url: str
) -> None:
    await add(connection, limit=1, gate="key")
    other = await connect(database_url)
    lane = GateLane("default", "key", 0)
    async with other.transaction():
        await other.execute(f"SELECT FROM {TABLES.tasks} FOR NO KEY UPDATE")
        passage = await pass_gates(
            connection, TABLES, worker_id=WORKER, lanes=[(lane, BEGINNING)], limited={},
            limited_queues=frozenset(), free={}, room=10,
        )  # fmt: skip
    await other.close()
    assert passage.locked == [lane]
    assert [passage.rows, passage.gone, passage.held] == [[], [], {}]


def test_what_is_heard_during_a_passage_is_younger_than_what_that_has_seen() -> None:
    lanes = GateLanes(lambda queue: True)
    lane = GateLane("default", "key", 0)
    lanes.heard(lane)

    lanes.begin()
    lanes.heard(lane)
    lanes.forget(lane)
    assert len(lanes) == 1
    lanes.sleep(lane, 100.0)
    assert lanes.asleep() == 1, "a place is not free because there is more work"
    lanes.end()

    lanes.begin()
    lanes.wake("key")
    lanes.sleep(lane, 100.0)
    assert lanes.asleep() == 0
    lanes.end()

    lanes.sleep(lane, 100.0)
    assert lanes.asleep() == 1
    lanes.forget(lane)
    assert len(lanes) == 0


def test_with_more_lanes_than_are_kept_all_have_their_turn() -> None:
    lanes = Lanes()
    found = {(f"queue {number}", 0): BEGINNING for number in range(int(2.4 * MOST))}
    asked = set()
    for _ in range(3):
        lanes.looked(found)
        asked |= {lane for lane, _ in lanes.in_turn()}
        assert len(lanes) <= MOST
    assert asked == set(found)


async def test_who_has_no_room_leaves_what_it_releases_to_others(
    wire: Wire, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots: Any = Slots(2)
    fetcher = Fetcher(
        wire, TABLES, uuid4(), QueuedTaskConfig(), SILENT, Counters(), slots, slots, ()
    )
    assert fetcher.served() is None, "all queues"
    await add(connection)
    said: list[Any] = []
    claim_tasks = claim.claim

    async def watched(*args: Any, **kwargs: Any) -> Any:
        said.append(fetcher.served())
        return await claim_tasks(*args, **kwargs)

    monkeypatch.setattr(claim, "claim", watched)
    await fetcher._turn()
    assert said == [[]], "the claim may fill all slots"
    assert fetcher.served() is None
    slots.free = 1
    assert fetcher.served() == []


async def test_whatever_is_over_is_thrown_away_in_one_round(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute(
        f"INSERT INTO {TABLES.keys} (kind, key, state, date_expires)"
        " SELECT 'unique', n::text, 'done', now() - interval '1 s'"
        " FROM generate_series(1, 2500) AS n"
    )
    await connection.execute(
        f"INSERT INTO {TABLES.events} (key, date_sent)"
        " SELECT n::text, now() - interval '1 year' FROM generate_series(1, 2500) AS n"
    )
    await events.send(connection, TABLES, "young", "1", channel=None)
    pruner = Pruner(TABLES, QueuedTaskConfig(), Counters())
    for _ in range(20):
        if not await pruner.chunk(connection):
            break
    assert await connection.fetchval(f"SELECT count(*) FROM {TABLES.keys}") == 0
    assert await connection.fetchval(f"SELECT array_agg(key) FROM {TABLES.events}") == ["young"]


@pytest.mark.parametrize(
    "forged",
    [
        {"gate_rate": 0.0},
        {"gate_rate": -1.0},
        {"gate_rate": 1e-300},
        {"gate_rate": float("nan")},
        {"gate_rate": float("inf")},
        {"gate_limit": -1},
    ],
    ids=str,
)
async def test_a_gate_of_nonsense_holds_up_no_other_one(
    connection: asyncpg.Connection, forged: dict[str, Any]
) -> None:
    bad = await add(connection, limit=1, gate="bad")
    await change(connection, bad, **forged)
    good = await add(connection, limit=1, rate=10.0, gate="good")
    passage = await pass_gates(
        connection, TABLES, worker_id=WORKER, limited={}, limited_queues=frozenset(), free={},
        lanes=[(GateLane("default", gate, 0), BEGINNING) for gate in ("bad", "good")], room=10,
    )  # fmt: skip
    assert good in [row["id"] for row in passage.rows]


@pytest.mark.parametrize("forged", [{"max_running": -1}, {"rate": 0.0}, {"rate": float("nan")}])
async def test_settings_of_nonsense_hold_up_no_other_queue(
    connection: asyncpg.Connection, forged: dict[str, Any]
) -> None:
    limits = {"max_running": None, "rate": None} | forged
    await queues.set_limits(connection, TABLES, "default", actor="ann", **limits)
    await add(connection, limit=1, gate="bad")
    good = await add(connection, limit=1, gate="good", queue="mail")
    passage = await pass_gates(
        connection, TABLES, worker_id=WORKER, limited={}, limited_queues=frozenset({"default"}),
        lanes=[(GateLane(queue, gate, 0), BEGINNING) for queue, gate in
               (("default", "bad"), ("mail", "good"))], free={}, room=10,
    )  # fmt: skip
    assert good in [row["id"] for row in passage.rows]
