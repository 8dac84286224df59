"""`/tasks`: list, look, add, cancel, retry, move, delete."""

# FastAPI reads the annotations of what it calls, so this module does without
# `from __future__ import annotations`.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Path, Query, Response

from fastedgy.admin.api import examples
from fastedgy.admin.api.examples import answers
from fastedgy.admin.api.fields import Cancel, FilterQuery, Limit, Name, NewTask, Priority
from fastedgy.admin.api.problems import ProblemRoute
from fastedgy.admin.api.services import Admin, Producer
from fastedgy.admin.auth import Identity, QueueAuth
from fastedgy.admin.explanation import Explanation
from fastedgy.admin.trigger import Offered, offered_tasks, trigger
from fastedgy.admin.types import (
    BulkAction,
    BulkPreview,
    LogRow,
    Page,
    TaskDetails,
    TaskSummary,
    Tree,
)
from fastedgy.errors import InvalidTransition
from fastedgy.store.find import ENDED

SOURCE = "api"
"""What the audit calls this way of doing things."""

Id = Annotated[UUID, Path(description="The id of a task.")]
TreeAction = Literal["cancel", "retry"]


@dataclass(frozen=True, slots=True)
class Status:
    """How far a task is. `progress`: 0 to 100, and `stage`, from its context."""

    id: UUID
    state: str
    attempt: int
    max_retries: int
    progress: float | None
    stage: str | None
    error_type: str | None
    error_message: str | None
    ended: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """What a task says of itself: its context, in which `progress` and `stage` may be."""

    id: UUID
    state: str
    progress: float | None
    stage: str | None
    context: Any


@dataclass(frozen=True, slots=True)
class TreeChange:
    """How many tasks of a tree were cancelled or asked to stop, or run again."""

    action: BulkAction
    changed: int


@dataclass(frozen=True, slots=True)
class Added:
    """A task that is written. Of a unique key that was taken: the task that holds it."""

    id: UUID


def tasks_router(auth: QueueAuth) -> APIRouter:
    """The routes of tasks."""
    router = APIRouter(tags=["tasks"], route_class=ProblemRoute)
    reads = [Depends(auth.read)]
    Writer = Annotated[Identity, Depends(auth.write)]  # noqa: N806

    @router.get("/tasks", dependencies=reads, responses=answers(examples.PAGE, 400))
    async def list_tasks(
        admin: Admin, wanted: Annotated[FilterQuery, Query()]
    ) -> Page[TaskSummary]:
        """Tasks that a filter finds, the newest first, a page at a time."""
        return await admin.list_tasks(
            wanted.filter(), limit=wanted.limit, cursor=wanted.cursor,
            oldest_first=wanted.oldest_first,
        )  # fmt: skip

    @router.post("/tasks", status_code=201, responses={
        201: {"content": {"application/json": {"example": {"id": examples.ID}}}},
        **{k: v for k, v in answers(None, 400, 403, 409).items() if k != 200},
    })  # fmt: skip
    async def add_task(admin: Admin, tasks: Producer, who: Writer, wanted: NewTask) -> Added:
        """Add a task. Its function must be offered, and its arguments must fit."""
        id = await trigger(
            admin, tasks, wanted.function, wanted.args, wanted.kwargs,
            options=wanted.options.given(), parent=wanted.parent, actor=who.name, source=SOURCE,
        )  # fmt: skip
        return Added(id)

    @router.get("/functions", dependencies=reads, responses=answers(
        [{"function": "shop.mail:send_welcome", "name": "shop.mail.send_welcome",
          "signature": "(address: str, *, retry: bool = True)", "doc": "Send the first mail."}]
    ))  # fmt: skip
    async def list_functions() -> Sequence[Offered]:
        """The functions that are offered as tasks: those with `@task` that this process knows."""
        return offered_tasks()

    @router.get("/tasks/running", dependencies=reads, responses=answers([examples.SUMMARY]))
    async def list_running(admin: Admin, limit: Limit = 50) -> Sequence[TaskSummary]:
        """What runs now, the longest-running first."""
        return await admin.get_running_tasks(limit)

    @router.get("/tasks/find", dependencies=reads, responses=answers({"id": examples.ID}, 400, 404))
    async def find_task(
        admin: Admin,
        id: Annotated[str, Query(max_length=36, pattern="^[0-9a-fA-F-]{4,36}$")],
    ) -> Added:
        """The task whose id is this, or begins or ends with it."""
        return Added(await admin.find_id(id))

    @router.get("/tasks/{id}", dependencies=reads, responses=answers(examples.DETAILS, 404))
    async def get_task(admin: Admin, id: Id) -> TaskDetails:
        """All about one task. What is redacted stays so."""
        return await admin.get_task_details(id)

    @router.get("/tasks/{id}/status", dependencies=reads, responses=answers(examples.STATUS, 404))
    async def get_status(admin: Admin, id: Id) -> Status:
        """How far a task is."""
        task = await admin.get_task_details(id)
        progress, stage = _progress(task.context)
        return Status(
            task.id, task.state, task.attempt, task.max_retries, progress, stage, task.error_type,
            task.error_message, task.state in ENDED,
        )  # fmt: skip

    @router.get("/tasks/{id}/progress", dependencies=reads, responses=answers(
        {"id": examples.ID, "state": "doing", "progress": 60.0, "stage": "sending",
         "context": {"progress": 60, "stage": "sending"}}, 404
    ))  # fmt: skip
    async def get_progress(admin: Admin, id: Id) -> Progress:
        """What a task says of itself."""
        task = await admin.get_task_details(id)
        return Progress(task.id, task.state, *_progress(task.context), task.context)

    @router.get("/tasks/{id}/logs", dependencies=reads, responses=answers([examples.LOG], 404))
    async def get_logs(
        admin: Admin,
        id: Id,
        after_run: Annotated[int, Query(ge=-1, le=2**31 - 1)] = -1,
        after_seq: Annotated[int, Query(ge=-1, le=2**31 - 1)] = -1,
        level: Annotated[
            str | None,
            Query(pattern="^(debug|info|warning|error|critical)$", description="And above."),
        ] = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 200,
    ) -> Sequence[LogRow]:
        """Log lines in their order: those after a line's `run` and `seq`."""
        lines = await admin.get_task_logs(
            id, after=(after_run, after_seq), limit=limit, level=level
        )
        if not lines:
            await admin.get_task_details(id)  # says that there is no such task
        return lines

    @router.get("/tasks/{id}/tree", dependencies=reads, responses=answers(examples.TREE, 404))
    async def get_tree(
        admin: Admin, id: Id, limit: Annotated[int, Query(ge=1, le=1_000)] = 200
    ) -> Tree:
        """A task with its ancestors and descendants, and who waits for whom."""
        return await admin.get_tree(id, limit=limit)

    @router.get(
        "/tasks/{id}/explain", dependencies=reads, responses=answers(examples.EXPLANATION, 404)
    )
    async def explain(admin: Admin, id: Id) -> Explanation:
        """Why a task does not run now, and what to do."""
        return await admin.explain(id)

    changes: dict[str, Any] = {
        "status_code": 204, "response_class": Response,
        "responses": {k: v for k, v in answers(None, 400, 403, 404, 409).items() if k != 200},
    }  # fmt: skip

    @router.post("/tasks/{id}/cancel", **changes)
    async def cancel_task(
        admin: Admin, who: Writer, id: Id, wanted: Annotated[Cancel | None, Body()] = None
    ) -> None:
        """Cancel a task, and what waits for it. One that runs is asked to stop."""
        reason = wanted.reason if wanted else None
        done = await admin.cancel(id, actor=who.name, source=SOURCE, reason=reason)
        await _changed(admin, id, "cancelled", done)

    @router.post("/tasks/{id}/retry", **changes)
    async def retry_task(admin: Admin, who: Writer, id: Id) -> None:
        """Run a failed or cancelled task again: the same row, with a fresh budget."""
        await _changed(admin, id, "retried", await admin.retry(id, actor=who.name, source=SOURCE))

    @router.get("/tasks/{id}/tree/{action}", dependencies=reads,
                responses=answers(examples.PREVIEW, 404))  # fmt: skip
    async def preview_tree(admin: Admin, id: Id, action: TreeAction) -> BulkPreview:
        """What the same as POST would do: how many tasks, in which states, queues and names."""
        return await admin.preview_tree(action, id)

    @router.post("/tasks/{id}/tree/{action}", responses=answers(examples.TREE_CHANGE, 403, 404))
    async def change_tree(
        admin: Admin,
        who: Writer,
        id: Id,
        action: TreeAction,
        wanted: Annotated[Cancel | None, Body()] = None,
    ) -> TreeChange:
        """`cancel`: a task and everything below it, also what runs or would run all the same.
        `retry`: a task with the parents that came to nothing, and all that did because of them.

        The body is for `cancel`.
        """
        if action == "cancel":
            reason = wanted.reason if wanted else None
            changed = await admin.cancel_tree(id, actor=who.name, source=SOURCE, reason=reason)
        else:
            changed = await admin.retry_tree(id, actor=who.name, source=SOURCE)
        return TreeChange(BulkAction(action), changed)

    @router.put("/tasks/{id}/priority", **changes)
    async def reprioritise_task(
        admin: Admin, who: Writer, id: Id, priority: Annotated[Priority, Body(embed=True)]
    ) -> None:
        """Give a task that has not started another priority."""
        await _changed(admin, id, "reprioritised", await admin.reprioritise(
            id, priority, actor=who.name, source=SOURCE))  # fmt: skip

    @router.put("/tasks/{id}/queue", **changes)
    async def move_task(
        admin: Admin, who: Writer, id: Id, queue: Annotated[Name, Body(embed=True)]
    ) -> None:
        """Put a task that has not started into another queue."""
        await _changed(admin, id, "moved", await admin.move(
            id, queue, actor=who.name, source=SOURCE))  # fmt: skip

    @router.delete("/tasks/{id}", **changes)
    async def delete_task(admin: Admin, who: Writer, id: Id) -> None:
        """Delete a task that has ended, with its logs."""
        await _changed(admin, id, "deleted", await admin.delete(id, actor=who.name, source=SOURCE))

    return router


async def _changed(admin: Admin, id: UUID, what: str, done: bool) -> None:
    """Say why nothing was done. Raises TaskNotFound or InvalidTransition."""
    if not done:
        task = await admin.get_task_details(id)
        raise InvalidTransition(f"Task {id} is {task.state}, and cannot be {what} as that.")


def _progress(context: Any) -> tuple[float | None, str | None]:
    if not isinstance(context, dict):
        return None, None
    progress, stage = context.get("progress"), context.get("stage")
    shown = None
    if isinstance(progress, int | float) and not isinstance(progress, bool):
        shown = float(min(max(progress, -1e9), 1e9))  # an integer may be of any length
    return shown, stage if isinstance(stage, str) else None
