"""Doing something to many tasks: what it would do, then doing it, told as it goes, then undoing."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from starlette.datastructures import FormData

from fastedgy.admin.auth import Identity
from fastedgy.admin.pages.filters import asked_in_text, filter_of
from fastedgy.admin.pages.site import HEADERS, Site, back, environment, place_of
from fastedgy.admin.pages.words import clock, count
from fastedgy.admin.service import QueueAdmin
from fastedgy.admin.types import BulkAction, BulkProgress, TaskFilter
from fastedgy.dependencies import Inject
from fastedgy.errors import FastEdgyError, InvalidOption

TITLES = {
    BulkAction.retry: ("Retry these tasks?", "Retry them", "retried"),
    BulkAction.cancel: ("Cancel these tasks?", "Cancel them", "cancelled"),
    BulkAction.reprioritise: ("Change their priority?", "Change it", "changed"),
    BulkAction.move: ("Move these tasks?", "Move them", "moved"),
    BulkAction.delete: ("Delete these tasks?", "Delete them", "deleted"),
}
SOURCE = "page"
STREAM = "application/x-ndjson"


def add_routes(router: APIRouter, site: Site) -> None:
    """Add them to the pages' router."""

    @router.post("/tasks/bulk")
    async def preview(
        request: Request,
        who: Annotated[Identity, Depends(site.auth.write)],
        admin: QueueAdmin = Inject(QueueAdmin),
    ) -> Response:
        """Say what an action would do to the tasks that were chosen, and ask."""
        form = await request.form()
        action = _action(form)
        title, verb, _ = TITLES[action]
        return site.page(
            request, "bulk.html", who, preview=await admin.preview(action, _chosen(form)),
            title=title, verb=verb, query=_text(form, "query"), every="every" in form,
            ids=[] if "every" in form else form.getlist("id"),
        )  # fmt: skip

    @router.post("/tasks/bulk/apply")
    async def apply(
        request: Request,
        who: Annotated[Identity, Depends(site.auth.write)],
        admin: QueueAdmin = Inject(QueueAdmin),
    ) -> Response:
        """Do it: as a stream of how far it is for our script, else at once."""
        form = await request.form()
        action = _action(form)
        course = admin.apply(
            action, _chosen(form), actor=who.name, source=SOURCE,
            priority=_number(form, "priority") if action is BulkAction.reprioritise else None,
            queue=_text(form, "queue") or None if action is BulkAction.move else None,
        )  # fmt: skip
        undoable = action is BulkAction.cancel
        return await _run(request, course, TITLES[action][2], form, undoable=undoable)

    @router.post("/tasks/bulk/undo")
    async def undo(
        request: Request,
        who: Annotated[Identity, Depends(site.auth.write)],
        admin: QueueAdmin = Inject(QueueAdmin),
    ) -> Response:
        """Put back what a bulk cancel has taken out of the line."""
        form = await request.form()
        operation = _id(_text(form, "operation"))
        course = admin.undo(operation, actor=who.name, source=SOURCE)
        return await _run(request, course, "put back", form, undoable=False)


async def _run(
    request: Request, course: AsyncIterator[BulkProgress], word: str, form: FormData, *,
    undoable: bool,
) -> Response:  # fmt: skip
    query = _text(form, "query")
    if STREAM in request.headers.get("accept", ""):
        base = place_of(request).base
        lines = _lines(course, word, base=base, query=query, undoable=undoable)
        return StreamingResponse(lines, media_type=STREAM, headers=HEADERS)
    changed = 0
    async for progress in course:
        changed = progress.changed
    what = f"{count(changed, 'task')} {word}."
    return back(request, "/tasks", query=asked_in_text(query).query(), did="bulk", what=what)


async def _lines(
    course: AsyncIterator[BulkProgress], word: str, *, base: str, query: str, undoable: bool
) -> AsyncIterator[str]:
    """How far it is, a JSON object a line; the last one has what is to be shown in the end."""
    last: BulkProgress | None = None
    try:
        async for progress in course:
            last = progress
            total = progress.total or max(progress.seen, 1)
            said = f"{count(progress.changed, 'task')} {word} so far."
            yield _line(done=min(progress.seen, total), total=total, words=said)
    except FastEdgyError as error:
        # The answer has begun, so that it is told in its last line instead of by its status.
        yield _line(html=_outcome(base, query, str(error), None))
        return
    changed = last.changed if last else 0
    operation = last.operation if last and undoable and changed else None
    yield _line(html=_outcome(base, query, f"{count(changed, 'task')} {word}.", operation))


def _line(**what: Any) -> str:
    return json.dumps(what) + "\n"


def _outcome(base: str, query: str, words: str, undo: UUID | None) -> str:
    template = environment().get_template("bulk_done.html")
    return template.render(base=base, query=query, words=words, undo=undo)


def _chosen(form: FormData) -> TaskFilter:
    """The tasks that are meant: those ticked, or all that the filters of the page find."""
    now = clock()
    if "every" in form:
        return replace(filter_of(asked_in_text(_text(form, "query")), now=now), created_before=now)
    ids = tuple(_id(str(each)) for each in form.getlist("id"))
    if not ids:
        raise InvalidOption("No task was chosen.")
    return TaskFilter(ids=ids)


def _action(form: FormData) -> BulkAction:
    try:
        return BulkAction(_text(form, "action"))
    except ValueError:
        raise InvalidOption(f"There is no action {_text(form, 'action')[:100]!r}.") from None


def _text(form: FormData, name: str) -> str:
    value = form.get(name, "")
    return value.strip() if isinstance(value, str) else ""


def _number(form: FormData, name: str) -> int:
    try:
        return int(_text(form, name))
    except ValueError:
        raise InvalidOption(f"{name}={_text(form, name)[:100]!r} is no whole number.") from None


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidOption(f"{text[:100]!r} is no id.") from None
