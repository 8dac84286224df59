"""Notifications: one per statement at most, none from a loop that is busy anyway.

NOTIFY takes a lock at commit that all notifying transactions of the server share.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from asyncpg import Connection

from fastedgy.config import QueuedTaskConfig
from fastedgy.store.statements import GATED_LINE

# A payload has 8,000 bytes at most; an id takes 37.
IDS_PER_PAYLOAD = 200
LANES_PER_PAYLOAD = 50
BYTES_PER_PAYLOAD = 7_000

FREE = "free "
"""What stands before free places on the control channel."""


class Channels(NamedTuple):
    """Where notifications go. None: nowhere (behind a pooler that cannot listen)."""

    tasks: str | None
    done: str | None
    control: str | None


SILENT = Channels(None, None, None)


def channels_of(config: QueuedTaskConfig) -> Channels:
    """Where notifications go under these settings."""
    if not config.use_postgresql_notify:
        return SILENT
    return Channels(config.notify_channel, config.done_channel, config.control_channel)


@dataclass(slots=True)
class Free:
    """Places that are free again, at gates and in limited queues."""

    gates: set[str] = field(default_factory=set)
    queues: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.gates or self.queues)


def lanes_payload(
    lanes: Collection[tuple[str, int]],
    due: float | None = None,
    gates: Collection[tuple[str, str, int]] = (),
) -> str:
    """What a bell says: the lanes that got work, and in how many seconds the next task is due.

    At most `LANES_PER_PAYLOAD` lanes are named; an empty list alone, or `all`, means "look
    everywhere". `gates` are lanes behind gates by queue, gate and priority; where they do not fit,
    `GATED_LINE` of their queues stands for them.
    """
    bell: dict[str, Any] = {"lanes": sorted(lanes), "due": due}
    if gates:
        payload = orjson.dumps(bell | {"gates": sorted(gates)})
        if len(lanes) <= LANES_PER_PAYLOAD and len(payload) <= BYTES_PER_PAYLOAD:
            return payload.decode()
        bell["lanes"] = sorted({*lanes, *((queue, GATED_LINE) for queue, _, _ in gates)})
    payload = orjson.dumps(bell)
    if len(bell["lanes"]) > LANES_PER_PAYLOAD or len(payload) > BYTES_PER_PAYLOAD:
        return _everywhere(due)
    return payload.decode()


def _everywhere(due: float | None) -> str:
    return orjson.dumps({"lanes": [], "due": due, "all": True}).decode()


EVERYWHERE = _everywhere(None)
"""What a bell says that cannot name all of its lanes."""


@lru_cache(maxsize=256)
def lane_payload(queue: str, priority: int) -> str:
    """What the bell of a single lane says."""
    return lanes_payload([(queue, priority)])


async def ring(
    connection: Connection, channel: str | None, lanes: Collection[tuple[str, int]]
) -> None:
    """Tell the workers that these lanes have work."""
    if channel is not None and lanes:
        await connection.execute("SELECT pg_notify($1, $2)", channel, lanes_payload(lanes))


async def tell_free(connection: Connection, channel: str | None, free: Free) -> None:
    """Tell the workers of free places. Those that no payload takes are found by looking."""
    if channel is not None and free:
        payload = _free_payload(sorted(free.gates), sorted(free.queues))
        await connection.execute("SELECT pg_notify($1, $2)", channel, payload)


def _free_payload(gates: list[str], queues: list[str]) -> str:
    payload = FREE + orjson.dumps({"gates": gates, "queues": queues}).decode()
    if len(payload.encode()) <= BYTES_PER_PAYLOAD:
        return payload
    return _free_payload(gates[: len(gates) // 2], queues[: len(queues) // 2])


async def ring_all(connection: Connection, channel: str | None) -> None:
    """Tell the workers to look everywhere."""
    if channel is not None:
        await connection.execute("SELECT pg_notify($1, $2)", channel, lanes_payload(()))


async def tell(connection: Connection, channel: str | None, ids: Sequence[UUID]) -> None:
    """Tell a list of task ids on `channel`: who waits for their end, or who runs them, listens."""
    if channel is None:
        return
    for start in range(0, len(ids), IDS_PER_PAYLOAD):
        payload = ",".join(str(id) for id in ids[start : start + IDS_PER_PAYLOAD])
        await connection.execute("SELECT pg_notify($1, $2)", channel, payload)
