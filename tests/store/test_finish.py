"""Finishing: the one door out of `doing`, its fence, and what an end means for the family."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from rows import (
    CHANNELS,
    OTHER,
    OUTCOMES,
    TABLES,
    WORKER,
    add,
    add_taken,
    blocked,
    change,
    count,
    end,
    listening,
    new,
    outcome,
    read,
    state_of,
    states,
    take,
    write,
)

from fastedgy.store import actions, recovery
from fastedgy.store.finish import finish_any
from fastedgy.store.notify import SILENT
from fastedgy.store.returned import finish_done
from fastedgy.store.traces import Said, append_logs, write_contexts
from fastedgy.worker.wire import HELD_PLANS

pytestmark = pytest.mark.usefixtures("both_ways")

STATES = {
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
    "retry": "scheduled",
    "snoozed": "scheduled",
    "interrupted": "enqueued",
}


async def finish(connection: asyncpg.Connection, *records: Any, **facts: Any) -> bool:
    """Take the short way."""
    ends = [outcome(record, **facts) for record in records]
    return await finish_done(connection, TABLES, ends, channels=SILENT)


def line(record: Any, seq: int = 0, message: str = "hello", level: str = "info") -> Said:
    now = time.monotonic()
    return Said(record["id"], record["run"], seq, [(level, now, "shop", message, None)])


async def messages(connection: asyncpg.Connection) -> list[str]:
    rows = await connection.fetch("SELECT message FROM queued_task_logs ORDER BY run, seq")
    return [row["message"] for row in rows]


# What is recorded


async def test_the_short_way_records_result_context_and_times(
    connection: asyncpg.Connection,
) -> None:
    record = await add_taken(connection)
    told = outcome(record, result='{"sent": 2}')
    told.context = '{"progress": 100}'

    assert await finish_done(connection, TABLES, [told], channels=SILENT)

    row = await read(connection, record["id"])
    assert row["state"] == "done"
    assert json.loads(row["result"]) == {"sent": 2}
    assert json.loads(row["context"]) == {"progress": 100}
    assert 0.45 <= (row["date_ended"] - row["date_started"]).total_seconds() <= 0.55


async def test_a_context_that_was_not_touched_is_kept(connection: asyncpg.Connection) -> None:
    for way in (finish, end):
        record = await add_taken(connection, context='{"a": 1}')
        await way(connection, record)
        assert json.loads((await read(connection, record["id"]))["context"]) == {"a": 1}


@pytest.mark.parametrize("word", OUTCOMES)
async def test_an_outcome_leads_to_its_state(connection: asyncpg.Connection, word: str) -> None:
    record = await add_taken(connection)

    finished = await end(connection, record, word=word)

    row = await read(connection, record["id"])
    assert row["state"] == STATES[word]
    assert row["attempt"] == (0 if word in ("snoozed", "interrupted") else 1)
    assert (row["date_ended"] is not None) == (word in ("done", "failed", "cancelled"))
    history = json.loads(row["history"])
    assert [entry["what"] for entry in history] == ([word] if row["date_ended"] is None else [])
    assert finished.fenced == []
    assert finished.again == ({(record["queue"], 0)} if word == "interrupted" else set())
    assert finished.next_due == (60.0 if word in ("retry", "snoozed") else None)


async def test_an_error_is_recorded_and_a_later_success_clears_it(
    connection: asyncpg.Connection,
) -> None:
    record = await add_taken(connection)
    await end(connection, record, word="retry", delay=0.0)
    row = await read(connection, record["id"])
    assert (row["state"], row["error_type"]) == ("enqueued", "ValueError")
    assert json.loads(row["history"])[0]["error_message"] == "try again"

    [record] = await take(connection)
    await finish(connection, record)

    row = await read(connection, record["id"])
    assert (row["state"], row["error_type"], row["error_message"]) == ("done", None, None)
    assert len(json.loads(row["history"])) == 1


async def test_the_history_keeps_the_last_twenty_runs(connection: asyncpg.Connection) -> None:
    await add(connection)
    for _ in range(23):
        [record] = await take(connection)
        await end(connection, record, word="interrupted")

    history = json.loads((await read(connection, record["id"]))["history"])
    assert [entry["run"] for entry in history] == list(range(4, 24))


async def test_a_finished_run_clears_the_losses(connection: asyncpg.Connection) -> None:
    for way in (finish, end):
        record = await add_taken(connection)
        await change(connection, record["id"], losses=2, alone=True)
        await way(connection, record)
        row = await read(connection, record["id"])
        assert (row["losses"], row["alone"]) == (0, False)


async def test_a_retry_is_due_after_its_delay(connection: asyncpg.Connection) -> None:
    record = await add_taken(connection)
    await end(connection, record, word="retry", delay=90.0)

    due = await connection.fetchval(
        "SELECT extract(epoch FROM date_due - clock_timestamp())::float8 FROM queued_tasks"
    )
    assert 85 < due <= 90


# The fence


async def lost(connection: asyncpg.Connection, record: Any) -> None:
    """The claim's worker is gone; the task is in the line again."""
    await recovery.report_lost(
        connection, TABLES, worker_id=WORKER, exit_reason="killed", started=[], max_losses=3
    )


async def lost_and_claimed(connection: asyncpg.Connection, record: Any) -> None:
    """Another worker has it."""
    await lost(connection, record)
    await take(connection, worker=OTHER)


async def interrupted_and_claimed(connection: asyncpg.Connection, record: Any) -> None:
    """It was handed back, and the same worker has it again: the attempt has the same number."""
    await end(connection, record, word="interrupted")
    [again] = await take(connection)
    assert again["attempt"] == record["attempt"]


async def retried_by_hand(connection: asyncpg.Connection, record: Any) -> None:
    """It failed, and was started anew by a person."""
    await end(connection, record, word="failed")
    await actions.retry(connection, TABLES, [record["id"]])
    await take(connection, worker=OTHER)


LOSSES = [lost, lost_and_claimed, interrupted_and_claimed, retried_by_hand]
Loss = Callable[[asyncpg.Connection, Any], Awaitable[None]]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("word", ["the short way", *OUTCOMES])
async def test_a_late_outcome_changes_nothing(
    connection: asyncpg.Connection, loss: Loss, word: str
) -> None:
    record = await add_taken(connection)
    await loss(connection, record)
    before = dict(await read(connection, record["id"]))

    if word == "the short way":
        assert not await finish(connection, record)
    else:
        finished = await end(connection, record, word=word)
        assert [each.id for each in finished.fenced] == [record["id"]]

    assert dict(await read(connection, record["id"])) == before


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
async def test_late_logs_and_contexts_change_nothing(
    connection: asyncpg.Connection, loss: Loss
) -> None:
    record = await add_taken(connection)
    await append_logs(connection, TABLES, [line(record)])
    await loss(connection, record)

    assert await append_logs(connection, TABLES, [line(record, 1, "late")]) == 0
    await write_contexts(connection, TABLES, [(record["id"], record["run"], '{"late": 1}')])

    assert await messages(connection) == ["hello"]
    assert json.loads((await read(connection, record["id"]))["context"]) == {}


async def test_what_is_said_after_the_end_is_not_written(connection: asyncpg.Connection) -> None:
    record = await add_taken(connection)
    await end(connection, record)

    assert await append_logs(connection, TABLES, [line(record)]) == 0
    await write_contexts(connection, TABLES, [(record["id"], record["run"], '{"late": 1}')])

    assert json.loads((await read(connection, record["id"]))["context"]) == {}


async def test_in_a_batch_only_the_late_ones_are_left_out(connection: asyncpg.Connection) -> None:
    late = await add_taken(connection)
    await interrupted_and_claimed(connection, late)
    good = await add_taken(connection)

    assert not await finish(connection, late, good)
    finished = await end(connection, late, good)

    assert [each.id for each in finished.fenced] == [late["id"]]
    assert await states(connection) == ["doing", "done"]


@pytest.mark.parametrize("word", OUTCOMES)
async def test_an_outcome_whose_answer_was_lost_may_be_repeated(
    connection: asyncpg.Connection, word: str
) -> None:
    record = await add_taken(connection)
    await end(connection, record, word=word)
    before = dict(await read(connection, record["id"]))

    finished = await end(connection, record, word=word)

    assert finished.fenced == []
    assert dict(await read(connection, record["id"])) == before


async def test_log_lines_may_be_repeated(connection: asyncpg.Connection) -> None:
    record = await add_taken(connection)
    lines = [line(record, number, f"line {number}") for number in range(3)]

    assert await append_logs(connection, TABLES, lines[:2]) == 2
    assert await append_logs(connection, TABLES, lines, again=True) == 1

    assert await messages(connection) == ["line 0", "line 1", "line 2"]


async def test_last_words_are_written_with_the_outcomes(connection: asyncpg.Connection) -> None:
    records = [await add_taken(connection) for _ in range(4)]
    ends = [outcome(record) for record in records]
    said = [line(records[1], 7, "second"), line(records[3], 2, "fourth", level="error")]

    assert await finish_done(connection, TABLES, ends, said, channels=SILENT)

    rows = await connection.fetch(
        "SELECT task_id, run, seq, level, logger, message FROM queued_task_logs ORDER BY seq DESC"
    )
    assert list(map(tuple, rows)) == [
        (records[1]["id"], 1, 7, "info", "shop", "second"),
        (records[3]["id"], 1, 2, "error", "shop", "fourth"),
    ]
    assert not await finish_done(connection, TABLES, ends, said, channels=SILENT)
    assert await messages(connection) == ["fourth", "second"]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
async def test_last_words_of_those_that_the_short_way_leaves_out_are_left_out(
    connection: asyncpg.Connection, loss: Loss
) -> None:
    late = await add_taken(connection)
    await loss(connection, late)
    good = await add_taken(connection)
    said = [line(late, 0, "late"), line(good, 0, "good")]
    ends = [outcome(late), outcome(good)]

    assert not await finish_done(connection, TABLES, ends, said, channels=SILENT)

    assert await messages(connection) == ["good"]


# Who waits for the end


async def test_the_end_of_an_awaited_task_is_told(
    connection: asyncpg.Connection, database_url: str
) -> None:
    async with listening(database_url) as ear:
        told = []
        for word in ("done", "failed", "cancelled"):
            record = await add_taken(connection, awaited=True)
            await end(connection, record, word=word, channels=CHANNELS)
            told.append(str(record["id"]))
        record = await add_taken(connection, awaited=True)
        await finish_done(connection, TABLES, [outcome(record)], channels=CHANNELS)
        told.append(str(record["id"]))

        assert await ear.hears("queue_new_task_done", 4) == told


@pytest.mark.parametrize("word", ["retry", "snoozed", "interrupted"])
async def test_what_is_no_end_is_not_told(
    connection: asyncpg.Connection, database_url: str, word: str
) -> None:
    async with listening(database_url) as ear:
        record = await add_taken(connection, awaited=True)
        await end(connection, record, word=word, channels=CHANNELS)
        await end(connection, await add_taken(connection), channels=CHANNELS)
        last = await add_taken(connection, awaited=True)
        await end(connection, last, channels=CHANNELS)

        assert await ear.hears("queue_new_task_done") == [str(last["id"])]


async def test_many_ends_are_told_in_few_notifications(
    connection: asyncpg.Connection, database_url: str
) -> None:
    tasks = [new(awaited=True) for _ in range(450)]
    await write(connection, *tasks)
    records = await take(connection, 1000)
    async with listening(database_url) as ear:
        ends = [outcome(record) for record in records]
        assert await finish_done(connection, TABLES, ends, channels=CHANNELS)
        heard = await ear.hears("queue_new_task_done", 3)

    assert len(heard) == 3
    assert {UUID(id) for text in heard for id in text.split(",")} == {task.id for task in tasks}


# Families


async def test_the_last_of_several_parents_lets_the_child_go(
    connection: asyncpg.Connection,
) -> None:
    parents = [await add_taken(connection) for _ in range(3)]
    child = await add(connection, *(parent["id"] for parent in parents))

    assert (await end(connection, parents[0])).released.lanes == set()
    assert (await end(connection, parents[1])).released.tasks == 0
    assert (await read(connection, child))["waiting_on"] == 1
    finished = await end(connection, parents[2])

    assert (finished.released.tasks, finished.released.lanes) == (1, {("default", 0)})
    assert await state_of(connection, child) == "enqueued"


async def test_parents_that_end_in_one_batch_let_the_child_go(
    connection: asyncpg.Connection,
) -> None:
    parents = [await add_taken(connection) for _ in range(3)]
    child = await add(connection, *(parent["id"] for parent in parents))

    assert (await end(connection, *parents)).released.tasks == 1

    row = await read(connection, child)
    assert (row["state"], row["waiting_on"]) == ("enqueued", 0)


async def test_a_batch_of_which_some_go_the_long_way_lets_all_children_go(
    connection: asyncpg.Connection,
) -> None:
    plain, removed = await add_taken(connection), await add_taken(connection, auto_remove=True)
    await add(connection, plain["id"])
    await add(connection, removed["id"], queue="mail")

    finished = await end(connection, plain, removed)

    assert await states(connection) == ["done", "done", "enqueued", "enqueued"]
    assert (finished.released.tasks, finished.released.lanes) == (2, {("default", 0), ("mail", 0)})
    assert finished.fenced == []


async def test_the_end_of_a_parent_may_be_written_again(connection: asyncpg.Connection) -> None:
    parent = await add_taken(connection)
    child = await add(connection, parent["id"])
    ended = outcome(parent)

    for _ in range(2):
        finished = await finish_any(connection, TABLES, [ended], channels=SILENT)
        assert finished.fenced == []

    row = await read(connection, child)
    assert (row["state"], row["waiting_on"]) == ("enqueued", 0)


@pytest.mark.parametrize(
    ("served", "told"),
    [((), ["default", "mail"]), (["default"], ["mail"]), (["default", "mail"], []), (None, [])],
    ids=str,
)
async def test_of_children_in_other_queues_than_its_own_a_worker_tells(
    connection: asyncpg.Connection, database_url: str, served: list[str] | None, told: list[str]
) -> None:
    parents = [await add_taken(connection) for _ in range(2)]
    for parent, queue in zip(parents, ("default", "mail"), strict=True):
        await add(connection, parent["id"], queue=queue, priority=3)
    awaited = await add_taken(connection, awaited=True)

    async with listening(database_url) as ear:
        ends = [outcome(record) for record in (*parents, awaited)]
        await finish_any(connection, TABLES, ends, channels=CHANNELS, served=served)
        await connection.execute("SELECT pg_notify($1, 'that is all')", CHANNELS.done)
        assert await ear.hears("queue_new_task_done", 2) == [str(awaited["id"]), "that is all"]

    bells = [json.loads(text) for text in ear.on("queue_new_task")]
    assert sorted(lane for bell in bells for lane in bell["lanes"]) == [[q, 3] for q in told]
    assert [bell["due"] for bell in bells] == [None] * bool(told)


async def test_of_more_children_than_it_can_run_a_worker_tells(
    connection: asyncpg.Connection, database_url: str
) -> None:
    parent = await add_taken(connection)
    for _ in range(2):
        await add(connection, parent["id"])

    async with listening(database_url) as ear:
        await finish_any(connection, TABLES, [outcome(parent)], channels=CHANNELS, served=None)
        [bell] = await ear.hears("queue_new_task")

    assert json.loads(bell)["lanes"] == [["default", 0]]


@pytest.mark.parametrize("lanes", [50, 51])
async def test_of_children_in_very_many_lanes_all_workers_look(
    connection: asyncpg.Connection, database_url: str, lanes: int
) -> None:
    parent = await add_taken(connection)
    await write(
        connection,
        *(new(parent["id"], queue=f"queue {number:02}") for number in range(lanes)),
    )

    async with listening(database_url) as ear:
        await end(connection, parent, channels=CHANNELS)
        [bell] = await ear.hears("queue_new_task")

    named = [queue for queue, _ in json.loads(bell)["lanes"]]
    assert sorted(named) == [f"queue {number:02}" for number in range(lanes if lanes < 51 else 0)]
    assert json.loads(bell).get("all", False) is (lanes > 50)


async def test_two_workers_that_end_parents_of_the_same_children_do_not_lock_each_other_out(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    for each in (connection, other):  # their plans give the order of the locks
        for name, value in HELD_PLANS.items():
            await each.execute(f"SET {name} = {value}")
    left = [await add_taken(connection) for _ in range(5)]
    right = [await add_taken(connection) for _ in range(5)]
    both = [record["id"] for record in (*left, *right)]
    children = [await add(connection, *both) for _ in range(20)]

    async def end_all(own: asyncpg.Connection, records: list[Any]) -> None:
        for record in records:
            await end(own, record)

    await asyncio.gather(end_all(connection, left), end_all(other, right[::-1]))

    assert await states(connection, children) == ["enqueued"] * 20


async def test_a_parent_that_is_tried_again_keeps_its_child_waiting(
    connection: asyncpg.Connection,
) -> None:
    parent = await add_taken(connection)
    child = await add(connection, parent["id"])

    for word in ("interrupted", "retry"):
        await end(connection, parent, word=word, delay=0.0)
        assert await state_of(connection, child) == "waiting"
        [parent] = await take(connection)
    await end(connection, parent)

    assert await state_of(connection, child) == "enqueued"


@pytest.mark.parametrize("word", ["failed", "cancelled"])
async def test_a_parent_that_comes_to_nothing_dooms_its_descendants(
    connection: asyncpg.Connection, database_url: str, word: str
) -> None:
    parent = await add_taken(connection)
    child = await add(connection, parent["id"], awaited=True)
    grandchild = await add(connection, child, awaited=True)
    stubborn = await add(connection, grandchild, on_parent_failure="run")
    failing = await add(connection, parent["id"], on_parent_failure="fail")

    async with listening(database_url) as ear:
        finished = await end(connection, parent, word=word, channels=CHANNELS)
        heard = await ear.hears("queue_new_task_done")

    assert await states(connection) == [word, "cancelled", "cancelled", "enqueued", "failed"]
    assert finished.released.lanes == {("default", 0)}
    assert ",".join(heard).split(",") == [str(child), str(grandchild)]
    assert str(parent["id"]) in (await read(connection, child))["error_message"]
    assert str(child) in (await read(connection, grandchild))["error_message"]
    assert (await read(connection, failing))["error_type"] == "ParentFailed"
    assert (await read(connection, stubborn))["error_type"] is None


async def test_a_child_with_one_failed_and_one_open_parent_is_cancelled_at_once(
    connection: asyncpg.Connection,
) -> None:
    failing, open_ = await add_taken(connection), await add_taken(connection)
    child = await add(connection, failing["id"], open_["id"])

    await end(connection, failing, word="failed")
    await end(connection, open_)

    assert await state_of(connection, child) == "cancelled"


# Cancelled while it ran


@pytest.mark.parametrize("word", ["retry", "snoozed", "interrupted"])
async def test_a_task_that_was_to_be_cancelled_does_not_run_again(
    connection: asyncpg.Connection, database_url: str, word: str
) -> None:
    record = await add_taken(connection, awaited=True)
    child = await add(connection, record["id"])
    await actions.cancel(connection, TABLES, [record["id"]])

    async with listening(database_url) as ear:
        await end(connection, record, word=word, channels=CHANNELS)
        assert await ear.hears("queue_new_task_done") == [str(record["id"])]

    assert await state_of(connection, record["id"]) == "cancelled"
    assert await state_of(connection, child) == "cancelled"


async def test_the_reason_of_a_cancellation_is_kept(connection: asyncpg.Connection) -> None:
    record = await add_taken(connection)
    await actions.cancel(connection, TABLES, [record["id"]], reason="wrong customer")

    await end(connection, record, word="cancelled")

    assert (await read(connection, record["id"]))["error_message"] == "wrong customer"


async def test_a_task_that_was_done_before_it_could_be_cancelled_is_done(
    connection: asyncpg.Connection,
) -> None:
    record = await add_taken(connection)
    await actions.cancel(connection, TABLES, [record["id"]])

    assert await finish(connection, record)

    row = await read(connection, record["id"])
    assert (row["state"], row["error_type"]) == ("done", None)


# Removing


async def test_a_task_to_be_removed_is_gone_when_it_is_done(
    connection: asyncpg.Connection,
) -> None:
    record = await add_taken(connection, auto_remove=True)
    await append_logs(connection, TABLES, [line(record)])
    assert not await finish(connection, record)

    await end(connection, record)

    assert await count(connection) == 0
    assert await messages(connection) == []


async def test_a_task_to_be_removed_leaves_no_link(connection: asyncpg.Connection) -> None:
    parent = await add_taken(connection)
    await add(connection, parent["id"], auto_remove=True)
    await end(connection, parent)
    await end(connection, *await take(connection))

    assert await connection.fetchval("SELECT count(*) FROM queued_task_links") == 0


@pytest.mark.parametrize("word", ["failed", "cancelled", "retry"])
async def test_a_task_to_be_removed_stays_unless_it_is_done(
    connection: asyncpg.Connection, word: str
) -> None:
    record = await add_taken(connection, auto_remove=True)

    await end(connection, record, word=word)

    assert await state_of(connection, record["id"]) == STATES[word]


async def test_a_task_to_be_removed_stays_when_it_logged_an_error(
    connection: asyncpg.Connection,
) -> None:
    record = await add_taken(connection, auto_remove=True)
    await append_logs(connection, TABLES, [line(record, level="error")])

    await end(connection, record)

    assert await state_of(connection, record["id"]) == "done"


async def test_a_task_to_be_removed_stays_when_somebody_waits_for_it(
    connection: asyncpg.Connection,
) -> None:
    record = await add_taken(connection, auto_remove=True, awaited=True)

    await end(connection, record, result="1")

    row = await read(connection, record["id"])
    assert (row["state"], row["result"]) == ("done", "1")


async def test_a_task_to_be_removed_stays_when_it_has_children(
    connection: asyncpg.Connection,
) -> None:
    record = await add_taken(connection, auto_remove=True)
    await add(connection, record["id"])

    await end(connection, record)

    assert await states(connection) == ["done", "enqueued"]


# Two at once


async def test_one_of_two_outcomes_at_once_is_recorded(
    connection: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection
) -> None:
    record = await add_taken(connection)
    first = connection.transaction()
    await first.start()
    await end(connection, record, word="interrupted")

    second = asyncio.create_task(end(other, record, word="failed"))
    await blocked(watcher, other)
    await first.commit()

    await second
    assert await state_of(watcher, record["id"]) == "enqueued"


async def test_an_interrupted_run_leaves_the_losses(connection: asyncpg.Connection) -> None:
    record = await add_taken(connection)
    await change(connection, record["id"], losses=2, alone=True)

    await end(connection, record, word="interrupted")

    row = await read(connection, record["id"])
    assert (row["state"], row["losses"], row["alone"]) == ("enqueued", 2, True)
