"""Why a task does not run now, and what to do about it.

Every condition is that of a statement of the engine (`fastedgy.store.conditions`, `store.gates`,
`store.queues`), put to one row. Nothing is changed and nothing is locked.
"""

from __future__ import annotations

from uuid import UUID

from asyncpg import Connection

from fastedgy.admin import reasons, states
from fastedgy.admin.explanation import Explanation, Reason
from fastedgy.config import QueuedTaskConfig
from fastedgy.models.tables import Tables
from fastedgy.store import breakers, gates, queues, steps
from fastedgy.store import explain as store
from fastedgy.store.explain import Facts
from fastedgy.store.overview import WorkerRow, list_workers

__all__ = ["Explanation", "Reason", "explain"]


async def explain(
    connection: Connection, tables: Tables, id: UUID, config: QueuedTaskConfig
) -> Explanation:
    """Say why a task does not run now (or that it does, or why it has ended), and what to do.

    The first reason is the one to look at first. Raises TaskNotFound.
    """
    facts = await store.read_facts(connection, tables, id)
    position: int | None = None
    expected: float | None = None
    if facts.state in ("done", "failed", "cancelled"):
        found = [states.ended(facts)]
    else:
        workers = await _living(connection, tables, config)
        if facts.state == "doing":
            found = await _while_running(connection, tables, facts, config, workers)
        elif facts.state == "waiting":
            found = await _while_waiting(connection, tables, facts, config)
            found += await _of_its_queue(connection, tables, facts, workers)
        elif facts.state == "scheduled":
            own = await steps.list_steps(connection, tables, id)
            found = [*states.scheduled(facts, own, workers)]
            found += await _of_its_queue(connection, tables, facts, workers)
            found += await _at_its_breaker(connection, tables, facts)
        else:
            found = await _of_its_queue(connection, tables, facts, workers)
            before = await store.place_in_line(connection, tables, facts)
            found += await _at_its_gate(connection, tables, facts, before)
            position = before + 1
            expected = await _expected(connection, tables, facts, found, before, workers)
            held = any(reason.holds for reason in found)
            found += reasons.line(facts, before, expected, workers, held=held)
            if not any(reason.holds for reason in found):
                locker = await store.read_locker(connection, tables, id)
                found = [*([reasons.locked(locker)] if locker else []), *found]
    ready = facts.state == "enqueued" and not any(reason.holds for reason in found)
    # What holds it comes first; the order in which it was looked for stays.
    found = sorted(found, key=lambda reason: not reason.holds)
    return Explanation(
        id=facts.id, name=facts.name, queue=facts.queue, state=facts.state, ready=ready,
        sentence=found[0].text, reasons=found, position=position,
        expected_seconds=expected if ready or position else None, checked_at=facts.now,
    )  # fmt: skip


async def _living(
    connection: Connection, tables: Tables, config: QueuedTaskConfig
) -> list[WorkerRow]:
    """The workers that run tasks of the queue and gave a sign of life within the lease."""
    workers = await list_workers(connection, tables)
    return [worker for worker in workers if worker.is_alive(config.lease) and not worker.is_web]


async def _of_its_queue(
    connection: Connection, tables: Tables, facts: Facts, workers: list[WorkerRow]
) -> list[Reason]:
    """What its queue has against it: a pause, limits, nobody who serves it."""
    settings = await queues.count_running(connection, tables, [facts.queue])
    found = []
    if facts.queue in settings:
        found += reasons.queue(settings[facts.queue], facts.now)
    return found + reasons.service(facts, workers)


async def _at_its_gate(
    connection: Connection, tables: Tables, facts: Facts, before: int
) -> list[Reason]:
    """What its gate has against it: the limit, the rate, the breaker."""
    head = await store.at_its_gate(connection, tables, facts.id)
    if head is None:
        return []
    found = reasons.gate(head, facts.now, 0 if facts.suspect else before)
    return found + await _at_its_breaker(connection, tables, facts)


async def _at_its_breaker(connection: Connection, tables: Tables, facts: Facts) -> list[Reason]:
    if facts.breaker is None:
        return []
    lets_one_through = await gates.breakers(connection, tables, [facts.breaker])
    if lets_one_through.get(facts.breaker, True):
        return []
    broken = await breakers.read(connection, tables, facts.breaker)
    return [] if broken is None else reasons.breaker(broken)


async def _while_running(
    connection: Connection,
    tables: Tables,
    facts: Facts,
    config: QueuedTaskConfig,
    workers: list[WorkerRow],
) -> list[Reason]:
    owner = None
    if facts.worker_id is not None:
        owner = await store.read_owner(connection, tables, facts.worker_id)
    own = await steps.list_steps(connection, tables, facts.id)
    return states.running(facts, owner, own, config, others=len(workers))


async def _while_waiting(
    connection: Connection, tables: Tables, facts: Facts, config: QueuedTaskConfig
) -> list[Reason]:
    """Its parents; and of all that they wait for in turn, what does not run and why."""
    parents, number = await store.open_parents(connection, tables, facts.id)
    found = [states.parents(facts, parents, number)]
    first = await store.first_to_move(connection, tables, facts.id)
    if first is not None:
        why = await explain(connection, tables, first, config)
        found.append(states.beyond(why))
    return found


async def _expected(
    connection: Connection,
    tables: Tables,
    facts: Facts,
    found: list[Reason],
    before: int,
    workers: list[WorkerRow],
) -> float | None:
    """Seconds until it starts, if it only has to wait for its turn."""
    if any(reason.holds for reason in found):
        return None
    if before < reasons.free_slots(facts, workers):
        return 0.0
    pace = await store.read_pace(connection, tables, facts.queue)
    return None if pace is None or before >= store.MOST else (before + 1) / pace
