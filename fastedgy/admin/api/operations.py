"""`/workers/{name}/drain`, `/doctor/fix` and `/audit`: what is done by hand, and who did it."""

# FastAPI reads the annotations of what it calls, so this module does without
# `from __future__ import annotations`.

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Path, Query

from fastedgy.admin.api import examples
from fastedgy.admin.api.examples import answers
from fastedgy.admin.api.fields import Fixes, Limit, Name, Text
from fastedgy.admin.api.problems import ProblemRoute
from fastedgy.admin.api.services import Admin
from fastedgy.admin.api.tasks import SOURCE
from fastedgy.admin.auth import Identity, QueueAuth
from fastedgy.admin.findings import Cure
from fastedgy.admin.types import Drain, Page
from fastedgy.store.audit import AuditEntry

Machine = Annotated[
    Name,
    Path(description="A worker's id or `server/pid`; a supervisor's id; or a server's name."),
]


def operations_router(auth: QueueAuth) -> APIRouter:
    """The routes of drains, cures and the audit."""
    router = APIRouter(tags=["operations"], route_class=ProblemRoute)
    reads = [Depends(auth.read)]
    Writer = Annotated[Identity, Depends(auth.write)]  # noqa: N806

    @router.get("/workers/{name:path}/drain", dependencies=reads,
                responses=answers(examples.DRAIN, 404, 409))  # fmt: skip
    async def preview_drain(admin: Admin, name: Machine) -> Drain:
        """Who would drain, and what runs there."""
        return await admin.preview_drain(name)

    @router.post("/workers/{name:path}/drain", responses=answers(examples.DRAIN, 403, 404, 409))
    async def drain(admin: Admin, who: Writer, name: Machine) -> Drain:
        """Let workers take no more tasks, end what they run, and end.

        One worker is replaced by its supervisor. By the name of a server or the id of a supervisor
        all workers there drain, and their supervisors end with them.
        """
        return await admin.drain(name, actor=who.name, source=SOURCE)

    @router.post("/doctor/fix", responses=answers([examples.CURE], 403))
    async def fix(
        admin: Admin, who: Writer, wanted: Annotated[Fixes | None, Body()] = None
    ) -> Sequence[Cure]:
        """Apply the cures that are safe while everything runs: all that the doctor has, or some.

        To build an index takes its time, and the answer comes when all is done.
        """
        chosen = wanted or Fixes()
        return await admin.fix(chosen.code, chosen.title, actor=who.name, source=SOURCE)

    @router.get("/audit", dependencies=reads, responses=answers(
        {"items": [examples.AUDIT], "next": None, "searched_to": None}
    ))  # fmt: skip
    async def audit(
        admin: Admin,
        target: Annotated[
            Text | None, Query(description="`task:<id>`, `queue:<name>`, `schedule:<name>` …")
        ] = None,
        action: Annotated[
            Text | None, Query(description="`queue.pause`, or the beginning of some: `task.`")
        ] = None,
        actor: Annotated[Text | None, Query(description="Who, or how the name begins.")] = None,
        limit: Limit = 50,
        cursor: Annotated[UUID | None, Query(description="`next` of the page before.")] = None,
    ) -> Page[AuditEntry]:
        """What was done by hand, by whom: the newest first."""
        entries = await admin.audit(
            target=target, action=action, actor=actor, limit=limit + 1, before=cursor
        )
        more = len(entries) > limit
        page = entries[:limit]
        return Page(page, str(page[-1].id) if more else None)

    return router
