"""What happened to a task, in order, and its traceback folded: pure functions of its row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from fastedgy.admin.types import TaskDetails
from fastedgy.store.details import began
from fastedgy.wording import moment_of

WIDTH = 1000.0
_BARELY = timedelta(milliseconds=1)
_FRAME = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)$')
_LIBRARIES = ("site-packages", "dist-packages", "/lib/python", "<frozen ", "/fastedgy/")


@dataclass(frozen=True, slots=True)
class Event:
    """One moment of a task. `style`: the state whose colour it has. `gap`: seconds since the one
    before, None where there is nothing to tell.
    """

    at: datetime
    what: str
    style: str
    detail: str
    gap: float | None


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the bar above the events: running (in the colour of its end) or not."""

    x: float
    width: float
    style: str
    tip: str


@dataclass(frozen=True, slots=True)
class Frames:
    """Neighbouring lines of a traceback, those of the application or those of libraries."""

    ours: bool
    text: str
    count: int


def events_of(task: TaskDetails) -> list[Event]:
    """The moments of a task, the first one first."""
    found: list[tuple[datetime | None, str, str, str]] = [(task.date_created, "created", "", "")]
    for entry in _history(task):
        attempt = entry.get("attempt", "?")
        found.append((moment_of(entry.get("started")), f"started, attempt {attempt}", "doing", ""))
        what = str(entry.get("what") or "ended")
        style = "failed" if entry.get("error_type") else ""
        found.append((moment_of(entry.get("ended")), what, style, _error(entry)))
    if task.state == "scheduled":
        found.append((task.date_due, "due", "scheduled", ""))
    if task.date_enqueued and task.state not in ("scheduled", "waiting"):
        found.append((task.date_enqueued, "enqueued", "enqueued", ""))
    if (started := began(task)) is not None:
        found.append((started, f"started, attempt {task.attempt}", "doing", ""))
    if task.date_ended:
        ended = {"error_type": task.error_type, "error_message": task.error_message}
        found.append((task.date_ended, task.state, task.state, _error(ended)))
    events: list[Event] = []
    for at, what, style, detail in sorted(
        ((at, what, style, detail) for at, what, style, detail in found if at is not None),
        key=lambda event: event[0],
    ):
        distance = at - events[-1].at if events else timedelta(0)
        gap = distance.total_seconds() if distance >= _BARELY else None
        events.append(Event(at, what, style, detail, gap))
    return events


def parts_of(task: TaskDetails, *, now: datetime) -> list[Part]:
    """The life of a task as a bar: each run in the colour of its end, in proportion to its time.

    Very short runs are drawn wide enough to be seen.
    """
    runs: list[tuple[datetime, datetime, str, str]] = []
    for entry in _history(task):
        start, end = moment_of(entry.get("started")), moment_of(entry.get("ended"))
        if start is not None and end is not None:
            style = "failed" if entry.get("error_type") else "cancelled"
            runs.append((start, end, style, f"attempt {entry.get('attempt', '?')}"))
    if (started := began(task)) is not None:
        end = task.date_ended or now
        runs.append((started, max(end, started), task.state, f"attempt {task.attempt}"))
    if not runs:
        return []
    first = min(task.date_created, runs[0][0])
    whole = max((max(end for _, end, _, _ in runs) - first).total_seconds(), 1e-6)
    parts = []
    for start, end, style, tip in runs:
        x = (start - first).total_seconds() / whole * WIDTH
        width = max(3.0, (end - start).total_seconds() / whole * WIDTH)
        x = max(0.0, min(x, WIDTH - width))
        parts.append(Part(round(x, 1), round(width, 1), style, tip))
    return parts


def frames_of(traceback: str) -> list[Frames]:
    """A traceback in stretches: those of the application to be read, those of libraries folded."""
    stretches: list[tuple[bool, list[str]]] = []
    ours = True
    for line in traceback.rstrip().splitlines():
        frame = _FRAME.match(line)
        if frame is not None:
            ours = not any(part in frame["file"] for part in _LIBRARIES)
        elif not line.startswith("    "):
            ours = True  # the header, a message, or the words between two chained errors
        if stretches and stretches[-1][0] == ours:
            stretches[-1][1].append(line)
        else:
            stretches.append((ours, [line]))
    return [
        Frames(ours, "\n".join(lines), sum(bool(_FRAME.match(line)) for line in lines))
        for ours, lines in stretches
    ]


def _history(task: TaskDetails) -> list[Mapping[str, Any]]:
    entries = task.history if isinstance(task.history, list) else []
    return [entry for entry in entries if isinstance(entry, Mapping)]


def _error(entry: Mapping[str, Any]) -> str:
    kind, message = entry.get("error_type") or "", entry.get("error_message") or ""
    first = str(message).split("\n", 1)[0]
    return f"{kind}: {first}" if kind and first else str(kind or first)
