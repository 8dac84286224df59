"""The dashboard: pages of the queue, rendered here, from the wheel, without anything from outside.

`pages_router(auth)` is mounted by `queue_router`. Every page and action depends on `auth.read` or
`auth.write`; who is not known gets a form to sign in, or what the application's own auth says.
"""

from __future__ import annotations

from fastapi import APIRouter

from fastedgy.admin.auth import QueueAuth
from fastedgy.admin.pages import (
    audit,
    bulk,
    doctor,
    home,
    operations,
    schedules,
    session,
    task,
    tasks,
    tree,
    workers,
)
from fastedgy.admin.pages.site import Site

__all__ = ["pages_router"]


def pages_router(auth: QueueAuth, *, events: str | None = "/api") -> APIRouter:
    """The pages, to be included under any prefix, beside the API.

    `events` is where below the pages the API's streams `/events` and `/tasks/{id}/events` are;
    None: there are none, and the pages look for news every few seconds.
    """
    site = Site(auth, events=events)
    router = APIRouter(route_class=site.route_class(), include_in_schema=False)
    for room in (
        session, home, tasks, bulk, task, tree, operations, workers, schedules, doctor, audit,
    ):  # fmt: skip
        room.add_routes(router, site)
    return router
