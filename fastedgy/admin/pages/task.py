"""The page of one task, and what can be done to it there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Form, Request, Response

from fastedgy.admin.auth import Identity
from fastedgy.admin.pages.attempts import events_of, frames_of, parts_of
from fastedgy.admin.pages.family import draw
from fastedgy.admin.pages.site import Site, back
from fastedgy.admin.pages.words import clock, moment, span
from fastedgy.admin.service import QueueAdmin
from fastedgy.admin.trigger import trigger
from fastedgy.admin.types import LogRow, TaskDetails
from fastedgy.dependencies import Inject
from fastedgy.errors import InvalidOption, InvalidTransition
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.store.calls import stored_call
from fastedgy.store.details import began, last_logs
from fastedgy.store.find import ENDED

LEVELS = ("debug", "info", "warning", "error")
LINES = 300
BEGINNING = "begin"
RELATIVES = 500
SOURCE = "page"
_UNSTARTED = {"scheduled", "waiting", "enqueued"}


def add_routes(router: APIRouter, site: Site) -> None:
    """Add them to the pages' router."""
    write = Annotated[Identity, Depends(site.auth.write)]

    @router.get("/tasks/{id}")
    async def task(
        request: Request,
        id: UUID,
        who: Annotated[Identity, Depends(site.auth.read)],
        level: str = "debug",
        after: str = "",
        admin: QueueAdmin = Inject(QueueAdmin),
    ) -> Response:
        """All about one task."""
        now = clock()
        level = level if level in LEVELS else "debug"
        details = await admin.get_task_details(id)
        explanation = await admin.explain(id)
        lines = await _lines(admin, id, level, after)
        drawing, members, truncated = None, 0, False
        if details.parent_count or details.children_by_state:
            tree = await admin.get_tree(id, limit=RELATIVES)
            drawing, members = draw(tree.nodes, tree.edges, id), len(tree.nodes)
            truncated = tree.truncated
        bars = parts_of(details, now=now)
        context = details.context if isinstance(details.context, Mapping) else {}
        ended = details.state in ENDED
        return site.page(
            request, "task.html", who, task=details, explanation=explanation,
            lines=lines,
            level=level, levels=LEVELS, started=began(details),
            progress=_progress(context), stage=_text(context.get("stage")),
            timeline=events_of(details), bars=bars,
            whole=((details.date_ended or now) - details.date_created),
            frames=frames_of(details.error_traceback or ""), facts=_facts(details),
            drawing=drawing, members=members, truncated=truncated, offered=_offered(details),
            trees=_trees_offered(details),
            stream=None if ended else f"/tasks/{id}/events",
        )  # fmt: skip

    @router.post("/tasks/{id}/retry")
    async def retry(
        request: Request, id: UUID, who: write, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """Run an ended task again."""
        return _done(request, id, "retry", await admin.retry(id, actor=who.name, source=SOURCE))

    @router.post("/tasks/{id}/cancel")
    async def cancel(
        request: Request, id: UUID, who: write, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """Cancel a task."""
        return _done(request, id, "cancel", await admin.cancel(id, actor=who.name, source=SOURCE))

    @router.post("/tasks/{id}/copy")
    async def copy(
        request: Request,
        id: UUID,
        who: write,
        admin: QueueAdmin = Inject(QueueAdmin),
        tasks: QueuedTasks = Inject(QueuedTasks),
    ) -> Response:
        """Add a task with the same function and arguments."""
        async with admin.connection() as connection:
            old = await stored_call(connection, admin.tables, id)
        if old.takes_results:
            raise InvalidTransition(
                "It takes the results of its parents, which a copy without parents has not."
            )
        new = await trigger(
            admin, tasks, old.function, old.args, old.kwargs, actor=who.name, source=SOURCE,
            options={"queue": old.queue, "priority": old.priority},
        )  # fmt: skip
        return back(request, f"/tasks/{new}", did="copy", what=f"Task {id}")

    @router.post("/tasks/{id}/reprioritise")
    async def reprioritise(
        request: Request,
        id: UUID,
        who: write,
        priority: Annotated[int, Form()],
        admin: QueueAdmin = Inject(QueueAdmin),
    ) -> Response:
        """Give a task another priority."""
        well = await admin.reprioritise(id, priority, actor=who.name, source=SOURCE)
        return _done(request, id, "reprioritise", well)

    @router.post("/tasks/{id}/move")
    async def move(
        request: Request,
        id: UUID,
        who: write,
        queue: Annotated[str, Form()],
        admin: QueueAdmin = Inject(QueueAdmin),
    ) -> Response:
        """Put a task into another queue."""
        well = await admin.move(id, queue.strip(), actor=who.name, source=SOURCE)
        return _done(request, id, "move", well)

    @router.post("/tasks/{id}/delete")
    async def delete(
        request: Request, id: UUID, who: write, admin: QueueAdmin = Inject(QueueAdmin)
    ) -> Response:
        """Delete an ended task."""
        if await admin.delete(id, actor=who.name, source=SOURCE):
            return back(request, "/tasks", did="delete", what="The task")
        return _done(request, id, "delete", False)


@dataclass(frozen=True, slots=True)
class Lines:
    """Log lines. `earlier`: there are others before them; `next`: where those after them begin."""

    shown: Sequence[LogRow]
    earlier: bool = False
    next: str = ""


async def _lines(admin: QueueAdmin, id: UUID, level: str, after: str) -> Lines:
    """The last lines, so that a long log is followed at its end; or from a place or level on."""
    if level == "debug" and not after:
        async with admin.connection() as connection:
            last = await last_logs(connection, admin.tables, id, limit=LINES + 1)
        return Lines(last[-LINES:], earlier=len(last) > LINES)
    least = None if level == "debug" else level
    found = await admin.get_task_logs(id, after=_place(after), limit=LINES + 1, level=least)
    shown = found[:LINES]
    return Lines(shown, next=f"{shown[-1].run}.{shown[-1].seq}" if len(found) > LINES else "")


def _done(request: Request, id: UUID, did: str, well: bool) -> Response:
    return back(request, f"/tasks/{id}", did=did, n=None if well else 0, what="This task")


def _offered(task: TaskDetails) -> list[tuple[str, str, bool]]:
    """What can be done to a task: the action, its word, and whether its state allows it."""
    ended = task.state in ENDED
    return [
        ("retry", "Retry", task.state in ("failed", "cancelled")),
        ("cancel", "Cancel", not ended and not task.cancel_requested),
        ("copy", "Run a copy", True),
        ("reprioritise", "Set priority", task.state in _UNSTARTED),
        ("move", "Move to queue", task.state in _UNSTARTED),
        ("delete", "Delete", ended),
    ]


def _trees_offered(task: TaskDetails) -> list[tuple[str, str]]:
    """What can be done to a task with its family, where it has one."""
    found = []
    family = bool(task.parent_count or task.children_by_state)
    if task.children_by_state or (task.state == "waiting" and task.attempt):  # it returned another
        found.append(("cancel-tree", "Cancel the tree"))
    if family and {"failed", "cancelled"} & {task.state, *task.children_by_state}:
        found.append(("retry-tree", "Retry the tree"))
    return found


def _facts(task: TaskDetails) -> list[tuple[str, Any]]:
    known = [
        ("id", str(task.id)),
        ("function", task.function),
        ("queue", task.queue),
        ("priority", task.priority),
        ("timeout", None if task.timeout is None else span(task.timeout)),
        ("unique key", task.unique_key),
        ("created", moment(task.date_created, "date")),
        ("due", moment(task.date_due, "date") if task.date_due else None),
        ("worker", task.worker),
        ("lost processes", task.losses or None),
        ("on parent failure", task.on_parent_failure if task.parent_count else None),
    ]
    return [(word, value) for word, value in known if value is not None]


def _progress(context: Mapping[str, Any]) -> float | None:
    value = context.get("progress")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return min(100.0, max(0.0, float(value)))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _place(after: str) -> tuple[int, int]:
    """Where a page of log lines begins. Raises InvalidOption."""
    run, dot, seq = after.partition(".")
    if after in ("", BEGINNING):
        return -1, -1
    if not (dot and run.isdecimal() and seq.isdecimal() and len(after) < 20):
        raise InvalidOption(f"after={after[:50]!r} is no place in a log.")
    return int(run), int(seq)
