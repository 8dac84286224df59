"""The slots of the workers as a grid of squares: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from fastedgy.admin.pages.words import shorten, span
from fastedgy.admin.types import RunningTask, WorkerInfo

STEP = 14
SIDE = 11
IN_A_ROW = 40


@dataclass(frozen=True, slots=True)
class Square:
    """One slot: `idle`, `busy`, or `blocked` (its worker is silent)."""

    x: int
    y: int
    style: str
    task: RunningTask | None
    tip: str


@dataclass(frozen=True, slots=True)
class Process:
    """A worker process with its squares; `more` slots are not drawn."""

    worker: WorkerInfo
    word: str
    style: str
    squares: list[Square]
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


def hosts_of(workers: Sequence[WorkerInfo], *, now: datetime, most: int) -> list[Host]:
    """The workers by server, each with up to `most` squares."""
    hosts: dict[str, list[Process]] = {}
    for worker in workers:
        hosts.setdefault(worker.server_name, []).append(_process(worker, now, most))
    return [Host(name, processes) for name, processes in sorted(hosts.items())]


def _process(worker: WorkerInfo, now: datetime, most: int) -> Process:
    slots = max(worker.concurrency, worker.busy)
    drawn = min(slots, most)
    filled = "busy" if worker.alive else "blocked"
    squares = []
    for place in range(drawn):
        task = worker.tasks[place] if place < len(worker.tasks) else None
        style = filled if place < worker.busy else "idle"
        tip = _tip(task, now) if task else ""
        x, y = place % IN_A_ROW * STEP, place // IN_A_ROW * STEP
        squares.append(Square(x + 1, y + 1, style, task, tip))
    word, style = _state(worker)
    columns, rows = min(drawn, IN_A_ROW), -(-drawn // IN_A_ROW)
    return Process(
        worker, word, style, squares,
        width=max(1, columns * STEP), height=max(1, rows * STEP), more=slots - drawn,
    )  # fmt: skip


def _state(worker: WorkerInfo) -> tuple[str, str]:
    """A word for a process, and the state whose colour it has."""
    if not worker.alive:
        return "silent", "failed"
    if worker.state == "draining":
        return "draining", "waiting"
    return ("busy", "doing") if worker.busy else ("idle", "")


def _tip(task: RunningTask, now: datetime) -> str:
    asked = ", asked to stop" if task.cancel_requested else ""
    return f"{shorten(task.name, 80)}, {span(now - task.date_started)}{asked}"
