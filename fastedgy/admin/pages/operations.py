"""Queues and breakers: what lets tasks start, or holds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response

from fastedgy.admin.api.fields import WITHOUT_NUL
from fastedgy.admin.auth import Identity
from fastedgy.admin.pages.site import Site, back
from fastedgy.admin.pages.words import clock, count, span
from fastedgy.admin.service import QueueAdmin
from fastedgy.admin.types import QueueInfo, TaskFilter
from fastedgy.dependencies import Inject
from fastedgy.errors import InvalidOption

SOURCE = "page"
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
    name_of = Annotated[str, Form(min_length=1, max_length=200, pattern=WITHOUT_NUL)]

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


def about_breakers(breakers: Sequence[Fuse]) -> tuple[str, str]:
    """How the breakers are, as a level and a sentence."""
    opened = [breaker for breaker in breakers if breaker.state != "closed"]
    if not opened:
        return "healthy", "All breakers are closed." if breakers else "No breaker has been used."
    names = ", ".join(breaker.name for breaker in opened[:5])
    held = sum(breaker.held for breaker in opened)
    return "degraded", f"Not closed: {names}; {count(held, 'task')} held."


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
