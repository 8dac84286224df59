"""The queue in Prometheus' words.

Everything is read from the database, so that it is right across processes and servers, whichever
process is asked: counters are the workers' own sums, kept when a worker is killed and when its row
is deleted, and so never go backwards. Needs `fastedgy[admin]`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asyncpg import Connection

from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import ConfigurationError
from fastedgy.models.tables import Tables
from fastedgy.store import counts, history, metrics
from fastedgy.store.breakers import Breaker, list_breakers
from fastedgy.store.counts import QueueDepth, StateCounts
from fastedgy.store.history import Total
from fastedgy.store.metrics import Processes
from fastedgy.store.outage import is_outage
from fastedgy.store.rollups import BOUNDS

if TYPE_CHECKING:
    from prometheus_client.core import Metric

logger = logging.getLogger("fastedgy.admin")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FRESH = 0.5
"""Seconds for which an answer is given again, however many ask."""
MOST_NAMES = 1_000
"""Names may be made of ids. Beyond so many in a process's life, tasks count as `(other)`."""
OTHER = "(other)"
STEP = round(math.log(4) / math.log(BOUNDS[1] / BOUNDS[0]))
"""Of the buckets that are kept, each of these is shown: two doublings apart, from 0.1 ms on."""

COUNTED = {
    "claimed": ("queued_tasks_claimed", "Tasks that workers have taken."),
    "interrupted": ("queued_tasks_interrupted", "Runs that were stopped and go back to the line."),
    "snoozed": ("queued_tasks_snoozed", "Runs that put themselves off."),
    "unknown": ("queued_tasks_unknown_function", "Claims of functions that a worker lacks."),
    "refused": ("queued_tasks_refused", "Tasks that workers refused to run."),
    "timeouts": ("queued_tasks_timeouts", "Runs that outlived their timeout."),
    "fenced": ("queued_tasks_fenced", "Outcomes of workers that had lost the task meanwhile."),
    "handed_back": ("queued_tasks_handed_back", "Claims that were given back unstarted."),
    "promoted": ("queued_tasks_promoted", "Scheduled tasks that became due."),
    "rescued": ("queued_tasks_rescued", "Tasks that were taken from workers that are gone."),
    "pruned": ("queued_tasks_pruned", "Ended tasks that were deleted for their age."),
    "log_lines_dropped": ("queued_task_log_lines_dropped", "Log lines beyond QUEUE_LOG_LIMIT."),
    "loop_blocked": ("queued_worker_loop_blocked", "How often a task blocked a worker's loop."),
    "connections_lost": ("queued_worker_connections_lost", "Connections that workers have lost."),
    "errors": ("queued_worker_errors", "Mistakes within workers."),
}
"""Counters of the workers, and what they are called here. `_total` follows."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read at one moment. None of it where the database did not answer."""

    totals: Sequence[Total] = ()
    counters: Mapping[str, float] = field(default_factory=dict)
    states: StateCounts | None = None
    depths: Mapping[str, QueueDepth] = field(default_factory=dict)
    active: Mapping[str, int] = field(default_factory=dict)
    processes: Sequence[Processes] = ()
    paused: Mapping[str, bool] = field(default_factory=dict)
    breakers: Sequence[Breaker] = ()
    seconds: float = 0.0
    up: bool = True


async def read(connection: Connection, tables: Tables, config: QueuedTaskConfig) -> Reading:
    """Read everything, in a handful of statements whose time does not grow with the table."""
    began = time.perf_counter()
    states = await counts.count_states(connection, tables)
    return Reading(
        totals=await history.totals(connection, tables),
        counters=await metrics.counters(connection, tables),
        states=states,
        depths=await counts.queue_depths(connection, tables, enqueued=states.counts["enqueued"]),
        active=await metrics.active(connection, tables, limit=counts.EXACT),
        processes=await metrics.processes(connection, tables, lease=config.lease),
        paused=await metrics.paused_queues(connection, tables),
        breakers=await list_breakers(connection, tables),
        seconds=time.perf_counter() - began,
    )


def require_client() -> None:
    """Raise ConfigurationError where prometheus-client is not installed."""
    if importlib.util.find_spec("prometheus_client") is None:
        raise ConfigurationError(
            "Metrics need prometheus-client: pip install 'fastedgy[admin]'. Without, "
            "queue_router(metrics=None) leaves them out."
        )


class Metrics:
    """Answers scrapes. One reading at a time, and one for all who ask within half a second."""

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[Connection]],
        tables: Tables,
        config: QueuedTaskConfig,
        *,
        beside: Callable[[], Iterator[Metric]] = lambda: iter(()),
    ) -> None:
        """`connect` gives a connection. `beside`: further metrics of this very process.

        Raises ConfigurationError where prometheus-client is not installed.
        """
        require_client()
        self._connect = connect
        self._tables = tables
        self._config = config
        self._beside = beside
        self._turn = asyncio.Lock()
        self._answer = b""
        self._read_at = 0.0
        self._names: dict[str, None] = {}

    async def exposition(self) -> bytes:
        """What Prometheus gets. While the database is away, that it is: `queued_database_up 0`."""
        async with self._turn:
            if not self._answer or time.monotonic() - self._read_at >= FRESH:
                self._answer = self._written(await self._read())
                self._read_at = time.monotonic()
            return self._answer

    async def _read(self) -> Reading:
        try:
            async with self._connect() as connection:
                return await read(connection, self._tables, self._config)
        except Exception as error:
            if not is_outage(error):
                raise
            logger.warning("There are no metrics at the moment: %s", error)
            return Reading(up=False)

    def _written(self, reading: Reading) -> bytes:
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(lambda: self._families(reading)))
        return generate_latest(registry)

    def _families(self, reading: Reading) -> Iterator[Metric]:
        yield _gauge("queued_database_up", "Whether the database answered.", int(reading.up))
        if reading.up:
            yield from self._of_names(reading)
            yield from _of_counters(reading)
            yield from _of_states(reading)
            yield from _of_queues(reading)
            yield from _of_workers(reading)
            yield from _of_breakers(reading)
            yield _gauge("queued_scrape_seconds", "How long this took to read.", reading.seconds)
        yield from self._beside()

    def _name(self, name: str) -> str:
        if name not in self._names:
            if len(self._names) >= MOST_NAMES:
                return OTHER
            self._names[name] = None
        return name

    def _of_names(self, reading: Reading) -> Iterator[Metric]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        together: dict[tuple[str, str], Any] = {}
        for total in reading.totals:
            key = self._name(total.name), total.queue
            known = together.get(key)
            if known is None:
                together[key] = total.tally
            else:
                known.add(total.tally)
        labels = ["task_name", "queue"]
        ended = CounterMetricFamily(
            "queued_tasks", "Tasks that ended, by how.", labels=[*labels, "status"]
        )
        retries = CounterMetricFamily(
            "queued_task_retries", "Runs that failed and are tried again.", labels=labels
        )
        lasted = HistogramMetricFamily(
            "queued_task_duration_seconds", "How long tasks that are done ran.", labels=labels
        )
        waited = HistogramMetricFamily(
            "queued_task_wait_seconds", "How long tasks were due before they ran.", labels=labels
        )
        for key, tally in together.items():
            for status in ("done", "failed", "cancelled"):
                ended.add_metric([*key, status], getattr(tally, status))
            retries.add_metric(list(key), tally.retried)
            lasted.add_metric(list(key), _buckets(tally.runs), sum_value=tally.run_seconds)
            waited.add_metric(list(key), _buckets(tally.waits), sum_value=_about(tally.waits))
        yield from (ended, retries, lasted, waited)
        active = GaugeMetricFamily("queued_tasks_active", "Tasks that run.", labels=["task_name"])
        running: dict[str, int] = {}
        for name, number in reading.active.items():
            shown = self._name(name)
            running[shown] = running.get(shown, 0) + number
        for name, number in running.items():
            active.add_metric([name], number)
        yield active


class _Collector:
    """What prometheus-client's registry asks."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self.collect = collect


def _buckets(histogram: Sequence[int]) -> list[tuple[str, float]]:
    """Cumulative counts at every STEP-th bound; what is in between is in the next."""
    buckets: list[tuple[str, float]] = []
    seen = 0
    for place, number in enumerate(histogram):
        seen += number
        if place < len(BOUNDS) and place % STEP == 0:
            buckets.append((repr(round(BOUNDS[place], 4)), seen))
    return [*buckets, ("+Inf", seen)]


def _about(histogram: Sequence[int]) -> float:
    """The sum of what was counted, each as the middle of its bucket: no exact one is kept."""
    total = 0.0
    for place, number in enumerate(histogram):
        low = BOUNDS[place - 1] if place else 0.0
        high = BOUNDS[min(place, len(BOUNDS) - 1)]
        total += number * (low + high) / 2
    return total


def _gauge(name: str, about: str, value: float) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(name, about, value=value)


def _by(name: str, about: str, label: str, values: Mapping[str, float]) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    gauge = GaugeMetricFamily(name, about, labels=[label])
    for key, value in values.items():
        gauge.add_metric([key], value)
    return gauge


def _of_counters(reading: Reading) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    for counter, (name, about) in COUNTED.items():
        yield CounterMetricFamily(name, about, value=reading.counters.get(counter, 0))


def _of_states(reading: Reading) -> Iterator[Metric]:
    states = reading.states or StateCounts({})
    yield _by("queued_tasks_state", "Tasks in each state.", "state", states.counts)
    yield _by(
        "queued_tasks_state_estimated", "1 where the number of a state is an estimate.", "state",
        {state: int(state in states.estimated) for state in states.counts},
    )  # fmt: skip


def _of_queues(reading: Reading) -> Iterator[Metric]:
    depths = reading.depths
    yield _by(
        "queued_queue_depth", "Tasks that are due and not taken.", "queue",
        {name: depth.depth for name, depth in depths.items()},
    )  # fmt: skip
    yield _by(
        "queued_queue_doing", "Tasks that run.", "queue",
        {name: depth.doing for name, depth in depths.items()},
    )  # fmt: skip
    yield _by(
        "queued_queue_oldest_due_seconds", "For how long the oldest of them is due.", "queue",
        {name: depth.oldest_due_seconds for name, depth in depths.items()},
    )  # fmt: skip
    yield _by(
        "queued_queue_paused", "1 where a queue is paused.", "queue",
        {name: int(paused) for name, paused in reading.paused.items()},
    )  # fmt: skip


def _of_workers(reading: Reading) -> Iterator[Metric]:
    known = {each.state: each for each in reading.processes}
    yield _by(
        "queued_workers", "Worker processes; silent ones have lost their lease.", "state",
        {state: known[state].processes if state in known else 0
         for state in ("running", "draining", "silent")},
    )  # fmt: skip
    alive = [each for each in reading.processes if each.state != "silent"]
    yield _gauge("queued_worker_slots", "Slots of the living.", sum(e.slots for e in alive))
    yield _gauge("queued_worker_slots_busy", "Slots with a task.", sum(e.busy for e in alive))
    yield _gauge(
        "queued_workers_deaf", "Workers that hear no notifications.", sum(e.deaf for e in alive)
    )


def _of_breakers(reading: Reading) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    state = GaugeMetricFamily(
        "circuit_breaker_state", "1 for the state that a breaker is in.", labels=["name", "state"]
    )
    failures = GaugeMetricFamily(
        "circuit_breaker_failures", "Failures in a row, as they count now.", labels=["name"]
    )
    opened = CounterMetricFamily(
        "circuit_breaker_opened", "How often a breaker has opened.", labels=["name"]
    )
    for breaker in reading.breakers:
        opened.add_metric([breaker.name], breaker.opened)
        for word in ("closed", "half_open", "open"):
            state.add_metric([breaker.name, word], int(breaker.state == word))
        failures.add_metric([breaker.name], breaker.failures)
    yield from (state, failures, opened)
