"""How numbers are written for people, wherever they read them."""

from __future__ import annotations

from datetime import datetime, timedelta


def duration(seconds: float | timedelta | None) -> str:
    """A span of time in the unit that fits: 3 ms, 1.2 s, 4 min 10 s, 2 h 5 min, 3 d 4 h."""
    if seconds is None:
        return "-"
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    seconds = max(0.0, seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller_size, smaller in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def count(number: int, noun: str) -> str:
    """`1 task`, `1,200 tasks`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def when(moment: datetime, now: datetime) -> str:
    """How long until a moment: `in 40.0 s (12:00:03 UTC)`; `now` where it is over."""
    seconds = (moment - now).total_seconds()
    if seconds <= 0:
        return "now"
    at = f"{moment:%H:%M:%S} UTC" if seconds < 86_400 else f"{moment:%Y-%m-%d %H:%M} UTC"
    return f"in {duration(seconds)} ({at})"


def written_rate(rate: float) -> str:
    """A rate in the unit in which it is a number above one."""
    for seconds, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if rate * seconds >= 1:
            return f"{rate * seconds:g} tasks per {unit}"
    return f"one task in {duration(1 / rate)}"


def escaped(text: str, *, lines: bool = False) -> str:
    """Text from a row, with control characters as escapes; line ends too, unless `lines`."""
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        each if each.isprintable() or each in kept else each.encode("unicode_escape").decode()
        for each in text
    )


def moment_of(text: object) -> datetime | None:
    """A moment as the history of a row has it; None for what is none."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.astimezone()


def first_line(message: str | None) -> str:
    """What follows after a word for an error: a colon and the first line of its message."""
    lines = (message or "").strip().splitlines()
    return f": {lines[0][:200]}" if lines else ""
