"""`explain` against the claim at the gates: whatever stands there, what it calls ready is taken,
and what it says is held is not.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows import TABLES, WORKER, new, write

from fastedgy.admin.explain import Explanation, explain
from fastedgy.config import QueuedTaskConfig
from fastedgy.database import connect
from fastedgy.store import gates, queues, workers
from fastedgy.worker.lanes import BEGINNING
from fastedgy.worker.passage import Passage, pass_gates

CONFIG = QueuedTaskConfig()
SOON = timedelta(minutes=5)


@dataclass(frozen=True)
class Gate:
    """How one gate stands. `pace`: None without a rate, else whether its next start is due."""

    running: int
    waiting: int
    limit: int | None
    pace: bool | None
    breaker: str | None
    priorities: bool


GATES = st.lists(
    st.builds(
        Gate,
        running=st.integers(0, 3),
        waiting=st.integers(1, 4),
        limit=st.one_of(st.none(), st.integers(1, 3)),
        pace=st.sampled_from([None, None, True, False]),
        breaker=st.sampled_from([None, None, "closed", "open", "rested", "probing"]),
        priorities=st.booleans(),
    ),
    min_size=1,
    max_size=3,
)
QUEUES = st.sampled_from([None, None, "full", "slow", "slow but due", "roomy"])


async def clear(connection: Any) -> None:
    for table in ("tasks", "task_queues", "task_gates", "task_breakers", "task_workers"):
        await connection.execute(f"DELETE FROM queued_{table}")
    await workers.register(
        connection, TABLES, worker_id=WORKER, server_name="here", pid=1, supervisor_id=None,
        queues=(), concurrency=1_000, version="1",
    )  # fmt: skip


async def build(connection: Any, stands: list[Gate], queue: str | None) -> list[UUID]:
    """Make it so; returns who waits."""
    now = datetime.now(UTC)
    waiting = []
    for number, gate in enumerate(stands):
        key = f"gate {number}"
        breaker = None if gate.breaker is None else f"breaker {number}"
        tasks = [
            new(
                queue="mail", gate=key, limit=gate.limit, breaker=breaker,
                rate=None if gate.pace is None else 1.0,
                priority=place % 2 if gate.priorities else 0,
            )
            for place in range(gate.running + gate.waiting)
        ]  # fmt: skip
        for task in tasks:
            await write(connection, task)
        running = [task.id for task in tasks[: gate.running]]
        await connection.execute(
            "UPDATE queued_tasks SET state = 'doing', worker_id = $2, date_started = now()"
            " WHERE id = ANY ($1)",
            running, WORKER,
        )  # fmt: skip
        if gate.pace is not None:
            await gates.spend(connection, TABLES, {key: now - SOON if gate.pace else now + SOON})
        if breaker is not None:
            rested = gate.breaker in ("rested", "probing")
            await connection.execute(
                "INSERT INTO queued_task_breakers (name, state, opened_at, probe, probe_until)"
                " VALUES ($1, $2, $3, $4, $5)",
                breaker,
                {"closed": "closed", "probing": "half_open"}.get(gate.breaker or "", "open"),
                None if gate.breaker == "closed" else now - SOON if rested else now,
                WORKER if gate.breaker == "probing" else None,
                now + SOON if gate.breaker == "probing" else None,
            )
        waiting += [task.id for task in tasks[gate.running :]]
    if queue is not None:
        doing = sum(gate.running for gate in stands)
        await queues.set_limits(
            connection, TABLES, "mail", actor="test",
            max_running={"full": max(1, doing), "roomy": 1_000}.get(queue),
            rate=1.0 if queue.startswith("slow") else None,
        )  # fmt: skip
        await queues.spend(connection, TABLES, {"mail": now + SOON if queue == "slow" else now})
    return waiting


async def pass_through(connection: Any, queue: str | None) -> Passage:
    lanes = await gates.find_lanes(connection, TABLES, after=("", ""), limit=100)
    return await pass_gates(
        connection, TABLES, worker_id=WORKER, lanes=[(lane, BEGINNING) for lane in lanes],
        limited={}, limited_queues=frozenset({"mail"} if queue else ()), free={}, room=100,
    )  # fmt: skip


async def compare(connection: Any, stands: list[Gate], queue: str | None) -> None:
    await clear(connection)
    waiting = await build(connection, stands, queue)
    said: dict[UUID, Explanation] = {
        id: await explain(connection, TABLES, id, CONFIG) for id in waiting
    }
    passage = await pass_through(connection, queue)
    assert passage.entered
    taken = {row["id"] for row in passage.rows}

    ready = {id for id, each in said.items() if each.ready}
    assert taken <= ready, [said[id].reasons for id in taken - ready]
    # A rate and a probe let the first one through; how many of a queue's many gates may start
    # under a limit of its own is more than one row can say.
    if queue not in ("slow but due", "full"):
        first = {id for id in ready if said[id].position == 1}
        assert first <= taken, [said[id].reasons for id in first - taken]
    if queue is None and not any(gate.pace or gate.breaker == "rested" for gate in stands):
        assert ready == taken


def test_what_explain_calls_ready_at_a_gate_is_claimed_and_nothing_else(
    database_url: str,
) -> None:
    with asyncio.Runner() as runner:
        connection = runner.run(connect(database_url))

        @settings(
            max_examples=40, deadline=None, database=None, print_blob=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(stands=GATES, queue=QUEUES)
        def holds(stands: list[Gate], queue: str | None) -> None:
            runner.run(compare(connection, stands, queue))

        try:
            holds()
        finally:
            runner.run(connection.close())
