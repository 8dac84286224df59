"""The queue in one look, and in one sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from asyncpg import Connection

from fastedgy.admin import queries, stats
from fastedgy.admin.types import Level, NameStats, Overview, QueueChange, QueueInfo
from fastedgy.config import QueuedTaskConfig
from fastedgy.models.tables import Tables
from fastedgy.store import counts, history, overview, queues
from fastedgy.store.breakers import Breaker, list_breakers
from fastedgy.store.counts import QueueDepth
from fastedgy.store.overview import WorkerRow, list_workers, worker_summary
from fastedgy.store.rollups import MINUTE, quantile
from fastedgy.wording import count, duration

RECENTLY = 15
"""Minutes that rates and failures of an overview are of."""
LATE = 300.0
"""Seconds from which on a task that is due and not started is late."""
FAILING = 0.5
"""Share of failures from which on it is worth saying."""
FEW_RUNS = 10
SHOWN = 5
LONGEST_ERROR = 120
MOST_NAMED = 20
"""Queues that a warning names."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How the queue is; `sentence` says the worst of it, `reasons` all that is not as it should."""

    level: Level
    sentence: str
    reasons: Sequence[str]


@dataclass(frozen=True, slots=True)
class Pace:
    """How it went lately: tasks a minute, what they waited, how many failed of how many."""

    per_minute: float = 0.0
    pick_up_ms_p95: float | None = None
    ended: int = 0
    failed: int = 0
    failing: str | None = None


def judge(
    states: Mapping[str, int],
    depths: Mapping[str, QueueDepth],
    workers: Sequence[WorkerRow],
    *,
    lease: float,
    paused: Collection[str] = (),
    coming: Mapping[str, int] | None = None,
    breakers: Sequence[Breaker] = (),
    pace: Pace | None = None,
) -> Judgement:
    """What to say of the queue, the most serious first. `workers` without web processes; `coming`:
    the queues that tasks are scheduled for, or wait for parents.
    """
    pace = pace or Pace()
    alive = [worker for worker in workers if worker.is_alive(lease)]
    if not alive:
        sentence = _no_worker(states)
        return Judgement(Level.unhealthy, sentence, [sentence])
    # What keeps tasks from running for good comes first, what passes or was meant comes last.
    reasons = [
        *_unserved(depths, coming or {}, alive, paused),
        *_draining(alive),
        *_open(breakers),
        *_late(depths, alive, paused),
        *_failing(pace),
        *_silent(len(workers) - len(alive), lease),
        *_half_open(breakers),
        *_paused(depths, paused),
    ]
    if reasons:
        return Judgement(Level.degraded, reasons[0], reasons)
    return Judgement(Level.healthy, _all_well(states, depths, pace), [])


def _no_worker(states: Mapping[str, int]) -> str:
    pending = states["enqueued"]
    if not pending + states["doing"] + states["scheduled"] + states["waiting"]:
        return "Nothing to do, and no worker runs."
    return f"{_wait(pending)} and no worker runs. Start some: fastedgy queue start"


def _unserved(
    depths: Mapping[str, QueueDepth],
    coming: Mapping[str, int],
    alive: Sequence[WorkerRow],
    paused: Collection[str],
) -> list[str]:
    lonely = {
        name
        for name in {*depths, *coming}.difference(paused)
        if not any(each.serves(name) for each in alive)
    }
    now = {name: depths[name].depth for name in lonely if name in depths and depths[name].depth}
    later = {name: coming[name] for name in lonely.difference(now) if name in coming}
    found = [(name, _wait(number)) for name, number in _largest_first(now)]
    found += [(name, _are_to_come(number)) for name, number in _largest_first(later)]
    return [
        f"Queue {name} has no worker; {tasks}. Start one: fastedgy queue start --queues {name}"
        for name, tasks in found
    ]


def _draining(alive: Sequence[WorkerRow]) -> list[str]:
    if not all(each.drains for each in alive):
        return []
    who = "The only worker drains" if len(alive) == 1 else f"All {len(alive):,} workers drain"
    return [f"{who}, so that no task starts. Start others: fastedgy queue start"]


def _open(breakers: Sequence[Breaker]) -> list[str]:
    return [
        f"Breaker {each.name} is open, so its tasks wait; "
        + (f"it tries again in {duration(each.rest)}." if each.rest else "the next call tries.")
        + (f" Last error: {each.error.splitlines()[0][:LONGEST_ERROR]}" if each.error else "")
        for each in breakers
        if each.state == "open"
    ]


def _half_open(breakers: Sequence[Breaker]) -> list[str]:
    return [
        f"Breaker {each.name} is half open: one call at a time tries."
        for each in breakers
        if each.state == "half_open"
    ]


def _silent(number: int, lease: float) -> list[str]:
    if not number:
        return []
    return [
        f"{count(number, 'worker')} gave no sign of life for {duration(lease)}; "
        "the others take over the tasks."
    ]


def _late(
    depths: Mapping[str, QueueDepth], alive: Sequence[WorkerRow], paused: Collection[str]
) -> list[str]:
    late = [
        (queue.oldest_due_seconds, name, queue.depth)
        for name, queue in depths.items()
        if queue.depth
        and queue.oldest_due_seconds >= LATE
        and name not in paused
        and any(each.serves(name) for each in alive)
    ]
    return [
        f"Queue {name} is late: the oldest of {count(depth, 'task')} has been due for "
        f"{duration(seconds)}."
        for seconds, name, depth in sorted(late, reverse=True)
    ]


def _failing(pace: Pace) -> list[str]:
    if pace.ended < FEW_RUNS or pace.failed < FAILING * pace.ended:
        return []
    most = f", most of them {pace.failing}" if pace.failing else ""
    return [f"{pace.failed:,} of {pace.ended:,} tasks failed in {RECENTLY} minutes{most}."]


def _paused(depths: Mapping[str, QueueDepth], paused: Collection[str]) -> list[str]:
    waiting = {name: depths[name].depth if name in depths else 0 for name in paused}
    return [
        f"Queue {name} is paused; {_wait(number) if number else 'nothing waits there'}."
        for name, number in _largest_first(waiting)
    ]


def _all_well(states: Mapping[str, int], depths: Mapping[str, QueueDepth], pace: Pace) -> str:
    parts = []
    if pace.per_minute >= 1:
        parts.append(f"{pace.per_minute:,.0f} tasks a minute")
        if pace.pick_up_ms_p95 is not None:
            parts.append(f"95 % start within {duration(pace.pick_up_ms_p95 / 1000)}")
    pending, running, held = states["enqueued"], states["doing"], states["waiting"]
    if pending:
        oldest = max((queue.oldest_due_seconds for queue in depths.values()), default=0.0)
        parts.append(f"{count(pending, 'task')} in the line, the oldest for {duration(oldest)}")
    elif running and held and not parts:
        verb, wait = "runs" if running == 1 else "run", "waits" if held == 1 else "wait"
        parts.append(
            f"{count(running, 'task')} {verb}, {count(held, 'task')} {wait} for parents, and "
            "nothing else waits"
        )
    else:
        parts.append("nothing waits in the line")
    return f"All well: {', '.join(parts)}."


def _wait(number: int) -> str:
    return f"{count(number, 'task')} {'waits' if number == 1 else 'wait'}"


def _largest_first(numbers: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(numbers.items(), key=lambda item: (-item[1], item[0]))


def _are_to_come(number: int) -> str:
    return f"{count(number, 'task')} {'is' if number == 1 else 'are'} to come"


async def overview_of(connection: Connection, tables: Tables, config: QueuedTaskConfig) -> Overview:
    """The queue in one look."""
    states = await counts.count_states(connection, tables)
    depths = await counts.queue_depths(connection, tables, enqueued=states.counts["enqueued"])
    workers = [row for row in await list_workers(connection, tables) if not row.is_web]
    names = await stats.names(connection, tables, hours=RECENTLY / 60)
    tally = await history.all_names(connection, tables, seconds=RECENTLY * MINUTE)
    coming = await counts.coming(connection, tables)
    infos = await list_queues(
        connection, tables, config, depths=depths, workers=workers, coming=coming
    )
    failing = sorted((each for each in names if each.failed), key=lambda each: -each.failed)
    p95 = quantile(tally.waits, 0.95)
    pace = Pace(
        per_minute=(tally.done + tally.failed) / RECENTLY,
        pick_up_ms_p95=None if p95 is None else round(p95 * 1000, 3),
        ended=tally.done + tally.failed,
        failed=tally.failed,
        failing=failing[0].name if failing else None,
    )
    judged = judge(
        states.counts, depths, workers, lease=config.lease, pace=pace,
        paused={info.name for info in infos if info.paused}, coming=coming,
        breakers=await list_breakers(connection, tables),
    )  # fmt: skip
    return Overview(
        sentence=judged.sentence,
        level=judged.level,
        reasons=judged.reasons,
        states=states,
        queues=infos,
        workers=worker_summary(workers, lease=config.lease),
        per_minute=round(pace.per_minute, 1),
        pick_up_ms_p95=pace.pick_up_ms_p95,
        last_hour=await history.last_hour(connection, tables),
        slowest=await queries.running_tasks(connection, tables, limit=SHOWN),
        oldest=await queries.oldest_due(connection, tables, limit=SHOWN),
        failing=failing[:SHOWN],
        busiest=_busiest(names),
    )


def _busiest(names: Sequence[NameStats]) -> list[NameStats]:
    return sorted(names, key=lambda each: -(each.done + each.failed + each.retried))[:SHOWN]


async def list_queues(
    connection: Connection,
    tables: Tables,
    config: QueuedTaskConfig,
    *,
    depths: Mapping[str, QueueDepth] | None = None,
    workers: Sequence[WorkerRow] | None = None,
    coming: Mapping[str, int] | None = None,
) -> list[QueueInfo]:
    """The queues that have tasks, workers, settings or a recent past, by name."""
    if coming is None:
        coming = await counts.coming(connection, tables)
    if depths is None:
        depths = await counts.queue_depths(connection, tables)
    if workers is None:
        workers = [row for row in await overview.list_workers(connection, tables) if not row.is_web]
    alive = [worker for worker in workers if worker.is_alive(config.lease)]
    settings = {each.name: each for each in await queues.list_queues(connection, tables)}
    ended = await history.ended_by_queue(connection, tables, minutes=2)
    arrived = await counts.arrivals(connection, tables, now=await history.now(connection))
    served = {name for worker in alive for name in worker.queues or ()}
    found = []
    for name in sorted({*depths, *coming, *settings, *ended, *arrived, *served}):
        depth = depths.get(name, QueueDepth(0, 0.0))
        own = settings.get(name)
        serving = [worker for worker in alive if worker.serves(name)]
        inflow, outflow = arrived.get(name, 0.0), ended.get(name, 0.0)
        empty = depth.depth * 60 / (outflow - inflow) if outflow > inflow else None
        found.append(
            QueueInfo(
                name=name,
                depth=depth.depth,
                depth_estimated=depth.estimated,
                oldest_due_seconds=depth.oldest_due_seconds,
                doing=depth.doing,
                paused=own.paused if own else False,
                max_running=own.max_running if own else None,
                rate=own.rate if own else None,
                workers=len(serving),
                slots=sum(worker.concurrency for worker in serving),
                in_per_minute=round(inflow, 1),
                out_per_minute=round(outflow, 1),
                seconds_to_empty=0.0 if not depth.depth else empty and round(empty, 1),
            )
        )
    return found


async def queue_change(
    connection: Connection, tables: Tables, config: QueuedTaskConfig, name: str
) -> QueueChange:
    """What is known of a queue that is about to be changed."""
    known = {info.name: info.depth for info in await list_queues(connection, tables, config)}
    if name in known or name in await history.queues_ever(connection, tables):
        return QueueChange(name, known.get(name, 0), True, None)
    others = sorted(known)
    shown = ", ".join(others[:MOST_NAMED]) + (", …" if len(others) > MOST_NAMED else "")
    there = f"Known are {shown}." if others else "No queue is known."
    return QueueChange(
        name, 0, False,
        f"Nothing is known of a queue {name}: no task of it waits or ever ran, no worker serves it "
        f"by name. {there}",
    )  # fmt: skip
