"""The slots of the workers as a grid of squares: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from fastedgy.admin.pages.words import shorten, span
from fastedgy.admin.types import RunningTask, WorkerInfo

STEP = 14
SIDE = 11
IN_A_ROW = 40
LINKED = 2_000
"""Squares of a page that lead to their tasks; at least ten of each process do."""


@dataclass(frozen=True, slots=True)
class Square:
    """A slot with a task in it."""

    x: int
    y: int
    task: RunningTask
    tip: str


@dataclass(frozen=True, slots=True)
class Process:
    """A worker process with its squares: those of `squares` lead to tasks, the others are in two
    paths. `filled`: `busy`, or `blocked` where the worker is silent. `more` slots are not drawn.
    """

    worker: WorkerInfo
    word: str
    style: str
    filled: str
    squares: list[Square]
    others: str
    idle: str
    width: int
    height: int
    more: int


@dataclass(frozen=True, slots=True)
class Host:
    """A server with its processes."""

    name: str
    processes: list[Process]

    @property
    def busy(self) -> int:
        return sum(process.worker.busy for process in self.processes)

    @property
    def slots(self) -> int:
        return sum(process.worker.concurrency for process in self.processes)

    @property
    def drainable(self) -> bool:
        """Whether a worker there could be asked to drain: its supervisor would end with it."""
        return any(not each.worker.is_web and each.worker.drain != "supervisor"
                   for each in self.processes)  # fmt: skip


def linked_each(workers: int) -> int:
    """How many squares of each of so many processes lead to their tasks."""
    return max(10, LINKED // max(1, workers))


def hosts_of(workers: Sequence[WorkerInfo], *, now: datetime, most: int) -> list[Host]:
    """The workers by server, each with up to `most` squares."""
    linked = linked_each(len(workers))
    hosts: dict[str, list[Process]] = {}
    for worker in workers:
        hosts.setdefault(worker.server_name, []).append(_process(worker, now, most, linked))
    return [Host(name, processes) for name, processes in sorted(hosts.items())]


def _process(worker: WorkerInfo, now: datetime, most: int, linked: int) -> Process:
    slots = max(worker.concurrency, worker.busy)
    drawn = min(slots, most)
    tasks = worker.tasks[: min(linked, drawn)]
    squares = [Square(*_place(at), task, _tip(task, now)) for at, task in enumerate(tasks)]
    busy = max(len(tasks), min(worker.busy, drawn))
    word, style = _state(worker)
    columns, rows = min(drawn, IN_A_ROW), -(-drawn // IN_A_ROW)
    return Process(
        worker, word, style,
        filled="busy" if worker.alive else "blocked",
        squares=squares,
        others=_path(range(len(tasks), busy)),
        idle=_path(range(busy, drawn)),
        width=max(1, columns * STEP), height=max(1, rows * STEP), more=slots - drawn,
    )  # fmt: skip


def _place(at: int) -> tuple[int, int]:
    return at % IN_A_ROW * STEP + 1, at // IN_A_ROW * STEP + 1


def _path(places: Iterable[int]) -> str:
    return "".join("M{} {}h{side}v{side}h-{side}z".format(*_place(at), side=SIDE) for at in places)


def _state(worker: WorkerInfo) -> tuple[str, str]:
    """A word for a process, and the state whose colour it has."""
    if not worker.alive:
        return "silent", "failed"
    if worker.drains:
        return "draining", "waiting"
    return ("busy", "doing") if worker.busy else ("idle", "")


def _tip(task: RunningTask, now: datetime) -> str:
    asked = ", asked to stop" if task.cancel_requested else ""
    return f"{shorten(task.name, 80)}, {span(now - task.date_started)}{asked}"
