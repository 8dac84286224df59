"""How commands write: for people in a terminal, plainly into a pipe, as JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.text import Text

from fastedgy.wording import count as count
from fastedgy.wording import duration as duration
from fastedgy.wording import escaped

STATE_STYLES = {
    "scheduled": "light_slate_grey",
    "waiting": "medium_purple",
    "enqueued": "dodger_blue2",
    "doing": "orange3",
    "done": "green4",
    "failed": "red3",
    "cancelled": "grey50",
}

# Into a pipe, nothing is wrapped or cut: a line is as long as what it says.
_ENDLESS = 100_000


def terminal() -> Console:
    """A console for the present standard output; colours and wrapping only in a terminal."""
    if sys.stdout.isatty():
        return Console(highlight=False, emoji=False)
    return Console(width=_ENDLESS, soft_wrap=True, highlight=False, emoji=False, no_color=True)


class _Now:
    """`console.print(…)` writes to what is the standard output at that moment."""

    def __getattr__(self, name: str) -> Any:
        return getattr(terminal(), name)


console: Console = _Now()  # type: ignore[assignment]


@contextmanager
def progress(words: str, total: int | None = None) -> Iterator[Callable[[int], object]]:
    """A bar for work that may take long; yields what tells it that so many more are done.

    On stderr, where that is a terminal, and gone at the end. Without a `total` it counts.
    """
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    counted = (
        "{task.completed:,.0f}" if total is None else "{task.completed:,.0f} of {task.total:,.0f}"
    )
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn(counted),
        TimeElapsedColumn() if total is None else TimeRemainingColumn(),
    )  # fmt: skip
    errors = Console(stderr=True)
    hidden = not errors.is_terminal
    with Progress(*columns, console=errors, transient=True, disable=hidden) as bar:
        task = bar.add_task(words, total=total)
        yield lambda more: bar.advance(task, more)


def print_json(value: Any) -> None:
    """Write one JSON value to the standard output."""
    click.echo(json.dumps(plain_value(value), indent=2, ensure_ascii=False))


def json_line(value: Any) -> str:
    """A JSON value in one line."""
    return json.dumps(plain_value(value), ensure_ascii=False)


def plain_value(value: Any) -> Any:
    """A value of dataclasses, ids and dates as JSON types."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain_value(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(plain_value(each) for each in value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    return value


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=STATE_STYLES.get(state, ""))


def shown(value: object, *, lines: bool = False) -> str:
    """Text from a row, harmless to a terminal: control characters are written as escapes.

    Line ends too, unless `lines`.
    """
    return escaped(str(value), lines=lines)
