"""The live screen of `queue watch`: what it shows, as pure functions of what was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fastedgy.admin.types import Overview, Point, QueueInfo, TaskSummary, WorkerInfo
from fastedgy.cli.output import STATE_STYLES, count, duration, shown, state_text

LEVEL_STYLES = {"healthy": "green4", "degraded": "orange3", "unhealthy": "bold red3"}
BARS = "▁▂▃▄▅▆▇█"
SQUARES = 24
"""Squares of a worker at most; one stands for several slots where there are more."""
MINUTES = 30
"""How far the sparklines go back."""

KEYS = {
    "↑ ↓, j k": "choose a queue, a name or a task",
    "enter": "look into it: a queue's or a name's tasks, a task's page",
    "p": "pause or resume the chosen queue",
    "r": "retry the chosen failed task, or all failed ones of the chosen name",
    "f": "the newest failed tasks",
    "esc, backspace": "back",
    "?": "these keys",
    "q": "quit",
}


@dataclass(frozen=True, slots=True)
class Item:
    """Something that can be chosen: `kind` is queue, name or task; `key` its name or id."""

    kind: str
    key: str


@dataclass(frozen=True, slots=True)
class Frame:
    """What one look at the queue found."""

    overview: Overview
    points: Sequence[Point]
    workers: Sequence[WorkerInfo]

    def items(self) -> list[Item]:
        """What can be chosen, from top to bottom."""
        return [
            *(Item("queue", queue.name) for queue in self.overview.queues),
            *(Item("task", str(task.id)) for task in self.overview.slowest),
            *(Item("name", name.name) for name in self.overview.failing),
        ]


def sparkline(values: Sequence[float | None]) -> str:
    """Values as a row of bars, each as high as its share of the highest; a gap is a dot."""
    highest = max((value for value in values if value is not None), default=0.0)
    return "".join(
        "·" if value is None else BARS[round((len(BARS) - 1) * value / highest)] if highest else
        BARS[0]
        for value in values
    )  # fmt: skip


def overview_screen(frame: Frame, chosen: Item | None = None) -> RenderableType:
    """The first screen: the sentence, plots, states, queues, names, workers."""
    overview = frame.overview
    return Group(
        Text(shown(overview.sentence), style=LEVEL_STYLES[overview.level]),
        Text(),
        _states(overview),
        *_plots(frame.points),
        Text(),
        _queues(overview.queues, chosen),
        Text(),
        _sections(overview, chosen),
        Text(),
        *_workers(frame.workers),
    )


def _states(overview: Overview) -> Text:
    line = Text()
    for state, number in overview.states.counts.items():
        about = "~" if state in overview.states.estimated else ""
        line.append(f"{state} ", style=STATE_STYLES[state]).append(f"{about}{number:,}   ")
    return line


def _plots(points: Sequence[Point]) -> list[Text]:
    """The whole minutes only: the present one has hardly begun."""
    whole = list(points)[-MINUTES - 1 : -1]
    if not whole:
        return []
    done = [point.done + point.failed for point in whole]
    waits = [point.wait_ms_p95 for point in whole]
    last = next((wait for wait in reversed(waits) if wait is not None), None)
    return [
        Text.assemble(("throughput  ", "grey50"), (sparkline(done), STATE_STYLES["done"]),
                      f"  {done[-1]:,} in the last minute"),
        Text.assemble(("pick-up p95 ", "grey50"), (sparkline(waits), STATE_STYLES["enqueued"]),
                      f"  {duration(None if last is None else last / 1000)}"),
    ]  # fmt: skip


def _table(*headers: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(
            header, justify="right" if header in right else "left", no_wrap=True,
            overflow="ellipsis",
        )  # fmt: skip
    return table


def _mark(item: Item, chosen: Item | None) -> str:
    return "reverse" if item == chosen else ""


def _queues(queues: Sequence[QueueInfo], chosen: Item | None) -> RenderableType:
    if not queues:
        return Text("No queue has tasks or settings.", style="grey50")
    right = ("Depth", "Oldest", "Doing", "In/min", "Out/min", "Workers")
    table = _table("Queue", *right, "", right=right)
    for queue in queues:
        notes = ["paused"] if queue.paused else []
        if queue.max_running is not None:
            notes.append(f"at most {queue.max_running:,} at once")
        if queue.rate is not None:
            notes.append(f"{queue.rate:g} starts/s")
        if queue.depth and not queue.workers:
            notes.append("no worker")
        table.add_row(
            Text(shown(queue.name)),
            f"{'~' if queue.depth_estimated else ''}{queue.depth:,}",
            duration(queue.oldest_due_seconds) if queue.depth else "-",
            f"{queue.doing:,}",
            f"{queue.in_per_minute:,.0f}",
            f"{queue.out_per_minute:,.0f}",
            f"{queue.workers:,}",
            Text(", ".join(notes), style="orange3"),
            style=_mark(Item("queue", queue.name), chosen),
        )
    return table


def _sections(overview: Overview, chosen: Item | None) -> RenderableType:
    slowest = _table("Slowest now", "For", "Worker", right=["For"])
    for task in overview.slowest:
        slowest.add_row(
            Text(shown(task.name)), duration(task.duration), Text(shown(task.worker or "-")),
            style=_mark(Item("task", str(task.id)), chosen),
        )  # fmt: skip
    failing = _table("Failing", "Failed", "Done", right=["Failed", "Done"])
    for name in overview.failing:
        failing.add_row(
            Text(shown(name.name)), Text(f"{name.failed:,}", style=STATE_STYLES["failed"]),
            f"{name.done:,}", style=_mark(Item("name", name.name), chosen),
        )  # fmt: skip
    if not overview.slowest:
        slowest.add_row(Text("nothing runs", style="grey50"), "", "")
    if not overview.failing:
        failing.add_row(Text("nothing failed lately", style="grey50"), "", "")
    sides = Table.grid(padding=(0, 4, 0, 0), expand=False)
    sides.add_row(slowest, failing)
    return sides


def squares(busy: int, slots: int) -> Text:
    """The slots of a worker, the busy ones filled; one square for several where they are many."""
    shown_slots = min(slots, SQUARES)
    filled = -(-busy * shown_slots // slots) if slots else 0
    return Text("■" * filled, style=STATE_STYLES["doing"]).append(
        "□" * (shown_slots - filled), style="grey50"
    )


def _workers(workers: Sequence[WorkerInfo]) -> list[RenderableType]:
    table = _table("Worker", "Slots", "", "State", "Queues", "Memory", right=["Memory"])
    own = [worker for worker in workers if not worker.is_web]
    if not own:
        return [Text("No worker runs.", style="red3")]
    for worker in own:
        state = "draining" if worker.drains else worker.state
        if not worker.alive:
            state = f"silent for {duration(worker.silent_for)}"
        style = "" if worker.alive and not worker.drains else "orange3"
        table.add_row(
            Text(shown(f"{worker.server_name}/{worker.pid}")),
            squares(worker.busy, worker.concurrency),
            f"{worker.busy:,}/{worker.concurrency:,}",
            Text(state, style=style),
            Text(shown(", ".join(worker.queues) or "all"), style="grey50"),
            "-" if worker.memory_mb is None else f"{worker.memory_mb:,} MB",
        )
    return [table]


def tasks_screen(
    title: str, tasks: Sequence[TaskSummary], chosen: Item | None = None
) -> RenderableType:
    """A list of tasks, to choose one from."""
    table = _table("State", "Name", "Queue", "Attempt", "Took", "Error", "Id", right=["Took"])
    for task in tasks:
        table.add_row(
            state_text(task.state),
            Text(shown(task.name)),
            Text(shown(task.queue)),
            f"{task.attempt} of {task.max_retries + 1}",
            duration(task.duration),
            Text(shown(task.error or ""), style="red3"),
            str(task.id)[-12:],
            style=_mark(Item("task", str(task.id)), chosen),
        )
    body: RenderableType = table if tasks else Text("None.", style="grey50")
    return Group(Text(title, style="bold"), Text(), body)


def help_screen() -> RenderableType:
    """The keys."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    for keys, what in KEYS.items():
        table.add_row(Text(keys, style="bold"), what)
    return Group(Text("Keys", style="bold"), Text(), table)


def footer(message: str | None, question: str | None) -> Text:
    """The last line: a question, what came of the last key, or the keys."""
    if question is not None:
        return Text(f"{question}  y: yes, any other key: no", style="bold orange3")
    if message is not None:
        return Text(shown(message), style="dodger_blue2")
    return Text("↑↓ choose   enter look   p pause   r retry   f failed   ? keys   q quit",
                style="grey50")  # fmt: skip


def screen(body: RenderableType, message: str | None, question: str | None) -> RenderableType:
    """A body with its last line."""
    return Group(body, Text(), footer(message, question))


def counted(number: int) -> str:
    """`1 task was`, `3 tasks were`."""
    return f"{count(number, 'task')} {'was' if number == 1 else 'were'}"
