"""The worker processes and what is in their slots."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from asyncpg import Connection

from fastedgy.admin.types import RunningTask, WorkerInfo
from fastedgy.models.tables import Tables
from fastedgy.store import overview
from fastedgy.store.overview import WorkerRow

MEMORY = "memory_mb"
"""The worker's counter of its memory: what it used at its last heartbeat."""


async def list_workers(
    connection: Connection, tables: Tables, *, lease: float, tasks: int
) -> Sequence[WorkerInfo]:
    """The worker processes, by server, each with up to `tasks` of what it runs."""
    rows = await overview.list_workers(connection, tables)
    slots: dict[UUID, list[RunningTask]] = {}
    if tasks:
        for slot in await overview.slots(connection, tables, each=tasks):
            running = RunningTask(
                slot.id, slot.name, slot.queue, slot.date_started, slot.cancel_requested
            )
            slots.setdefault(slot.worker_id, []).append(running)
    return [_info(row, lease, slots.get(row.id, [])) for row in rows]


def _info(row: WorkerRow, lease: float, tasks: Sequence[RunningTask]) -> WorkerInfo:
    memory = row.counters.get(MEMORY)
    return WorkerInfo(
        id=row.id,
        server_name=row.server_name,
        pid=row.pid,
        supervisor_id=row.supervisor_id,
        state=row.state,
        alive=row.is_alive(lease),
        is_web=row.is_web,
        queues=row.queues or [],
        concurrency=row.concurrency,
        busy=row.busy,
        version=row.version,
        memory_mb=memory if isinstance(memory, int) else None,
        counters={name: value for name, value in row.counters.items() if name != MEMORY},
        date_started=row.date_started,
        last_heartbeat=row.last_heartbeat,
        silent_for=round(row.silent_for, 3),
        drain=row.drain,
        tasks=tasks,
    )
