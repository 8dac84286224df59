"""What code or an operator says of a schedule, checked; and the same as a row and as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from enum import Enum
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

import orjson

from fastedgy.errors import InvalidOption, InvalidSchedule, SignatureRefused
from fastedgy.queued_task.functions import describe
from fastedgy.queued_task.options import TaskOptions
from fastedgy.queued_task.signing import sign, verify
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.queued_tasks.duplicates import USUAL, Uniqueness
from fastedgy.queued_tasks.maker import TaskMaker
from fastedgy.scheduler.trigger import Trigger, moment, seconds
from fastedgy.store.newtask import Spec
from fastedgy.store.schedules import ScheduleRow


class Unset(Enum):
    """Nothing was said, which None does not mean here."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
GRACE = 60.0
"""Seconds by which a cron or a period may be late by default. One moment (`at=`): however late."""
_LONGEST_NAME = 200
_INT4 = 2**31 - 1
_TEMPLATE = ("name", "queue", "priority", "max_retries", "timeout", "delay", "auto_remove",
             "on_parent_failure", "limit", "rate", "breaker")  # fmt: skip
TIMES = ("cron", "every", "at", "timezone", "start", "end")


@dataclass(frozen=True, slots=True)
class Terms:
    """When a schedule fires, and what becomes of due times that were missed. Durations: seconds."""

    trigger: Trigger
    jitter: float = 0.0
    misfire_grace: float | None = GRACE
    coalesce: bool = True
    max_instances: int | None = 1

    @classmethod
    def of(cls, words: Mapping[str, Any]) -> Terms:
        """Check what was said. Raises InvalidSchedule."""
        timezone = words.get("timezone", "UTC")
        if not isinstance(timezone, str):
            raise InvalidSchedule(f"timezone={timezone!r} is no time zone; give its name.")
        cron = words.get("cron")
        if cron is not None and not isinstance(cron, str):
            raise InvalidSchedule(f"cron={cron!r} is no cron expression; give text.")
        given = {name: words[name] for name in ("at", "start", "end") if words.get(name)}
        moments = {name: moment(value, name, timezone) for name, value in given.items()}
        every = words.get("every")
        trigger = Trigger(
            cron=" ".join(cron.split()) if cron is not None else None,
            every=None if every is None else seconds(every, "every"),
            timezone=timezone,
            **moments,
        )
        grace = words.get("misfire_grace", UNSET)
        if grace is UNSET:
            grace = None if trigger.at is not None else GRACE
        coalesce = words.get("coalesce", True)
        if not isinstance(coalesce, bool):
            raise InvalidSchedule(f"coalesce={coalesce!r} must be True or False.")
        return cls(
            trigger,
            jitter=_span(words.get("jitter", 0.0), "jitter"),
            misfire_grace=None if grace is None else _span(grace, "misfire_grace"),
            coalesce=coalesce,
            max_instances=_instances(words.get("max_instances", 1)),
        )


def _span(value: Any, word: str) -> float:
    span = seconds(value, word)
    if not (math.isfinite(span) and span >= 0):
        raise InvalidSchedule(f"{word}={value!r} must not be negative.")
    return span


def _instances(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _INT4:
        raise InvalidSchedule(f"max_instances={value!r} must be a number from 1 on, or None.")
    return value


def check_name(name: Any) -> str:
    """A name that a schedule may have. Raises InvalidSchedule."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise InvalidSchedule(f"name={name!r} must be text in one line.")
    if name != name.strip() or len(name) > _LONGEST_NAME:
        raise InvalidSchedule(
            f"name={name!r} must have at most {_LONGEST_NAME} characters, and no space at its ends."
        )
    return name


@dataclass(frozen=True, slots=True)
class Call:
    """What a schedule runs: a function, its arguments, and options of its tasks."""

    func: Callable[..., Any]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] | None = None
    options: Mapping[str, Any] | None = None

    def put_into(self, row: ScheduleRow, service: QueuedTasks) -> None:
        """Write it into a row, with all that its tasks' rows will say.

        Raises InvalidFunction, InvalidArguments and InvalidOption, like `add_task`.
        """
        options = dict(self.options or {})
        for word in ("at", "parent"):
            if word in options:
                raise InvalidOption(f"{word}= is no option of a schedule's tasks.")
        checked = TaskOptions.of_call(options)
        function = describe(self.func)
        task = TaskMaker(service, checked).make(self.func, self.args, self.kwargs or {})
        if task.takes_results:
            raise InvalidSchedule(
                f"{function.name}: a task's result is no argument of a schedule, whose tasks start "
                "at their times."
            )
        if task.uniqueness not in (USUAL, Uniqueness("error")):
            raise InvalidSchedule(
                f"{function.name}: unique_for=, unique_while= and on_duplicate='replace' are for "
                "tasks that somebody adds. A schedule has max_instances=, and a unique_key= that "
                "counts as long as its task has not ended."
            )
        row.function, row.args, row.kwargs = function.path, task.args, task.kwargs
        row.options = {
            name: value
            for each in fields(checked)
            if (value := getattr(checked, name := each.name)) is not None
        }
        template = {name: getattr(task.spec, name) for name in _TEMPLATE}
        template |= {"unique_key": task.unique_key, "gate": task.gate}
        redact = task.spec.redact
        template["redact"] = None if redact is None else list(redact)
        row.task = {name: value for name, value in template.items() if value is not None}
        seal(row, service)


def seal(row: ScheduleRow, service: QueuedTasks) -> None:
    """Sign what the row runs, where tasks are signed: a forged schedule makes unsigned tasks."""
    keys = service.config.signing_keys
    row.signature = (
        sign(keys, _id_of(row.name), row.function, row.args, row.kwargs) if keys else None
    )


def signature_for(row: ScheduleRow, id: UUID, keys: Sequence[str]) -> str | None:
    """The signature of a task of this schedule. None where nobody signs, or nobody signed it."""
    if not keys or not is_sealed(row, keys):
        return None  # the worker that is to run it says so, in the task
    return sign(keys, id, row.function, row.args, row.kwargs)


def is_sealed(row: ScheduleRow, keys: Sequence[str]) -> bool:
    """Whether somebody with one of `keys` signed what the row runs."""
    try:
        verify(keys, row.signature, _id_of(row.name), row.function, row.args, row.kwargs)
    except SignatureRefused:
        return False
    return True


def _id_of(name: str) -> UUID:
    return uuid5(NAMESPACE_URL, f"schedule:{name}")


def put_terms(row: ScheduleRow, terms: Terms) -> None:
    """Write into a row when it fires. Where it moves on to is another matter."""
    trigger = terms.trigger
    row.cron, row.every, row.at, row.timezone = (
        trigger.cron, trigger.every, trigger.at, trigger.timezone
    )  # fmt: skip
    row.start_at, row.end_at = trigger.start, trigger.end
    row.jitter, row.misfire_grace = terms.jitter, terms.misfire_grace
    row.coalesce_missed, row.max_instances = terms.coalesce, terms.max_instances


def trigger_of(row: ScheduleRow) -> Trigger:
    """When a row is due. Raises InvalidSchedule for one that this release cannot read."""
    return Trigger(
        cron=row.cron, every=row.every, at=row.at, timezone=row.timezone, start=row.start_at,
        end=row.end_at, anchor=row.anchor,
    )  # fmt: skip


def said_of(row: ScheduleRow) -> dict[str, Any]:
    """The terms of a row by the names that `scheduled` has for them, whether they make sense or
    not."""
    return {
        "cron": row.cron, "every": row.every, "at": row.at, "timezone": row.timezone,
        "start": row.start_at, "end": row.end_at, "jitter": row.jitter,
        "misfire_grace": row.misfire_grace, "coalesce": row.coalesce_missed,
        "max_instances": row.max_instances,
    }  # fmt: skip


def words_of(row: ScheduleRow) -> dict[str, Any]:
    """Everything that can be said of a schedule, as JSON: what a declaration is compared with."""
    called = {
        "function": row.function,
        "args": orjson.loads(row.args),
        "kwargs": orjson.loads(row.kwargs),
        "options": row.options,
    }
    said = said_of(row)
    for name in ("at", "start", "end"):
        said[name] = said[name] and said[name].isoformat()
    return called | said


def begin(row: ScheduleRow, now: datetime) -> None:
    """Let a row start `now`, as one that was never seen before."""
    row.anchor = now
    row.next_due = trigger_of(row).first(now)


def spec_of(row: ScheduleRow) -> Spec:
    """The row's tasks, for hooks to look at."""
    said = {name: row.task[name] for name in _TEMPLATE if name in row.task}
    return Spec(**{"name": row.name, **said}, function=row.function, schedule=row.name)
