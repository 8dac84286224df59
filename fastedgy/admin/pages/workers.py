"""The worker processes with what is in their slots, and draining them."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, Response

from fastedgy.admin.api.fields import WITHOUT_NUL
from fastedgy.admin.auth import Identity
from fastedgy.admin.pages.site import Site, back
from fastedgy.admin.pages.squares import hosts_of, linked_each
from fastedgy.admin.pages.words import clock, count
from fastedgy.admin.service import QueueAdmin
from fastedgy.admin.types import WorkerInfo
from fastedgy.dependencies import Inject

SOURCE = "page"
SLOTS_DRAWN = 400
"""Squares of one process at most."""


def add_routes(router: APIRouter, site: Site) -> None:
    """Add them to the pages' router."""
    read = Annotated[Identity, Depends(site.auth.read)]
    write = Annotated[Identity, Depends(site.auth.write)]
    name_of = Annotated[str, Form(min_length=1, max_length=500, pattern=WITHOUT_NUL)]

    @router.get("/workers")
    async def workers(
        request: Request, who: read, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """The worker processes and what is in their slots."""
        most = min(SLOTS_DRAWN, linked_each(len(await admin.workers(tasks=0))))
        found = await admin.workers(tasks=most)
        level, sentence = about_workers(found)
        return site.page(
            request, "workers.html", who, level=level, sentence=sentence,
            hosts=hosts_of(found, now=clock(), most=SLOTS_DRAWN),
        )  # fmt: skip

    @router.post("/workers/drain")
    async def preview_drain(
        request: Request, who: write, name: name_of, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """Say who would drain, and ask."""
        planned = await admin.preview_drain(name)
        return site.confirm(
            request, who, title="Drain?", sentence=planned.sentence, verb="Drain",
            action="/workers/drain/apply", fields={"name": name}, leave="/workers",
        )  # fmt: skip

    @router.post("/workers/drain/apply")
    async def drain(
        request: Request, who: write, name: name_of, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """Ask them to drain."""
        asked = await admin.drain(name, actor=who.name, source=SOURCE)
        return back(request, "/workers", did="drain", what=count(len(asked.workers), "worker"))


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
