"""Inserting: what becomes a row, in which state, under which parents and keys."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from rows import (
    CHANNELS,
    TABLES,
    add,
    add_ended,
    add_taken,
    blocked,
    change,
    connections,
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

from fastedgy.errors import ParentNotFound
from fastedgy.ids import new_id
from fastedgy.store import actions, watch
from fastedgy.store.finish import finish_any
from fastedgy.store.insert import CHUNK, COPY_FROM
from fastedgy.store.newtask import NewTask
from fastedgy.store.notify import SILENT
from fastedgy.store.outcomes import Standing
from fastedgy.store.returned import finish_done
from fastedgy.store.statements import GATED_LINE
from fastedgy.store.unique import Holder, find_holders

LATER = datetime.now(UTC) + timedelta(days=1)
EARLIER = datetime.now(UTC) - timedelta(days=1)


async def add_in(connection: asyncpg.Connection, state: str) -> UUID:
    """A task in that state."""
    if state == "enqueued":
        return await add(connection)
    if state == "scheduled":
        return await add(connection, delay=60.0)
    if state == "waiting":
        return await add(connection, await add(connection))
    if state == "doing":
        id: UUID = (await add_taken(connection))["id"]
        return id
    return await add_ended(connection, state)


async def test_a_plain_task_is_in_the_line(connection: asyncpg.Connection) -> None:
    id = await add(connection, args="[1, 2]", kwargs='{"a": 3}', priority=7, queue="mail",
                   max_retries=9, timeout=1.5, awaited=True)  # fmt: skip

    row = await read(connection, id)
    assert row["state"] == "enqueued"
    assert (json.loads(row["args"]), json.loads(row["kwargs"])) == ([1, 2], {"a": 3})
    assert (row["name"], row["function"]) == ("shop.send", "shop:send")
    assert (row["priority"], row["queue"], row["max_retries"]) == (7, "mail", 9)
    assert (row["timeout"], row["awaited"]) == (1.5, True)
    assert (row["run"], row["attempt"], row["losses"], row["has_children"]) == (0, 0, 0, False)
    assert abs(row["date_created"] - row["date_enqueued"]) < timedelta(seconds=1)


@pytest.mark.parametrize(
    "columns",
    [
        {"args": "[1]", "timeout": 3.0},
        {"args": '["é\\\\\\"{}", null, 1.5]', "kwargs": '{"a": "漢"}', "trace": "00-1-2-01"},
        {"priority": -7, "max_retries": 2**31 - 1, "queue": '{a,"b"}', "awaited": True},
    ],
)
async def test_all_statements_write_the_same_row(
    connection: asyncpg.Connection, columns: dict[str, Any]
) -> None:
    alone, first, copied = new(**columns), new(**columns), new(**columns)
    among_others = new(**columns)
    await write(connection, alone)
    await write(connection, first, new(**columns))
    others = [new(**columns | {"kwargs": f'{{"a": {n % 2}}}'}) for n in range(COPY_FROM)]
    await write(connection, *others[:1_000], copied, *others[1_000:])
    await write(connection, among_others, new(name="another"))

    tasks = (alone, first, copied, among_others)
    rows = [dict(await read(connection, task.id)) for task in tasks]
    for row in rows:
        for column in ("id", "date_created", "date_enqueued"):
            del row[column]
    assert rows == [rows[0]] * 4
    assert await count(connection, "kwargs @> '{\"a\": 1}'") == COPY_FROM // 2


@pytest.mark.parametrize(
    ("columns", "state"),
    [
        ({"delay": 60.0}, "scheduled"),
        ({"delay": 0.0}, "enqueued"),
        ({"at": LATER}, "scheduled"),
        ({"at": EARLIER}, "enqueued"),
    ],
)
async def test_a_task_with_a_time_waits_until_it_is_due(
    connection: asyncpg.Connection, columns: dict[str, object], state: str
) -> None:
    id = await add(connection, **columns)

    row = await read(connection, id)
    assert row["state"] == state
    assert row["date_due"] == columns.get("at", row["date_due"])
    assert row["date_due"] is not None


async def test_further_columns_are_written(connection: asyncpg.Connection) -> None:
    id = await add(connection, context='{"a": 1}', closure=b"\x00\x01", auto_remove=True)

    row = await read(connection, id)
    assert (json.loads(row["context"]), row["closure"]) == ({"a": 1}, b"\x00\x01")
    assert row["auto_remove"]


async def test_tasks_beyond_one_statement_go_out_together(connection: asyncpg.Connection) -> None:
    tasks = [new() for _ in range(CHUNK)]
    tasks.append(new(tasks[0].id))
    await write(connection, *tasks)

    assert await count(connection) == CHUNK + 1
    assert await state_of(connection, tasks[-1].id) == "waiting"


async def test_none_of_many_is_written_when_one_has_no_parent(
    connection: asyncpg.Connection,
) -> None:
    with pytest.raises(ParentNotFound):
        await write(connection, *(new() for _ in range(CHUNK)), new(new_id()))

    assert await count(connection) == 0


# Parents


@pytest.mark.parametrize("parent", ["enqueued", "scheduled", "waiting", "doing"])
async def test_a_child_waits_for_a_parent_that_has_not_ended(
    connection: asyncpg.Connection, parent: str
) -> None:
    id = await add_in(connection, parent)

    child = await add(connection, id)

    row = await read(connection, child)
    assert (row["state"], row["waiting_on"]) == ("waiting", 1)
    assert (await read(connection, id))["has_children"]


async def test_a_child_of_a_parent_that_is_done_may_run(connection: asyncpg.Connection) -> None:
    id = await add_in(connection, "done")

    child = await add(connection, id)

    assert await state_of(connection, child) == "enqueued"
    assert not (await read(connection, id))["has_children"]
    assert await watch.children_of(connection, TABLES, id) == [child]


@pytest.mark.parametrize(
    "pair", list(product(["done", "enqueued", "doing"], repeat=2)), ids=" and ".join
)
async def test_a_child_waits_for_those_of_its_parents_that_are_not_done(
    connection: asyncpg.Connection, pair: tuple[str, str]
) -> None:
    parents = [await add_in(connection, state) for state in pair]

    child = await add(connection, *parents)

    row = await read(connection, child)
    waiting_on = sum(state != "done" for state in pair)
    assert row["waiting_on"] == waiting_on
    assert row["state"] == ("waiting" if waiting_on else "enqueued")
    assert await watch.parents_of(connection, TABLES, child) == sorted(parents)


async def test_a_parent_that_is_named_twice_counts_once(connection: asyncpg.Connection) -> None:
    parent = await add_taken(connection)
    child = await add(connection, parent["id"], parent["id"])

    await end(connection, parent)

    assert await state_of(connection, child) == "enqueued"


async def test_a_family_is_written_at_once(connection: asyncpg.Connection) -> None:
    first, second = new(), new()
    third = new(first.id, second.id)
    await write(connection, first, second, third, new(third.id))

    assert await states(connection) == ["enqueued", "enqueued", "waiting", "waiting"]
    for _ in range(3):
        await end(connection, *await take(connection))
    assert await states(connection) == ["done"] * 4


async def test_a_child_may_have_parents_in_the_table_and_beside_it(
    connection: asyncpg.Connection,
) -> None:
    old = await add_taken(connection)
    beside = new()
    child = new(old["id"], beside.id)
    await write(connection, beside, child)

    await end(connection, old)
    assert (await read(connection, child.id))["waiting_on"] == 1
    await end(connection, *await take(connection))
    assert await state_of(connection, child.id) == "enqueued"


@pytest.mark.parametrize("parent", ["done", "doing"])
async def test_a_child_with_a_delay_is_scheduled_once_its_parents_are_done(
    connection: asyncpg.Connection, parent: str
) -> None:
    record = await add_taken(connection)
    if parent == "done":
        await end(connection, record)
    child = await add(connection, record["id"], delay=60.0)
    if parent == "doing":
        assert await state_of(connection, child) == "waiting"
        await end(connection, record)

    assert await state_of(connection, child) == "scheduled"


@pytest.mark.parametrize("fate", ["failed", "cancelled"])
@pytest.mark.parametrize(
    ("on_parent_failure", "state"),
    [("cancel", "cancelled"), ("fail", "failed"), ("run", "enqueued")],
)
async def test_a_child_of_a_dead_parent_meets_its_fate(
    connection: asyncpg.Connection, fate: str, on_parent_failure: str, state: str
) -> None:
    parent = await add_in(connection, fate)

    child = await add(connection, parent, on_parent_failure=on_parent_failure)

    row = await read(connection, child)
    assert row["state"] == state
    if state != "enqueued":
        assert row["error_type"] == "ParentFailed"
        assert f"shop.send ({parent}) ended as {fate}" in row["error_message"]


async def test_a_child_that_runs_in_any_case_still_waits_for_its_other_parent(
    connection: asyncpg.Connection,
) -> None:
    dead, open_ = await add_in(connection, "failed"), await add_taken(connection)

    child = await add(connection, dead, open_["id"], on_parent_failure="run")

    assert await state_of(connection, child) == "waiting"
    await end(connection, open_, word="failed")
    assert await state_of(connection, child) == "enqueued"


async def test_a_dead_parent_dooms_a_whole_family_that_is_just_written(
    connection: asyncpg.Connection,
) -> None:
    dead = await add_in(connection, "failed")
    child = new(dead)
    grandchild = new(child.id)
    await write(connection, child, grandchild, new(grandchild.id), new())

    assert await states(connection) == ["failed", *["cancelled"] * 3, "enqueued"]


async def test_a_missing_parent_is_named_and_nothing_is_written(
    connection: asyncpg.Connection,
) -> None:
    here, missing = await add(connection), new_id()

    with pytest.raises(ParentNotFound, match=str(missing)) as caught:
        await write(connection, new(), new(here, missing))

    assert caught.value.ids == [missing]
    assert await count(connection) == 1
    assert not (await read(connection, here))["has_children"]


async def test_a_missing_parent_does_not_harm_the_callers_transaction(
    connection: asyncpg.Connection,
) -> None:
    async with connection.transaction():
        await add(connection)
        with pytest.raises(ParentNotFound):
            await add(connection, new_id())
        await add(connection)

    assert await states(connection) == ["enqueued", "enqueued"]


async def test_a_parent_that_somebody_else_has_not_committed_is_missing(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    async with other.transaction():
        parent = await add(other)
        with pytest.raises(ParentNotFound):
            await add(connection, parent)


# The parent ends while its child is inserted (DECISIONS R11)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("done", "enqueued"),
        ("failed", "cancelled"),
        ("cancelled", "cancelled"),
        ("retry", "waiting"),
        ("interrupted", "waiting"),
    ],
)
async def test_a_child_inserted_while_its_parent_ends_waits_for_that_end(
    connection: asyncpg.Connection,
    other: asyncpg.Connection,
    watcher: asyncpg.Connection,
    word: str,
    state: str,
) -> None:
    parent = await add_taken(connection)
    ending = connection.transaction()
    await ending.start()
    await end(connection, parent, word=word)

    child = new(parent["id"])
    inserting = asyncio.create_task(write(other, child))
    await blocked(watcher, other)
    await ending.commit()
    await inserting

    assert await state_of(connection, child.id) == state
    assert (await read(connection, parent["id"]))["has_children"] == (word != "done")


async def test_a_child_inserted_while_its_parent_is_claimed_waits_for_it(
    connection: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection
) -> None:
    parent = await add(connection)
    claiming = connection.transaction()
    await claiming.start()
    [record] = await take(connection)

    child = new(parent)
    inserting = asyncio.create_task(write(other, child))
    await blocked(watcher, other)
    await claiming.commit()
    await inserting

    assert not await finish_done(connection, TABLES, [outcome(record)], channels=SILENT)
    await end(connection, record)
    assert await state_of(connection, child.id) == "enqueued"


async def test_a_parent_that_ends_while_its_child_is_inserted_sees_the_child(
    connection: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection
) -> None:
    """The short way of finishing waits for the parent's row, and then knows of its children."""
    parent = await add_taken(connection)
    inserting = other.transaction()
    await inserting.start()
    child = await add(other, parent["id"])

    ending = asyncio.create_task(
        finish_done(connection, TABLES, [outcome(parent)], channels=SILENT)
    )
    await blocked(watcher, connection)
    await inserting.commit()

    assert await ending is False
    assert await state_of(watcher, parent["id"]) == "doing"
    await end(connection, parent)
    assert await state_of(watcher, child) == "enqueued"


async def end_behind(
    open_transaction: Any, watcher: asyncpg.Connection, connection: asyncpg.Connection, record: Any
) -> None:
    """End a task whose row another transaction holds, which is committed then."""
    ending = asyncio.create_task(end(connection, record))
    await blocked(watcher, connection)
    await open_transaction.commit()
    await ending


async def test_a_parent_that_ends_while_it_gets_a_further_child_lets_all_go(
    connection: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection
) -> None:
    """The one statement that ends parents waits for the row, and does not see the new link."""
    parent = await add_taken(connection)
    first = await add(connection, parent["id"])
    inserting = other.transaction()
    await inserting.start()
    second = await add(other, parent["id"])

    await end_behind(inserting, watcher, connection, parent)

    assert await state_of(watcher, first) == "enqueued"
    assert await state_of(watcher, second) == "enqueued"


async def test_a_parent_that_ends_while_a_child_is_retried_lets_it_go(
    connection: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection
) -> None:
    parent = await add_taken(connection)
    first = await add(connection, parent["id"])
    second = await add(connection, parent["id"])
    await actions.cancel(connection, TABLES, [second])
    retrying = other.transaction()
    await retrying.start()
    assert await actions.retry(other, TABLES, [second]) == [second]

    await end_behind(retrying, watcher, connection, parent)

    assert await state_of(watcher, first) == "enqueued"
    assert await state_of(watcher, second) == "enqueued"


async def test_a_task_that_ends_while_another_comes_to_stand_for_it_ends_that_one(
    connection: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection
) -> None:
    meant, stand_in = await add_taken(connection), await add_taken(connection)
    child = await add(connection, meant["id"])
    standing = other.transaction()
    await standing.start()
    await finish_any(
        other, TABLES, [Standing(stand_in["id"], stand_in["run"], 0.0, 0.0, meant["id"])],
        channels=SILENT,
    )  # fmt: skip

    await end_behind(standing, watcher, connection, meant)

    assert await state_of(watcher, stand_in["id"]) == "done"
    assert await state_of(watcher, child) == "enqueued"


async def test_a_parent_that_ends_while_its_child_is_undone_takes_the_short_way(
    connection: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection
) -> None:
    parent = await add_taken(connection)
    inserting = other.transaction()
    await inserting.start()
    await add(other, parent["id"])

    ending = asyncio.create_task(
        finish_done(connection, TABLES, [outcome(parent)], channels=SILENT)
    )
    await blocked(watcher, connection)
    await inserting.rollback()

    assert await ending is True


async def test_no_child_waits_for_ever_when_parents_end_all_the_time(
    connection: asyncpg.Connection, database_url: str
) -> None:
    parents = [await add_taken(connection) for _ in range(40)]
    children = [new(parent["id"]) for parent in parents]
    async with connections(database_url, 2) as [inserter, finisher]:

        async def insert_all() -> None:
            for child in children:
                await write(inserter, child)

        async def finish_all() -> None:
            for parent in parents:
                if not await finish_done(finisher, TABLES, [outcome(parent)], channels=SILENT):
                    await end(finisher, parent)

        await asyncio.gather(insert_all(), finish_all())

    assert await states(connection) == ["done"] * 40 + ["enqueued"] * 40


# Unique keys


async def test_of_fifty_tasks_with_one_key_at_once_one_is_written(
    connection: asyncpg.Connection, database_url: str
) -> None:
    tasks = [new(unique_key="report") for _ in range(50)]
    async with connections(database_url, 10) as opened:

        async def some(own: asyncpg.Connection, mine: list[NewTask]) -> list[UUID]:
            return [id for task in mine for id in (await write(own, task)).taken]

        taken = await asyncio.gather(*(some(own, tasks[n::10]) for n, own in enumerate(opened)))

    assert await count(connection) == 1
    kept_out = {id for ids in taken for id in ids}
    assert len(kept_out) == 49
    holders = await find_holders(connection, TABLES, ["report", "another"])
    [written] = {task.id for task in tasks} - kept_out
    assert holders == {"report": Holder(written, "enqueued")}


async def test_of_two_tasks_with_one_key_in_one_flush_the_first_is_written(
    connection: asyncpg.Connection,
) -> None:
    first, second = new(unique_key="report"), new(unique_key="report")

    assert (await write(connection, first, second)).taken == [second.id]

    assert await state_of(connection, first.id) == "enqueued"


@pytest.mark.parametrize("state", ["scheduled", "enqueued", "waiting", "doing"])
async def test_a_task_that_has_not_ended_holds_its_key(
    connection: asyncpg.Connection, state: str
) -> None:
    holder = await add_in(connection, state)
    await change(connection, holder, unique_key="report")
    late = new(unique_key="report")

    assert (await write(connection, late)).taken == [late.id]


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
async def test_a_task_that_has_ended_frees_its_key(
    connection: asyncpg.Connection, state: str
) -> None:
    await add_ended(connection, state, unique_key="report")

    assert (await write(connection, new(unique_key="report"))).taken == []


async def test_a_task_that_its_key_keeps_out_leaves_nothing_behind(
    connection: asyncpg.Connection,
) -> None:
    parent = await add(connection)
    child = new(parent, unique_key="report")
    await write(connection, child)

    await write(connection, new(parent, unique_key="report"))

    assert await watch.children_of(connection, TABLES, parent) == [child.id]


# Repetitions


@pytest.mark.parametrize(
    "columns", [{}, {"delay": 60.0}, {"unique_key": "report"}], ids=["plain", "other", "keyed"]
)
async def test_an_insert_whose_answer_was_lost_may_be_repeated(
    connection: asyncpg.Connection, columns: dict[str, object]
) -> None:
    tasks = [new(**columns), new()]
    await write(connection, *tasks)

    assert (await write(connection, *tasks, again=True)).taken == []

    assert await count(connection) == 2


async def test_an_insert_may_be_repeated_when_its_tasks_have_gone_on(
    connection: asyncpg.Connection,
) -> None:
    parent = await add_taken(connection)
    child = new(parent["id"])
    await write(connection, child)
    await end(connection, parent)
    [record] = await take(connection)
    await end(connection, record)

    await write(connection, child, again=True)

    assert await states(connection) == ["done", "done"]


# The bell


async def test_the_bell_names_the_lanes(connection: asyncpg.Connection, database_url: str) -> None:
    async with listening(database_url) as ear:
        await write(connection, new(), new(), channel=CHANNELS.tasks)
        await write(
            connection, new(queue="mail", priority=5), new(delay=3.0), new(delay=2.0),
            channel=CHANNELS.tasks,
        )  # fmt: skip
        heard = [json.loads(text) for text in await ear.hears("queue_new_task", 2)]

    assert heard == [
        {"lanes": [["default", 0]], "due": None},
        {"lanes": [["mail", 5]], "due": 2.0},
    ]


async def test_the_bell_for_very_many_lanes_says_to_look_everywhere(
    connection: asyncpg.Connection, database_url: str
) -> None:
    async with listening(database_url) as ear:
        await write(
            connection, *(new(priority=number) for number in range(51)), channel=CHANNELS.tasks
        )
        [heard] = await ear.hears("queue_new_task")

    assert json.loads(heard)["lanes"] == []


async def test_the_bell_for_very_long_gates_names_their_lines_only(
    connection: asyncpg.Connection, database_url: str
) -> None:
    tasks = [new(queue="mail", limit=1, priority=n % 3, gate=f"{n}" + "☃" * 490) for n in range(27)]
    async with listening(database_url) as ear:
        await write(connection, *tasks, channel="queue_new_task")
        told = json.loads((await ear.hears("queue_new_task"))[0])
    assert told["lanes"] == [["mail", GATED_LINE]]
    assert not told.get("gates")


async def test_the_bell_rings_at_the_commit(
    connection: asyncpg.Connection, database_url: str
) -> None:
    async with listening(database_url) as ear:
        undone = connection.transaction()
        await undone.start()
        await write(connection, new(queue="undone"), channel=CHANNELS.tasks)
        await undone.rollback()
        await write(connection, new(queue="kept"), channel=CHANNELS.tasks)
        [heard] = await ear.hears("queue_new_task")

    assert "kept" in heard
