"""Schedules: the next day as a time line, pause, resume, run now, and edit with a preview."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request, Response

from fastedgy.admin.api.fields import WITHOUT_NUL
from fastedgy.admin.auth import Identity
from fastedgy.admin.pages.day import lanes_of
from fastedgy.admin.pages.site import Site, back
from fastedgy.admin.pages.words import clock, count, span
from fastedgy.admin.service import QueueAdmin
from fastedgy.dependencies import Inject
from fastedgy.errors import FastEdgyError, InvalidSchedule
from fastedgy.scheduler import Schedule, Scheduler
from fastedgy.scheduler.definition import Terms
from fastedgy.scheduler.schedule import schedule_of
from fastedgy.scheduler.walltime import zone
from fastedgy.store.schedules import list_schedules

SOURCE = "page"
PREVIEWED = 10
_KINDS = ("cron", "every", "at")


def add_routes(router: APIRouter, site: Site) -> None:
    """Add them to the pages' router."""
    read = Annotated[Identity, Depends(site.auth.read)]
    write = Annotated[Identity, Depends(site.auth.write)]
    name_of = Annotated[str, Form(min_length=1, max_length=200, pattern=WITHOUT_NUL)]

    @router.get("/schedules")
    async def schedules(
        request: Request, who: read, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """All schedules, and when each is due in the next day."""
        now = clock()
        async with admin.connection() as connection:
            rows = await list_schedules(connection, admin.tables)
        rows = [row for row in rows if row.removed is None]
        found = [schedule_of(row) for row in rows]
        level, sentence = about(found, now)
        return site.page(
            request, "schedules.html", who, schedules=found, level=level, sentence=sentence,
            day=lanes_of(rows, now=now),
        )  # fmt: skip

    @router.post("/schedules/{verb}")
    async def change(
        request: Request,
        verb: str,
        who: write,
        name: name_of,
        kind: Annotated[str, Form()] = "",
        when: Annotated[str, Form()] = "",
        timezone: Annotated[str, Form()] = "UTC",
        scheduler: Scheduler = Inject(Scheduler),
    ) -> Response:
        """Pause, resume or run a schedule, or look at and then save another timetable for it."""
        hand = scheduler.acting_for(who.name, SOURCE)
        if verb in ("pause", "resume"):
            await (hand.pause(name) if verb == "pause" else hand.resume(name))
            return back(request, "/schedules", did=verb, what=f"Schedule {name}")
        if verb == "run":
            task = await hand.run_now(name)
            return back(request, f"/tasks/{task.id}", did="run", what=f"Schedule {name}")
        if verb == "save":
            await hand.reschedule(name, **_words(kind, when, timezone))
            return back(request, "/schedules", did="edit", what=f"Schedule {name}")
        if verb == "preview":
            given = {"kind": kind, "when": when, "timezone": timezone}
            return await _edit(request, site, who, scheduler, name, given)
        raise InvalidSchedule(f"There is no action {verb[:50]!r} for a schedule.")

    @router.get("/schedules/edit")
    async def edit(
        request: Request,
        who: read,
        name: Annotated[str, Query(min_length=1, max_length=200, pattern=WITHOUT_NUL)],
        scheduler: Scheduler = Inject(Scheduler),
    ) -> Response:
        """The form that changes a timetable, with the next times of what is in it."""
        return await _edit(request, site, who, scheduler, name, None)


def about(schedules: Sequence[Schedule], now: datetime) -> tuple[str, str]:
    """How the schedules are, as a level and a sentence."""
    broken = [each for each in schedules if each.error]
    if broken:
        return "degraded", f"Schedule {broken[0].name} does not fire: {broken[0].error}"
    due = [each for each in schedules if each.next_due is not None]
    if not due:
        return "healthy", "There are no schedules." if not schedules else "No schedule is due."
    first = min(due, key=lambda each: each.next_due or now)
    wait = ((first.next_due or now) - now).total_seconds()
    paused = sum(each.paused for each in schedules)
    rest = f", {paused} paused" if paused else ""
    when = f"in {span(wait)}" if wait > 0 else "now"
    return "healthy", f"{count(len(schedules), 'schedule')}{rest}; next: {first.name} {when}."


async def _edit(
    request: Request, site: Site, who: Identity, scheduler: Scheduler, name: str,
    given: Mapping[str, str] | None,
) -> Response:  # fmt: skip
    schedule = await scheduler.get(name)
    times: Sequence[datetime] = ()
    problem = None
    try:
        if given is None:
            times = await scheduler.preview(name, PREVIEWED)
        else:
            times = next_times(_words(**given), start=schedule.start, end=schedule.end)
    except FastEdgyError as error:
        problem = str(error)
    return site.page(
        request, "schedule_edit.html", who, schedule=schedule, times=times, problem=problem,
        given=given or _as_given(schedule), previewed=given is not None, stream=None,
    )  # fmt: skip


def next_times(
    words: Mapping[str, Any], *, start: datetime | None = None, end: datetime | None = None
) -> list[datetime]:
    """When a timetable would be due next, in its own zone. Raises InvalidSchedule."""
    terms = Terms.of({**words, "start": start, "end": end})
    now = datetime.now(UTC)
    trigger = replace(terms.trigger, anchor=now)
    where = zone(trigger.timezone)
    return [due.astimezone(where) for due in islice(trigger.after(now), PREVIEWED)]


def _words(kind: str, when: str, timezone: str) -> dict[str, Any]:
    """What the form says, as the scheduler's words. Raises InvalidSchedule."""
    words: dict[str, Any] = {"timezone": timezone.strip() or "UTC"}
    text = when.strip()
    try:
        match kind:
            case "cron":
                return words | {"cron": text}
            case "every":
                return words | {"every": float(text)}
            case "at":
                return words | {"at": datetime.fromisoformat(text)}
    except ValueError:
        expected = "a number of seconds" if kind == "every" else "a date and time"
        raise InvalidSchedule(f"{kind}={text[:100]!r} is not {expected}.") from None
    raise InvalidSchedule(f"A timetable is one of {', '.join(_KINDS)}, not {kind[:50]!r}.")


def _as_given(schedule: Schedule) -> dict[str, str]:
    if schedule.cron is not None:
        kind, when = "cron", schedule.cron
    elif schedule.every is not None:
        kind, when = "every", f"{schedule.every:g}"
    else:
        kind, when = "at", schedule.at.isoformat() if schedule.at else ""
    return {"kind": kind, "when": when, "timezone": schedule.timezone}
