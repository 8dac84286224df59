"""Doing something to many tasks: previewed, in chunks, audited, undone where that is possible."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from rows import CHANNELS, add, add_ended, add_taken, change, listening, read, state_of, states

from fastedgy.admin import BulkAction, BulkProgress, QueueAdmin, TaskFilter
from fastedgy.errors import InvalidOption, TaskNotFound
from fastedgy.ids import new_id
from fastedgy.store import search

ALL = TaskFilter()


async def done(admin: QueueAdmin, action: str, filter: TaskFilter = ALL, **given: Any) -> Any:
    """Apply an action to the end; the last progress."""
    last: BulkProgress | None = None
    async for progress in admin.apply(action, filter, actor="ann", **given):
        last = progress
    assert last is not None
    assert last.finished
    return last


async def furnish(connection: asyncpg.Connection) -> dict[str, UUID]:
    return {
        "enqueued": await add(connection, queue="mail"),
        "scheduled": await add(connection, delay=3600.0),
        "doing": (await add_taken(connection))["id"],
        "done": await add_ended(connection, "done"),
        "failed": await add_ended(connection, "failed"),
        "cancelled": await add_ended(connection, "cancelled"),
    }


# -- Preview ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "states", "sentence"),
    [
        ("cancel", {"scheduled": 1, "enqueued": 1, "doing": 1},
         "Cancels 3 tasks in 3 queues; 1 is running."),
        ("retry", {"failed": 1, "cancelled": 1}, "Retries 2 tasks in 2 queues."),
        ("reprioritise", {"scheduled": 1, "enqueued": 1}, "Reprioritises 2 tasks in 2 queues."),
        ("delete", {"done": 1, "failed": 1, "cancelled": 1}, "Deletes 3 tasks in 3 queues."),
    ],
)  # fmt: skip
async def test_a_preview_counts_what_can_be_acted_on(
    admin: QueueAdmin, connection: asyncpg.Connection, action: str, states: Any, sentence: str
) -> None:
    await furnish(connection)

    preview = await admin.preview(action, ALL)

    assert preview.states == states
    assert preview.total == sum(states.values()) == sum(preview.queues.values())
    assert preview.names == {"shop.send": preview.total}
    assert preview.sentence == sentence
    assert not preview.at_least


async def test_a_preview_of_nothing_says_so(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    await furnish(connection)

    assert (await admin.preview("move", TaskFilter(queue="x"))).sentence == "Moves no task."
    assert (await admin.preview("retry", TaskFilter(states=("done",)))).total == 0


async def test_a_preview_whose_time_is_up_says_that_there_are_more(
    admin: QueueAdmin, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastedgy.admin.bulk.PREVIEW_SECONDS", -1.0)
    monkeypatch.setattr("fastedgy.admin.bulk.READ", 2)
    for _ in range(5):
        await add(connection)

    preview = await admin.preview("cancel", ALL)

    assert (preview.total, preview.at_least) == (2, True)
    assert preview.sentence == "Cancels more than 2 tasks."


# -- Actions ---------------------------------------------------------------------------------------


async def test_all_that_a_filter_finds_is_cancelled_in_chunks(
    admin: QueueAdmin, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastedgy.admin.bulk.READ", 3)
    ids = [await add(connection, queue="mail") for _ in range(7)]
    other = await add(connection)
    running = await add_taken(connection)

    seen = [
        progress
        async for progress in admin.apply(
            BulkAction.cancel, TaskFilter(queue="mail"), actor="ann", chunk=2, reason="Too many."
        )
    ]
    asked = await done(admin, "cancel", TaskFilter(states=("doing",)))

    assert [progress.changed for progress in seen] == [2, 3, 5, 6, 7, 7]
    assert [progress.finished for progress in seen] == [False] * 5 + [True]
    assert {progress.total for progress in seen} == {7}
    assert set(await states(connection, ids)) == {"cancelled"}
    assert (await read(connection, ids[0]))["error_message"].startswith("Too many. (operation ")
    assert await state_of(connection, other) == "enqueued"
    assert asked.changed == 1
    assert (await read(connection, running["id"]))["cancel_requested"]


async def test_failed_tasks_are_retried(admin: QueueAdmin, connection: asyncpg.Connection) -> None:
    ids = await furnish(connection)

    assert (await done(admin, "retry", TaskFilter(states=("failed", "done")))).changed == 1

    assert await state_of(connection, ids["failed"]) == "enqueued"
    assert await state_of(connection, ids["cancelled"]) == "cancelled"


async def test_another_priority_is_told_to_the_workers_and_put_at_the_end_of_its_line(
    admin: QueueAdmin, connection: asyncpg.Connection, database_url: str
) -> None:
    ids = await furnish(connection)
    before = await read(connection, ids["enqueued"])

    async with listening(database_url) as ear:
        assert (await done(admin, "reprioritise", priority=7)).changed == 2
        [bell] = await ear.hears(CHANNELS.tasks or "")
    after = await read(connection, ids["enqueued"])

    assert after["priority"] == 7
    assert after["date_enqueued"] > before["date_enqueued"]
    assert (await read(connection, ids["scheduled"]))["priority"] == 7
    assert (await read(connection, ids["doing"]))["priority"] == 0
    assert ["mail", 7] in json.loads(bell)["lanes"]
    assert (await done(admin, "reprioritise", priority=7)).changed == 0


async def test_tasks_are_moved_to_another_queue(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    ids = await furnish(connection)

    assert (await done(admin, "move", TaskFilter(queue="mail"), queue="slow")).changed == 1

    assert (await read(connection, ids["enqueued"]))["queue"] == "slow"


async def test_ended_tasks_are_deleted_with_their_logs_unless_children_need_them(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    ids = await furnish(connection)
    await connection.execute(
        "INSERT INTO queued_task_logs (logged_at, task_id, run, seq, level, logger, message)"
        " VALUES (now(), $1, 1, 1, 'info', 'shop', 'hello')", ids["done"],
    )  # fmt: skip
    child = await add(connection, ids["failed"], on_parent_failure="run", delay=3600.0)
    await change(connection, child, takes_results=True)
    await change(connection, ids["failed"], has_children=True)

    assert (await done(admin, "delete")).changed == 2

    assert await read(connection, ids["done"]) is None
    assert await state_of(connection, ids["failed"]) == "failed"
    assert await connection.fetchval("SELECT count(*) FROM queued_task_logs") == 0


@pytest.mark.parametrize(
    ("action", "given"),
    [
        ("reprioritise", {}), ("move", {}), ("cancel", {"priority": 3}), ("retry", {"queue": "a"}),
        ("retry", {"reason": "a"}), ("move", {"queue": ""}), ("reprioritise", {"priority": 2**40}),
    ],
)  # fmt: skip
async def test_what_does_not_fit_the_action_is_refused_at_once(
    admin: QueueAdmin, action: str, given: Any
) -> None:
    with pytest.raises(InvalidOption):
        admin.apply(action, ALL, actor="ann", **given)


async def test_what_comes_after_the_start_is_left_alone(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    first = await add(connection)
    late: list[UUID] = []
    async for _ in admin.apply("cancel", ALL, actor="ann", chunk=1):
        if not late:
            late.append(await add(connection))

    assert await states(connection, [first, *late]) == ["cancelled", "enqueued"]


async def test_who_stops_iterating_stops_the_action(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    ids = [await add(connection) for _ in range(4)]
    steps: Any = admin.apply("cancel", ALL, actor="ann", chunk=2)
    async for _ in steps:
        break
    await steps.aclose()

    assert await states(connection, ids) == ["cancelled", "cancelled", "enqueued", "enqueued"]
    [ended, *_] = await admin.audit()
    assert (ended.action, ended.details["changed"]) == ("task.cancel.ended", 2)
    assert not ended.details["complete"]


# -- Audit, undo, one task -------------------------------------------------------------------------


async def test_who_did_what_is_written_down(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    ids = await furnish(connection)
    last = await done(admin, "move", TaskFilter(queue="mail"), queue="slow", source="cli")
    await admin.retry(ids["failed"], actor="bob", source="page")

    retried, ended, begun = await admin.audit()

    assert (retried.actor, retried.source, retried.action) == ("bob", "page", "task.retry")
    assert retried.target == f"task:{ids['failed']}"
    assert begun.target == ended.target == f"bulk:{last.operation}"
    assert (begun.actor, begun.source, begun.action) == ("ann", "cli", "task.move")
    assert begun.details == {"queue": "slow", "filter": {"queue": "mail"}, "found": 1}
    assert ended.details["changed"] == 1


async def test_a_cancellation_of_many_is_undone(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    ids = await furnish(connection)
    parent = await add(connection)
    child = await add(connection, parent)
    due = (await read(connection, ids["scheduled"]))["date_due"]
    last = await done(admin, "cancel", TaskFilter(states=("enqueued", "scheduled")))
    cancelled = await states(connection, [ids["enqueued"], ids["scheduled"], parent, child])

    steps = [progress async for progress in admin.undo(last.operation, actor="bob")]

    assert set(cancelled) == {"cancelled"}
    assert steps[-1].finished
    assert await states(connection, [ids["scheduled"], ids["enqueued"], parent, child]) == [
        "enqueued", "scheduled", "enqueued", "waiting"
    ]  # fmt: skip
    assert (await read(connection, ids["scheduled"]))["date_due"] == due
    assert await state_of(connection, ids["cancelled"]) == "cancelled"
    assert (await admin.audit())[0].action == "task.undo_cancel.ended"


async def test_what_waits_for_a_parent_and_a_time_waits_for_both_after_an_undone_cancellation(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    parent = await add(connection)
    child = await add(connection, parent, delay=3_600.0, queue="mail")
    due = (await read(connection, child))["date_due"]
    last = await done(admin, "cancel", TaskFilter(queue="mail"))

    [_ async for _ in admin.undo(last.operation, actor="bob")]

    row = await read(connection, child)
    assert (row["state"], row["waiting_on"], row["date_due"]) == ("waiting", 1, due)


async def test_what_was_no_cancellation_cannot_be_undone(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    last = await done(admin, "retry")
    for operation in (last.operation, new_id()):
        with pytest.raises(InvalidOption, match="no cancellation"):
            [progress async for progress in admin.undo(operation, actor="ann")]


async def test_one_task_is_steered_if_its_state_allows(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    ids = await furnish(connection)
    enqueued, ended = ids["enqueued"], ids["done"]

    assert await admin.reprioritise(enqueued, 5, actor="ann")
    assert await admin.move(enqueued, "slow", actor="ann")
    assert not await admin.delete(enqueued, actor="ann")
    assert await admin.cancel(enqueued, actor="ann", reason="No.")
    assert await admin.retry(enqueued, actor="ann")
    assert not await admin.cancel(ended, actor="ann")
    assert not await admin.move(ended, "slow", actor="ann")
    assert await admin.delete(ended, actor="ann")
    for ask in (admin.cancel, admin.retry, admin.delete):
        with pytest.raises(TaskNotFound):
            await ask(ended, actor="ann")

    row = await read(connection, enqueued)
    assert (row["state"], row["priority"], row["queue"]) == ("enqueued", 5, "slow")
    actions = [entry.action for entry in await admin.audit(target=f"task:{enqueued}")]
    assert actions == ["task.retry", "task.cancel", "task.move", "task.reprioritise"]


async def test_many_are_found_step_by_step_too(
    admin: QueueAdmin, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "FEW", -1)
    monkeypatch.setattr(search, "WINDOW", 3)
    ids = [await add_ended(connection, "failed") for _ in range(8)]

    assert (await done(admin, "retry", TaskFilter(error="ValueError"))).changed == 8
    assert set(await states(connection, ids)) == {"enqueued"}
