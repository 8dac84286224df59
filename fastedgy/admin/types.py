"""What the queries of the queue take and give: plain dataclasses, the same in Python, over HTTP, on
the pages and in the terminal.

Times are aware datetimes of the database's clock; durations are in the unit that their names end
with, else in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID

from fastedgy.store.counts import StateCounts
from fastedgy.store.details import LogRow, TaskDetails
from fastedgy.store.overview import WorkerSummary
from fastedgy.store.search import TaskFilter
from fastedgy.store.summaries import TaskSummary

__all__ = [
    "BulkAction",
    "BulkPreview",
    "BulkProgress",
    "Drain",
    "Level",
    "LogRow",
    "NameStats",
    "Overview",
    "Page",
    "Point",
    "QueueChange",
    "QueueInfo",
    "RunningTask",
    "StateCounts",
    "Stats",
    "TaskDetails",
    "TaskFilter",
    "TaskSummary",
    "Tree",
    "WorkerInfo",
    "WorkerSummary",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a listing; `next` is the cursor of the page after it, None on the last.

    `searched_to`: a filter that no index serves is looked for in steps. Set when the time was up
    before the page was full: everything made since then has been looked at, and `next` goes on.
    """

    items: Sequence[T]
    next: str | None = None
    searched_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Tree:
    """A family: tasks in the order they were made, and `edges` (parent, child) between them.

    `truncated`: there are more than were asked for; the nearest are here.
    """

    root: UUID
    nodes: Sequence[TaskSummary]
    edges: Sequence[tuple[UUID, UUID]]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Point:
    """A minute (or what `seconds` says) of the queue's history, by what the workers counted.

    `done`, `failed` (for good), `retried` and `cancelled` (while running) ended in it. Waits are
    from being due to being started, in milliseconds; None where nothing started.
    """

    minute: datetime
    seconds: int
    done: int
    failed: int
    retried: int
    cancelled: int
    run_ms_mean: float | None
    run_ms_p50: float | None
    run_ms_p95: float | None
    wait_ms_p50: float | None
    wait_ms_p95: float | None
    wait_ms_p99: float | None


@dataclass(frozen=True, slots=True)
class NameStats:
    """How the runs of one name ended, by what the workers counted. Durations in milliseconds."""

    name: str
    done: int
    failed: int
    retried: int
    cancelled: int
    duration_ms_mean: float | None
    duration_ms_p50: float | None
    duration_ms_p95: float | None
    duration_ms_p99: float | None
    wait_ms_p50: float | None
    wait_ms_p95: float | None
    wait_ms_p99: float | None


@dataclass(frozen=True, slots=True)
class Stats:
    """The last `hours` hours: runs by how they ended, what is in the table now, and each name."""

    hours: float
    done: int
    failed: int
    retried: int
    cancelled: int
    running: int
    duration_ms_mean: float | None
    duration_ms_p50: float | None
    duration_ms_p95: float | None
    duration_ms_p99: float | None
    wait_ms_p50: float | None
    wait_ms_p95: float | None
    wait_ms_p99: float | None
    states: StateCounts
    names: Sequence[NameStats]


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """A queue. `depth`: tasks that are due and not claimed, `depth_estimated` if not counted.

    `oldest_due_seconds`: for how long the oldest of them is due. `workers` and `slots`: the living
    processes that serve it. `in_per_minute` and `out_per_minute`: the last minutes' rates.
    `seconds_to_empty`: at those rates, None where it does not get empty.
    """

    name: str
    depth: int
    depth_estimated: bool
    oldest_due_seconds: float
    doing: int
    paused: bool
    max_running: int | None
    rate: float | None
    workers: int
    slots: int
    in_per_minute: float
    out_per_minute: float
    seconds_to_empty: float | None


@dataclass(frozen=True, slots=True)
class QueueChange:
    """A queue that was paused, resumed or limited. `depth`: how many tasks are in its line.

    `known`: False where nothing has named it so far: no task that waits or ever ran, no worker, no
    setting. That may be meant, or a slip of the fingers: `warning` says so, with those that are
    known.
    """

    name: str
    depth: int
    known: bool
    warning: str | None


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A task in a slot of a worker."""

    id: UUID
    name: str
    queue: str
    date_started: datetime
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker process that has not ended, or whose end nobody has seen.

    `alive`: it gave a sign of life within the lease. `silent_for`: seconds since the last one.
    `queues` empty: all of them. `drain`: what an operator has asked to drain, this `worker` or its
    whole `supervisor`. `memory_mb`: resident at the last heartbeat. `tasks`: what is in
    its slots, the first ones only; `busy` counts them all.
    """

    id: UUID
    server_name: str
    pid: int
    supervisor_id: UUID | None
    state: str
    alive: bool
    is_web: bool
    queues: Sequence[str]
    concurrency: int
    busy: int
    version: str
    memory_mb: int | None
    counters: Mapping[str, Any]
    date_started: datetime
    last_heartbeat: datetime
    silent_for: float
    drain: str | None
    tasks: Sequence[RunningTask]

    @property
    def drains(self) -> bool:
        """Whether it takes no more tasks, or was asked to do so and obeys in a moment."""
        return self.state == "draining" or self.drain is not None


@dataclass(frozen=True, slots=True)
class Drain:
    """Who drains, or would: these `workers`, and these `supervisors` with them, so that nobody
    starts others in their places. `running`: tasks that run there now. `sentence`: for people.
    """

    name: str
    workers: Sequence[UUID]
    supervisors: Sequence[UUID]
    running: int
    sentence: str


class Level(StrEnum):
    """How the queue is."""

    healthy = "healthy"
    degraded = "degraded"
    unhealthy = "unhealthy"


@dataclass(frozen=True, slots=True)
class Overview:
    """The queue in one look. `sentence` says in plain words how it is; `reasons` say why it is not
    healthy. `per_minute`, `pick_up_ms_p95` and `failing` are of the last 15 minutes.
    """

    sentence: str
    level: Level
    reasons: Sequence[str]
    states: StateCounts
    queues: Sequence[QueueInfo]
    workers: WorkerSummary
    per_minute: float
    pick_up_ms_p95: float | None
    last_hour: Mapping[str, int]
    slowest: Sequence[TaskSummary]
    oldest: Sequence[TaskSummary]
    failing: Sequence[NameStats]
    busiest: Sequence[NameStats]


class BulkAction(StrEnum):
    """What can be done to many tasks at once."""

    cancel = "cancel"
    retry = "retry"
    reprioritise = "reprioritise"
    move = "move"
    delete = "delete"


@dataclass(frozen=True, slots=True)
class BulkPreview:
    """What a bulk action would do. `total` of the tasks that the filter finds can be acted on;
    `at_least`: counting stopped there, there are more. `sentence`: for people.
    """

    action: BulkAction
    total: int
    at_least: bool
    states: Mapping[str, int]
    queues: Mapping[str, int]
    names: Mapping[str, int]
    sentence: str


@dataclass(frozen=True, slots=True)
class BulkProgress:
    """How far a bulk action is: `changed` tasks so far, of `seen`, of `total` in all (as counted
    before; None where that was too many). `operation` is its id in the audit (`bulk:<id>`), and
    what `undo` takes.
    """

    operation: UUID
    action: BulkAction
    seen: int
    changed: int
    total: int | None
    finished: bool
