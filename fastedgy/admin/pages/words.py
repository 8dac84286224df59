"""Numbers, spans and moments as the pages write them: pure functions, used as template filters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from markupsafe import Markup

from fastedgy.wording import duration, escaped

_COMPACT = ((1_000_000_000, "B"), (1_000_000, "M"))


def clock() -> datetime:
    """Now, as an aware datetime."""
    return datetime.now(UTC)


def number(value: float | None) -> str:
    """A count, short where it is large: 1,204 and 1.2 M. None is a dash."""
    if value is None:
        return "-"
    for size, letter in _COMPACT:
        if abs(value) >= size:
            return f"{value / size:.1f} {letter}"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}"


def count(value: int, noun: str) -> str:
    """A count with its noun: 1 task, 1,200 tasks."""
    return f"{number(value)} {noun}{'' if value == 1 else 's'}"


def span(seconds: float | timedelta | None) -> str:
    """A span of time in the unit that fits: 3 ms, 1.2 s, 4 min 10 s, 2 h 5 min. None is a dash."""
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    if seconds is not None and 0 < seconds < 0.00095:
        return f"{seconds * 1e6:.0f} µs"
    return duration(seconds)


def milliseconds(value: float | None) -> str:
    """Milliseconds as a span."""
    return span(None if value is None else value / 1000)


def moment(value: datetime | None, form: str = "clock") -> Markup:
    """A moment as a `<time>` in UTC, which the script turns into the reader's own time.

    `form`: "clock" is the time of day with milliseconds, "minute" without seconds, "date" the day
    and the time.
    """
    if value is None:
        return Markup("-")
    value = value.astimezone(UTC)
    text = {
        "clock": f"{value:%H:%M:%S}.{value.microsecond // 1000:03}",
        "minute": f"{value:%H:%M}",
        "date": f"{value:%Y-%m-%d %H:%M:%S}",
    }[form]
    return Markup('<time datetime="{}" data-form="{}" title="{} UTC">{}</time>').format(
        value.isoformat(), form, f"{value:%Y-%m-%d %H:%M:%S}", text
    )


def ago(value: datetime | None, now: datetime) -> Markup:
    """How long ago a moment was, or how far ahead it is, as a `<time>`."""
    if value is None:
        return Markup("-")
    distance = (now - value).total_seconds()
    # A part of a second says nothing at this distance.
    away = f"{abs(distance):.0f} s" if abs(distance) < 60 else span(abs(distance))
    text = f"{away} ago" if distance >= 0 else f"in {away}"
    value = value.astimezone(UTC)
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(
        value.isoformat(), f"{value:%Y-%m-%d %H:%M:%S}", text
    )


def call(args: Any, kwargs: Any, *, longest: int = 120) -> str:
    """Arguments in one line, as the author of the task would write them."""
    given = args if isinstance(args, list | tuple) else [args]
    named = kwargs if isinstance(kwargs, Mapping) else {}
    parts = [json_line(value) for value in given]
    parts += [f"{name}={json_line(value)}" for name, value in named.items()]
    return shorten(", ".join(parts), longest)


def json_line(value: Any) -> str:
    """A JSON value in one line."""
    return json.dumps(value, ensure_ascii=False, default=str)


def shorten(text: object, longest: int = 120) -> str:
    """Text cut with an ellipsis. Control characters are written as escapes."""
    line = escaped(str(text))
    return line if len(line) <= longest else line[: longest - 1] + "…"


def last_part(name: str) -> str:
    """The last part of a dotted name."""
    return name.rpartition(".")[2] or name
