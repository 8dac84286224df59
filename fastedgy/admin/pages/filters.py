"""Filters of the task list as the address holds them, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from starlette.datastructures import QueryParams

from fastedgy.admin.pages.words import count, number
from fastedgy.admin.types import StateCounts, TaskFilter
from fastedgy.errors import InvalidOption
from fastedgy.store.find import STATES

SINCE = {
    "15m": ("15 minutes ago", timedelta(minutes=15)),
    "1h": ("an hour ago", timedelta(hours=1)),
    "24h": ("24 hours ago", timedelta(days=1)),
    "7d": ("7 days ago", timedelta(days=7)),
}
"""What "since" offers: the word in the address, the words on the page, and how long that is."""
DAYS = {"today": 0, "yesterday": 1}
_LONGEST = 500
_IN_STATE = {
    "scheduled": "scheduled for later",
    "waiting": "waiting for parents",
    "enqueued": "waiting for a slot",
    "doing": "running",
    "done": "done",
    "failed": "failed for good",
    "cancelled": "cancelled",
}
_SAID = {
    "name": "named",
    "queue": "in queue",
    "since": "made since",
    "until": "made before",
    "error": "with error",
    "text": "whose message has",
    "worker": "on worker",
    "longer": "that took so many seconds:",
    "context": "with context",
    "key": "with key",
    "gate": "limited by",
    "schedule": "of schedule",
    "parent": "below",
    "tree": "in the family of",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the filter bar holds, as text: what it shows again, and what the address has."""

    state: str = ""
    name: str = ""
    queue: str = ""
    since: str = ""
    until: str = ""
    error: str = ""
    text: str = ""
    worker: str = ""
    longer: str = ""
    context: str = ""
    key: str = ""
    gate: str = ""
    schedule: str = ""
    parent: str = ""
    tree: str = ""

    @property
    def narrow(self) -> bool:
        """Whether anything below the first line of the bar is given."""
        return any(self.given(name) for name in _NARROW)

    def given(self, name: str) -> str:
        """One field."""
        value: str = getattr(self, name)
        return value

    def query(self, **changes: str) -> str:
        """The address with these fields changed; empty ones are left out."""
        changed = replace(self, **changes)
        pairs = [(each.name, changed.given(each.name)) for each in fields(Asked)]
        return urlencode([(name, value) for name, value in pairs if value])


_NARROW = tuple(
    each.name for each in fields(Asked) if each.name not in ("state", "name", "queue", "since")
)


def asked_in(query: QueryParams | Mapping[str, str]) -> Asked:
    """The filters of an address; what does not belong to them is left out."""
    given = {
        each.name: query.get(each.name, "").strip()[:_LONGEST].replace("\0", "")
        for each in fields(Asked)
    }
    return Asked(**given)


def asked_in_text(query: str) -> Asked:
    """The filters of the query part of an address."""
    return asked_in(dict(parse_qsl(query)))


def filter_of(asked: Asked, *, now: datetime) -> TaskFilter:
    """What the queries take. Raises InvalidOption for text that makes no sense."""
    states = tuple(state for state in asked.state.split(",") if state)
    for state in states:
        if state not in STATES:
            raise InvalidOption(f"There is no state {state!r}. States are {', '.join(STATES)}.")
    return TaskFilter(
        states=states,
        name=asked.name or None,
        queue=asked.queue or None,
        created_after=_moment("since", asked.since, now),
        created_before=_moment("until", asked.until, now),
        error=asked.error or None,
        error_text=asked.text or None,
        worker=asked.worker or None,
        min_duration=_seconds(asked.longer),
        context=_context(asked.context),
        key=asked.key or None,
        gate=asked.gate or None,
        schedule=asked.schedule or None,
        parent=_id("parent", asked.parent),
        tree=_id("tree", asked.tree),
    )


def sentence(asked: Asked, states: StateCounts, found: int, *, more: bool) -> str:
    """What the list shows, in plain words. `found`: on this page; `more`: there are others."""
    only_state = not asked.query(state="")
    if not asked.query():
        counts = states.counts
        about = "About " if states.estimated else ""
        return (
            f"{about}{count(sum(counts.values()), 'task')}: {number(counts['doing'])} run, "
            f"{number(counts['enqueued'])} wait for a slot, {number(counts['failed'])} failed."
        )
    if only_state and asked.state in states.counts:
        about = "About " if asked.state in states.estimated else ""
        return f"{about}{count(states.counts[asked.state], 'task')} {_IN_STATE[asked.state]}."
    said = [f"{word} {asked.given(name)}" for name, word in _SAID.items() if asked.given(name)]
    that = f" {asked.state.replace(',', ' or ')}" if asked.state else ""
    if not found:
        return f"No{that} task {', '.join(said)}."
    at_least = f"{found} or more" if more else str(found)
    noun = "task" if found == 1 and not more else "tasks"
    return f"{at_least}{that} {noun} {', '.join(said)}."


def _moment(field: str, text: str, now: datetime) -> datetime | None:
    if not text:
        return None
    if text in SINCE:
        return now - SINCE[text][1]
    if text in DAYS:
        midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight - timedelta(days=DAYS[text])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidOption(
            f"{field}={text!r} is no time. Write 15m, 1h, 24h, 7d, today, yesterday, or a date as "
            "2030-01-31 or 2030-01-31T12:00:00Z."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _seconds(text: str) -> float | None:
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise InvalidOption(f"longer={text!r} is no number of seconds.")
    return seconds


def _context(text: str) -> dict[str, object] | None:
    """`step=3` or `dataset.id="a"`: a value in JSON, or else text."""
    if not text:
        return None
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise InvalidOption(f"context={text!r} has to be a path and a value, as in dataset.id=7.")
    try:
        return {path.strip(): json.loads(value)}
    except ValueError:
        return {path.strip(): value.strip()}


def _id(field: str, text: str) -> UUID | None:
    if not text:
        return None
    try:
        return UUID(text)
    except ValueError:
        raise InvalidOption(f"{field}={text!r} is no id of a task.") from None
