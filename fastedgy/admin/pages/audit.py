"""The audit: who did what by hand, and when."""

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response

from fastedgy.admin.auth import Identity
from fastedgy.admin.pages.site import Site
from fastedgy.admin.pages.words import ago, clock, shorten
from fastedgy.admin.service import QueueAdmin
from fastedgy.dependencies import Inject
from fastedgy.errors import InvalidOption
from fastedgy.store.audit import AuditEntry

ON_A_PAGE = 50
ACTIONS = (
    "task.", "task.add", "task.cancel", "task.retry", "task.delete", "queue.", "queue.pause",
    "queue.resume", "queue.limit", "worker.drain", "breaker.reset", "schedule.", "doctor.fix",
)  # fmt: skip
"""What the filter offers; anything else can be typed."""
PAGES = {"task": "/tasks/{}", "worker": "/workers", "server": "/workers", "supervisor": "/workers",
         "queue": "/tasks?{query}", "schedule": "/schedules", "breaker": "/breakers",
         "doctor": "/doctor"}  # fmt: skip
"""Where the thing that something was done to is found."""


def add_routes(router: APIRouter, site: Site) -> None:
    """Add it to the pages' router."""
    text = Annotated[str, Query(max_length=500)]

    @router.get("/audit")
    async def audit(
        request: Request,
        who: Annotated[Identity, Depends(site.auth.read)],
        actor: text = "",
        action: text = "",
        target: text = "",
        cursor: text = "",
        admin: QueueAdmin = Inject(QueueAdmin),
    ) -> Response:
        """A page of what was done, the newest first."""
        asked = {"actor": _plain(actor), "action": _plain(action), "target": _target(target)}
        wanted = {name: value for name, value in asked.items() if value}
        found = await admin.audit(**wanted, limit=ON_A_PAGE + 1, before=_cursor(cursor))
        entries = found[:ON_A_PAGE]
        more = str(entries[-1].id) if len(found) > ON_A_PAGE else None
        return site.page(
            request, "audit.html", who, entries=entries, asked=asked, query=urlencode(wanted),
            cursor=cursor, next=more, actions=ACTIONS, place=place_of, stream=None,
            sentence=about(entries, filtered=bool(wanted)),
        )  # fmt: skip


def about(entries: Sequence[AuditEntry], *, filtered: bool) -> str:
    """What was done last, in plain words."""
    if not entries:
        return "Nothing of that kind was done." if filtered else "Nothing was done by hand so far."
    last = entries[0]
    what = f"{shorten(last.actor, 60)} did {last.action} on {shorten(last.target, 80)}"
    return f"Last: {what}, {ago(last.date, clock()).striptags()}."


def place_of(target: str) -> str | None:
    """The page of a thing, below where the pages are; None where it has none."""
    kind, _, name = target.partition(":")
    known = PAGES.get(kind)
    return None if known is None else known.format(name, query=urlencode({"queue": name}))


def _plain(text: str) -> str:
    return text.strip().replace("\0", "")


def _target(text: str) -> str:
    """A thing by its kind and name; a task also by its id alone."""
    text = _plain(text)
    try:
        return f"task:{UUID(text)}"
    except ValueError:
        return text


def _cursor(text: str) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        raise InvalidOption(f"cursor={text[:50]!r} is no place in the audit.") from None
