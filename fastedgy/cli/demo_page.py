"""What `fastedgy demo` measures, and how it shows it."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fastedgy.cli.context import say
from fastedgy.cli.output import count, duration, terminal
from fastedgy.cli.tables import state_table
from fastedgy.store.counts import StateCounts
from fastedgy.store.find import STATES, TaskRow


@dataclass(frozen=True, slots=True)
class Measured:
    """How a run went. Pick-up is the time from when a task was due until it started, in seconds.

    `seconds` is from the request until the end of the last task. `report` is None without one.
    """

    states: dict[str, int]
    seconds: float
    pickups: list[float]
    tried_again: int
    first_pickup: float | None
    last_pickup: float | None
    report: dict[str, Any] | None

    @property
    def tasks(self) -> int:
        return sum(self.states.values())

    @property
    def done(self) -> int:
        return self.states["done"]

    @property
    def tasks_per_second(self) -> float:
        return self.done / self.seconds if self.seconds else 0.0

    def pickup(self, share: float) -> float | None:
        """The pick-up that this share of the tasks was not slower than."""
        return self.pickups[round(share * (len(self.pickups) - 1))] if self.pickups else None

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "tasks": self.tasks,
            "done": self.done,
            "failed": self.states["failed"],
            "seconds": round(self.seconds, 3),
            "tasks_per_second": round(self.tasks_per_second, 1),
            "pickup_ms_p50": _milliseconds(self.pickup(0.50)),
            "pickup_ms_p95": _milliseconds(self.pickup(0.95)),
            "report": self.report,
        }


def measure(tasks: Sequence[TaskRow], report: dict[str, Any] | None) -> Measured:
    """Read off the rows of a run, in the order they were made, how it went."""
    states = Counter(task.state for task in tasks)
    begun = min(task.date_enqueued for task in tasks if task.date_enqueued)
    ended = max((task.date_ended for task in tasks if task.date_ended), default=begun)
    return Measured(
        states={state: states[state] for state in STATES},
        seconds=(ended - begun).total_seconds(),
        pickups=sorted(each for task in tasks if (each := _pickup(task)) is not None),
        tried_again=sum(task.attempt > 1 for task in tasks),
        first_pickup=_pickup(tasks[0]),
        last_pickup=_pickup(tasks[-1]),
        report=report,
    )


def _pickup(task: TaskRow) -> float | None:
    if task.date_started is None or task.date_enqueued is None:
        return None
    return (task.date_started - task.date_enqueued).total_seconds()


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 1)


class Screen:
    """What a person sees while the demo runs. With `--json`, standard output is for the object."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def tell(self, what: str, sentence: str) -> None:
        """A step that has been taken."""
        if not self.as_json:
            terminal().print(Text(f"{what:<10}", style="bold").append(sentence, style="not bold"))

    def warn(self, sentence: str) -> None:
        """Something that went wrong, and does not stop the demo."""
        say(sentence)

    @contextmanager
    def progress(self) -> Iterator[Bar]:
        """A bar, where there is a terminal to draw it in."""
        console = Console(stderr=True) if self.as_json else terminal()
        columns = (
            TextColumn("[bold]Tasks    "),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            yield Bar(progress)


class Bar:
    """The progress of a run: how many of its tasks are in which state."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar = progress.add_task("", total=None)

    def show(self, states: Counter[str]) -> None:
        """Draw it anew."""
        parts = [f"{states[state]:,} {state}" for state in STATES if states[state]]
        total = states.total()
        self._progress.update(
            self._bar,
            completed=states["done"] + states["failed"] + states["cancelled"],
            total=total if total > 1 else None,  # the first task has not added the others yet
            description=", ".join(parts),
        )


def end_page(measured: Measured, *, root: UUID, slots: int) -> None:
    """The last page: the verdict first, then the report, the numbers, and what to try next."""
    console = terminal()
    console.print()
    console.print(_verdict(measured))
    if measured.report is not None:
        console.print()
        for part in _report(measured.report):
            console.print(part)
    console.print()
    counted = {state: number for state, number in measured.states.items() if number}
    console.print(state_table(StateCounts(counted)))
    for line in ("", *_numbers(measured, slots), "", *_next(measured, root)):
        console.print(Text(line))


def _verdict(measured: Measured) -> Text:
    took = f"in {duration(measured.seconds)}, {measured.tasks_per_second:,.0f} a second."
    if measured.done == measured.tasks:
        return Text(f"All well: {count(measured.done, 'task')} done {took}", style="bold green4")
    missing = ", ".join(
        f"{number:,} {state}"
        for state, number in measured.states.items()
        if number and state != "done"
    )
    return Text(
        f"Not all well: of {count(measured.tasks, 'task')}, {measured.done:,} are done and "
        f"{missing}.",
        style="bold red3",
    )


def _report(report: dict[str, Any]) -> list[Text | Table]:
    sentence = (
        f"Python's standard library has {report['modules']:,} modules with {report['lines']:,} "
        f"lines, {report['functions']:,} functions and {report['classes']:,} classes."
    )
    both = Table.grid(padding=(0, 6, 0, 0))
    both.add_row(
        _ranking(
            "Biggest modules", "Lines", [(r["module"], r["lines"]) for r in report["biggest"]]
        ),
        _ranking(
            "Most imported", "By", [(r["module"], r["importers"]) for r in report["most_imported"]]
        ),
    )
    return [Text(sentence), Text(), both, Text(), Text(f"The report: {report['file']}")]


def _ranking(title: str, number: str, rows: list[tuple[str, int]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(title)
    table.add_column(number, justify="right")
    for name, value in rows:
        table.add_row(Text(name), f"{value:,}")
    return table


def _numbers(measured: Measured, slots: int) -> list[str]:
    again = count(measured.tried_again, "task")
    half, most = (duration(measured.pickup(share)) for share in (0.50, 0.95))
    return [
        f"Throughput  {measured.tasks_per_second:,.1f} tasks a second"
        + (f"; {again} failed at first and were tried again" if measured.tried_again else ""),
        f"Pick-up     p50 {half}, p95 {most}: the files come all at once, and wait in line for "
        f"{slots} slots",
        f"            {duration(measured.first_pickup)} for the first task and "
        f"{duration(measured.last_pickup)} for the last one, which find a slot free",
    ]


def _next(measured: Measured, root: UUID) -> list[str]:
    from fastedgy.demo import tasks

    fastedgy = command_name()
    id = root.hex[-12:]
    rows = [
        (f"{fastedgy} queue stats", "how the tasks went, by name"),
        (f"{fastedgy} queue show {id}", "the first task, with its log and context"),
        (f"{fastedgy} queue tree {id}", "it and its descendants"),
        (f"{fastedgy} queue list", "all tasks, the newest first"),
        (shlex.join(["less", tasks.__file__]), "the code that ran"),
    ]
    if measured.states["failed"]:
        rows.insert(0, (f"{fastedgy} queue list --state failed", "those that failed"))
    width = max(len(command) for command, _ in rows)
    return ["Where to look next", *(f"  {command:<{width}}  {what}" for command, what in rows)]


def keep_page(url: str, pids: Sequence[int], logs: Path, *, embedded: bool, err: bool) -> None:
    """How to reach and how to stop what was left running."""
    stop = f"kill {' '.join(map(str, pids))}"
    if embedded:
        stop += f" && {command_name()} db stop"
    lines = (
        "",
        "The server and the workers go on:",
        f"  curl -X POST {url}/index",
        f"  {url}/docs",
        f"  tail -f {shlex.join([str(logs / name) for name in ('server.log', 'workers.log')])}",
        f"Stop them:  {stop}",
    )
    click.echo("\n".join(lines), err=err)


def command_name() -> str:
    """How to call `fastedgy` again from the present folder: as it was called now."""
    called = Path(sys.argv[0])
    if called.name != "fastedgy":
        return shlex.join([sys.executable, "-m", "fastedgy"])
    found = shutil.which("fastedgy")
    if found is not None and Path(found).resolve() == called.resolve():
        return "fastedgy"
    return shlex.quote(str(called))
