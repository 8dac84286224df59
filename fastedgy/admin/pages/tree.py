"""Cancelling and retrying the whole tree of a task, after saying how many tasks that are."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from fastedgy.admin.auth import Identity
from fastedgy.admin.pages.site import Site, back
from fastedgy.admin.pages.words import count
from fastedgy.admin.service import QueueAdmin
from fastedgy.dependencies import Inject

SOURCE = "page"


def add_routes(router: APIRouter, site: Site) -> None:
    """Add them to the pages' router."""
    write = Annotated[Identity, Depends(site.auth.write)]

    async def ask(
        request: Request, who: Identity, admin: QueueAdmin, id: UUID, action: str, title: str
    ) -> Response:
        planned = await admin.preview_tree(action, id)
        return site.confirm(
            request, who, title=title, sentence=planned.sentence,
            verb=title.rstrip("?") if planned.total else None,
            action=f"/tasks/{id}/{action}-tree/apply", leave=f"/tasks/{id}",
            parts={"States": planned.states, "Queues": planned.queues, "Names": planned.names},
        )  # fmt: skip

    def done(request: Request, id: UUID, did: str, changed: int) -> Response:
        return back(
            request, f"/tasks/{id}", did=did, n=None if changed else 0, what=count(changed, "task")
        )

    @router.post("/tasks/{id}/cancel-tree")
    async def preview_cancel(
        request: Request, id: UUID, who: write, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """Say what would be cancelled with it, and ask."""
        return await ask(request, who, admin, id, "cancel", "Cancel the whole tree?")

    @router.post("/tasks/{id}/cancel-tree/apply")
    async def cancel(
        request: Request, id: UUID, who: write, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """Cancel a task and everything below it."""
        changed = await admin.cancel_tree(id, actor=who.name, source=SOURCE)
        return done(request, id, "cancel-tree", changed)

    @router.post("/tasks/{id}/retry-tree")
    async def preview_retry(
        request: Request, id: UUID, who: write, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """Say what would be retried with it, and ask."""
        return await ask(request, who, admin, id, "retry", "Retry the whole tree?")

    @router.post("/tasks/{id}/retry-tree/apply")
    async def retry(
        request: Request, id: UUID, who: write, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """Retry a task, its failed parents, and all that came to nothing because of them."""
        changed = await admin.retry_tree(id, actor=who.name, source=SOURCE)
        return done(request, id, "retry-tree", changed)
