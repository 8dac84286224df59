"""Queues, workers, breakers and the doctor: what runs the tasks, and what is wrong with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response

from fastedgy.admin.auth import Identity
from fastedgy.admin.doctor import apply_fix
from fastedgy.admin.pages.site import Site, back
from fastedgy.admin.pages.squares import hosts_of
from fastedgy.admin.pages.words import clock, count, span
from fastedgy.admin.service import QueueAdmin
from fastedgy.admin.types import QueueInfo, TaskFilter, WorkerInfo
from fastedgy.dependencies import Inject
from fastedgy.errors import InvalidOption
from fastedgy.store import audit

SOURCE = "page"
SLOTS_DRAWN = 400
"""Squares of one process at most."""
_HELD_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class Fuse:
    """A breaker as its page shows it. `held`: tasks that wait for it."""

    name: str
    state: str
    failures: int
    failure_threshold: int
    opened_at: datetime | None
    tries_at: datetime | None
    error: str | None
    held: int


def add_routes(router: APIRouter, site: Site) -> None:
    """Add them to the pages' router."""
    read = Annotated[Identity, Depends(site.auth.read)]
    write = Annotated[Identity, Depends(site.auth.write)]
    name_of = Annotated[str, Form(min_length=1, max_length=200)]

    @router.get("/queues")
    async def queues(
        request: Request, who: read, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """The queues, with their limits."""
        found = await admin.queues()
        level, sentence = about_queues(found)
        return site.page(request, "queues.html", who, queues=found, level=level, sentence=sentence)

    @router.post("/queues/pause")
    async def pause(
        request: Request, who: write, name: name_of, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """Let no task of a queue start."""
        await admin.pause_queue(name, actor=who.name, source=SOURCE)
        return back(request, "/queues", did="pause", what=f"Queue {name}")

    @router.post("/queues/resume")
    async def resume(
        request: Request, who: write, name: name_of, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """Let its tasks start again."""
        await admin.resume_queue(name, actor=who.name, source=SOURCE)
        return back(request, "/queues", did="resume", what=f"Queue {name}")

    @router.post("/queues/limits")
    async def limits(
        request: Request,
        who: write,
        name: name_of,
        max_running: Annotated[str, Form()] = "",
        rate: Annotated[str, Form()] = "",
        admin: QueueAdmin = Inject(QueueAdmin),
    ) -> Response:
        """Set or lift the limits of a queue: an empty field is no limit."""
        await admin.set_queue_limits(
            name, max_running=_whole(max_running), rate=_rate(rate), actor=who.name, source=SOURCE
        )
        return back(request, "/queues", did="limits", what=f"queue {name}")

    @router.get("/workers")
    async def workers(
        request: Request, who: read, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """The worker processes and what is in their slots."""
        found = await admin.workers(tasks=SLOTS_DRAWN)
        level, sentence = about_workers(found)
        return site.page(
            request, "workers.html", who, level=level, sentence=sentence,
            hosts=hosts_of(found, now=clock(), most=SLOTS_DRAWN),
        )  # fmt: skip

    @router.get("/breakers")
    async def breakers(
        request: Request, who: read, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """The circuit breakers."""
        found = [await _fuse(admin, breaker) for breaker in await admin.breakers()]
        level, sentence = about_breakers(found)
        return site.page(
            request, "breakers.html", who, breakers=found, level=level, sentence=sentence
        )

    @router.post("/breakers/reset")
    async def reset(
        request: Request, who: write, name: name_of, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """Close a breaker."""
        await admin.reset_breaker(name, actor=who.name, source=SOURCE)
        return back(request, "/breakers", did="reset", what=f"Breaker {name}")

    @router.get("/doctor")
    async def doctor(
        request: Request, who: read, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """What is wrong, or soon will be."""
        findings = await admin.doctor()
        level, sentence = about_findings([str(finding.severity) for finding in findings])
        return site.page(
            request, "doctor.html", who, findings=findings, level=level, sentence=sentence,
            stream=None,
        )  # fmt: skip

    @router.post("/doctor/fix")
    async def fix(
        request: Request,
        who: write,
        code: Annotated[str, Form()],
        title: Annotated[str, Form()],
        admin: QueueAdmin = Inject(QueueAdmin),
    ) -> Response:
        """Apply the cure of a finding, if it is still there."""
        for finding in await admin.doctor():
            if (finding.code, finding.title) == (code, title) and finding.fix is not None:
                async with admin.connection() as connection:
                    done = await apply_fix(connection, finding)
                    await audit.note(
                        connection, admin.tables, actor=who.name, source=SOURCE,
                        action="doctor.fix", target=code, details={"statements": list(done)},
                    )  # fmt: skip
                return back(request, "/doctor", did="fix", what=finding.fix.text)
        return back(request, "/doctor", did="fix", n=0)


def about_queues(queues: Sequence[QueueInfo]) -> tuple[str, str]:
    """How the queues are, as a level and a sentence."""
    orphans = [queue for queue in queues if queue.depth and not queue.workers]
    if orphans:
        worst = max(orphans, key=lambda queue: queue.depth)
        return "unhealthy", f"Queue {worst.name} has no worker; {count(worst.depth, 'task')} wait."
    paused = [queue for queue in queues if queue.paused]
    if paused:
        waiting = count(sum(queue.depth for queue in paused), "task")
        names = ", ".join(queue.name for queue in paused[:5])
        return "degraded", f"Paused: {names}; {waiting} wait there."
    depth = sum(queue.depth for queue in queues)
    if not depth:
        return "healthy", "Nothing waits in any queue."
    oldest = max(queue.oldest_due_seconds for queue in queues)
    return "healthy", f"{count(depth, 'task')} wait, the oldest for {span(oldest)}."


def about_workers(workers: Sequence[WorkerInfo]) -> tuple[str, str]:
    """How the workers are, as a level and a sentence."""
    alive = [worker for worker in workers if worker.alive and not worker.is_web]
    silent = [worker for worker in workers if not worker.alive]
    if not alive:
        return "unhealthy", "No worker runs, so that no task does."
    busy, slots = sum(each.busy for each in alive), sum(each.concurrency for each in alive)
    hosts = len({worker.server_name for worker in alive})
    processes = "1 process" if len(alive) == 1 else f"{len(alive)} processes"
    sentence = f"{processes} on {count(hosts, 'host')}, {busy:,} of {count(slots, 'slot')} busy."
    if silent:
        return "degraded", f"{sentence} {count(len(silent), 'worker')} gave no sign of life lately."
    return "healthy", sentence


def about_breakers(breakers: Sequence[Fuse]) -> tuple[str, str]:
    """How the breakers are, as a level and a sentence."""
    opened = [breaker for breaker in breakers if breaker.state != "closed"]
    if not opened:
        return "healthy", "All breakers are closed." if breakers else "No breaker has been used."
    names = ", ".join(breaker.name for breaker in opened[:5])
    held = sum(breaker.held for breaker in opened)
    return "degraded", f"Not closed: {names}; {count(held, 'task')} held."


def about_findings(severities: Sequence[str]) -> tuple[str, str]:
    """What the doctor has to say, as a level and a sentence."""
    errors, warnings = severities.count("error"), severities.count("warning")
    if errors:
        return "unhealthy", f"{count(errors, 'thing')} need{'s' if errors == 1 else ''} a cure now."
    if warnings:
        return "degraded", f"{count(warnings, 'thing')} to look at; nothing is broken."
    return "healthy", "Nothing is wrong."


async def _fuse(admin: QueueAdmin, breaker: Any) -> Fuse:
    held = 0
    if breaker.state != "closed":
        wanted = TaskFilter(states=("enqueued",), gate=f"breaker:{breaker.name}")
        held = await admin.count_tasks(wanted, limit=_HELD_COUNTED)
    tries_at = clock() + timedelta(seconds=breaker.rest) if breaker.state == "open" else None
    return Fuse(
        breaker.name, breaker.state, breaker.failures, breaker.failure_threshold,
        breaker.opened_at, tries_at, breaker.error, held,
    )  # fmt: skip


def _whole(text: str) -> int | None:
    if not text.strip():
        return None
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number < 2**31:
        raise InvalidOption(f"{text[:50]!r} is no number of tasks. Leave it empty for no limit.")
    return number


def _rate(text: str) -> float | None:
    if not text.strip():
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1e9:
        raise InvalidOption(f"{text[:50]!r} is no rate per second. Leave it empty for no limit.")
    return rate
