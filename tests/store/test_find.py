"""Reading the queue: pages of tasks, abbreviated ids, one task in all its parts, the counts."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fastedgy.errors import AmbiguousId, InvalidOption, TaskNotFound
from fastedgy.models.tables import Tables
from fastedgy.store import counts, details, find, overview
from fastedgy.store.find import TaskFilters

TABLES = Tables()
Add = Callable[..., Awaitable[UUID]]

ENDED = {"done", "failed", "cancelled"}


def uuid7(moment: datetime, tail: int) -> UUID:
    """A UUIDv7 of that moment, which ends in `tail`."""
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | tail)


@pytest.fixture
def add(connection: asyncpg.Connection) -> Add:
    """Write a task in any state; columns may be given, `age` is seconds since it was made."""
    tails = count(0x10_0000)

    async def write(state: str = "enqueued", *, age: float = 0.0, **columns: Any) -> UUID:
        made = datetime.now(UTC) - timedelta(seconds=age)
        row: dict[str, Any] = {
            "id": uuid7(made, next(tails)),
            "state": state,
            "name": "tasks.send",
            "function": "tasks:send",
            "date_created": made,
        }
        if state in {"enqueued", "doing"} | ENDED:
            row["date_enqueued"] = made
        if state in {"doing"} | ENDED:
            row |= {"date_started": made, "worker_id": UUID(int=1), "attempt": 1, "run": 1}
        if state in ENDED:
            row["date_ended"] = made
        if state == "scheduled":
            row["date_due"] = made + timedelta(hours=1)
        if state == "waiting":
            row["waiting_on"] = 1
        row |= columns
        names, places = ", ".join(row), ", ".join(f"${n}" for n in range(1, len(row) + 1))
        await connection.execute(
            f"INSERT INTO queued_tasks ({names}) VALUES ({places})", *row.values()
        )
        task: UUID = row["id"]
        return task

    return write


@pytest.fixture
def link(connection: asyncpg.Connection) -> Callable[..., Awaitable[None]]:
    """Make one task the parent of others."""

    async def write(parent: UUID, *children: UUID) -> None:
        for child in children:
            await connection.execute(
                "INSERT INTO queued_task_links (parent_id, child_id) VALUES ($1, $2)", parent, child
            )
        await connection.execute(
            "UPDATE queued_tasks SET has_children = true WHERE id = $1", parent
        )

    return write


async def plan(connection: asyncpg.Connection, statement: str, *args: Any) -> str:
    """The plan of a statement when the table is large and mostly done."""
    rows = await connection.fetch(f"EXPLAIN {statement}", *args)
    return "\n".join(row[0] for row in rows)


@pytest.fixture
async def large(connection: asyncpg.Connection, add: Add) -> None:
    """A table of 20,000 tasks, nearly all done."""
    await connection.execute("""
        INSERT INTO queued_tasks
            (id, state, name, function, date_enqueued, date_started, date_ended)
        SELECT (lpad(to_hex(n), 12, '0') || '7000800000000000' || lpad(to_hex(n), 4, '0'))::uuid,
               'done', 'old', 'm:old', now() - interval '1 day', now(), now()
          FROM generate_series(1, 20000) AS n
    """)
    for state in find.STATES:
        await add(state)
    # The pages that earlier tests left in the primary key would make a walk over it look dear.
    await connection.execute("REINDEX TABLE queued_tasks")
    await connection.execute("VACUUM ANALYZE queued_tasks")


async def test_tasks_are_listed_from_the_newest_on(
    connection: asyncpg.Connection, add: Add
) -> None:
    old, new = await add(age=60), await add(age=1)
    middle = await add("done", age=30)

    tasks = await find.list_tasks(connection, TABLES)

    assert [task.id for task in tasks] == [new, middle, old]
    assert tasks[1].state == "done"
    assert tasks[1].date_ended is not None


async def test_pages_follow_each_other_without_gap_or_overlap(
    connection: asyncpg.Connection, add: Add
) -> None:
    ids = [await add(age=10 - n) for n in range(7)]
    seen: list[UUID] = []
    before = None
    while page := await find.list_tasks(connection, TABLES, limit=3, before=before):
        seen += [task.id for task in page]
        before = seen[-1]

    assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (TaskFilters(states=("failed",)), {"b"}),
        (TaskFilters(states=("failed", "doing")), {"b", "c"}),
        (TaskFilters(name="mail.send"), {"a"}),
        (TaskFilters(name="mail.*"), {"a", "b"}),
        (TaskFilters(name="send"), {"a"}),
        (TaskFilters(name="other"), {"c", "d"}),
        (TaskFilters(name="*send"), {"a"}),
        (TaskFilters(name="ail.send"), set()),
        (TaskFilters(name="mail_send"), set()),
        (TaskFilters(name="%"), set()),
        (TaskFilters(queue="bulk"), {"b", "d"}),
        (TaskFilters(states=("done", "failed"), queue="bulk", name="*"), {"b", "d"}),
        (TaskFilters(since=datetime.now(UTC) - timedelta(minutes=30)), {"a", "b"}),
    ],
)
async def test_each_filter_that_is_given_holds(
    connection: asyncpg.Connection, add: Add, filters: TaskFilters, expected: set[str]
) -> None:
    ids = {
        await add("enqueued", name="mail.send"): "a",
        await add("failed", name="mail.check", queue="bulk"): "b",
        await add("doing", name="other", age=7200): "c",
        await add("done", name="other", queue="bulk", age=7200): "d",
    }

    found = await find.list_tasks(connection, TABLES, filters)

    assert {ids[task.id] for task in found} == expected


async def test_an_unknown_state_is_an_error_and_never_reaches_the_statement(
    connection: asyncpg.Connection,
) -> None:
    with pytest.raises(InvalidOption, match="There is no state"):
        await find.list_tasks(connection, TABLES, TaskFilters(states=("x' OR true --",)))


async def test_an_id_is_found_by_its_whole_its_beginning_and_its_end(
    connection: asyncpg.Connection, add: Add
) -> None:
    task = await add(id=UUID("0190aaaa-bbbb-7ccc-8ddd-eeeeffff1234"))
    await add(age=60)

    for text in (
        str(task),
        task.hex.upper(),
        "0190aaaa",
        "0190aaaa-bbbb-7ccc-8d",
        "1234",
        "f1234",
        "eeeeffff1234",
        "deeeeffff1234",
        "8ddd-eeeeffff1234",
        "c8dddeeeeffff1234",
    ):
        assert await find.find_id(connection, TABLES, text) == task, text


@pytest.mark.parametrize(
    "text", ["12", "", "zebra", "0190aaaa", "0" * 32, "1" * 40, "%%%%", "é" * 8]
)
async def test_what_is_no_id_of_a_task_is_not_found(
    connection: asyncpg.Connection, add: Add, text: str
) -> None:
    await add()
    with pytest.raises(TaskNotFound):
        await find.find_id(connection, TABLES, text)


async def test_an_abbreviation_of_several_ids_names_them(
    connection: asyncpg.Connection, add: Add
) -> None:
    first = await add(id=UUID("0190aaaa-bbbb-7ccc-8ddd-000000001234"))
    second = await add(id=UUID("0190aaaa-bbbb-7ccc-8ddd-000000011234"))

    with pytest.raises(AmbiguousId) as beginning:
        await find.find_id(connection, TABLES, "0190aaaa")
    with pytest.raises(AmbiguousId) as end:
        await find.find_id(connection, TABLES, "1234")

    assert set(beginning.value.ids) == set(end.value.ids) == {first, second}
    assert str(first) in str(end.value)


async def test_details_hold_the_row_its_worker_and_its_relatives(
    connection: asyncpg.Connection, add: Add, link: Callable[..., Awaitable[None]]
) -> None:
    await connection.execute(
        "INSERT INTO queued_task_workers (id, server_name, pid, concurrency, version)"
        " VALUES ($1, 'web-3', 1712, 10, '1')",
        UUID(int=1),
    )
    parent = await add("done", age=9)
    huge = 12345678901234567890123
    task = await add(
        "doing",
        args=json.dumps(["ann", huge]),
        kwargs='{"subject": "hi"}',
        context='{"progress": 63}',
        history='[{"what": "retry"}]',
    )
    child, other = await add("waiting"), await add("waiting")
    await link(parent, task)
    await link(task, child, other)

    found = await details.task_details(connection, TABLES, task, relatives=1)

    assert (found.args, found.kwargs) == (["ann", huge], {"subject": "hi"})
    assert (found.context, found.result) == ({"progress": 63}, None)
    assert found.history == [{"what": "retry"}]
    assert found.worker == "web-3/1712"
    assert [row.id for row in found.parents] == [parent]
    assert len(found.children) == 1
    assert found.children_by_state == {"waiting": 2}


async def test_details_of_no_task_are_an_error(connection: asyncpg.Connection) -> None:
    with pytest.raises(TaskNotFound):
        await details.task_details(connection, TABLES, UUID(int=5))


async def test_log_lines_come_by_run_and_number_and_go_on_after_the_last(
    connection: asyncpg.Connection, add: Add
) -> None:
    task = await add("doing")
    for run, seq in ((2, 1), (1, 2), (1, 1), (2, 2)):
        await connection.execute(
            "INSERT INTO queued_task_logs (logged_at, task_id, run, seq, level, logger, message,"
            " info) VALUES (now(), $1, $2, $3, 'info', 'app', $4, '{\"a\": 1}')",
            task, run, seq, f"{run}.{seq}",
        )  # fmt: skip

    first = await details.task_logs(connection, TABLES, task, limit=3)
    rest = await details.task_logs(connection, TABLES, task, after=(first[-1].run, first[-1].seq))
    last = await details.last_logs(connection, TABLES, task, limit=2)

    assert [log.message for log in first] == ["1.1", "1.2", "2.1"]
    assert [log.message for log in rest] == ["2.2"]
    assert [log.message for log in last] == ["2.1", "2.2"]
    assert rest[0].info == {"a": 1}


async def test_a_family_is_all_ancestors_and_descendants_but_no_cousins(
    connection: asyncpg.Connection, add: Add, link: Callable[..., Awaitable[None]]
) -> None:
    top, left, right, bottom, stranger = [await add("done", age=9 - n) for n in range(5)]
    await link(top, left, right)
    await link(left, bottom)
    await link(right, bottom)

    whole = await details.tree(connection, TABLES, top)
    of_left = await details.tree(connection, TABLES, left)

    assert [task.id for task in whole.tasks] == [top, left, right, bottom]
    assert set(whole.links) == {(top, left), (top, right), (left, bottom), (right, bottom)}
    assert not whole.truncated
    assert {task.id for task in of_left.tasks} == {top, left, bottom}
    assert stranger not in {task.id for task in whole.tasks}


async def test_a_family_that_is_too_large_or_goes_in_a_circle_still_ends(
    connection: asyncpg.Connection, add: Add, link: Callable[..., Awaitable[None]]
) -> None:
    one, two, *more = [await add("done") for _ in range(12)]
    await link(one, two)
    await link(two, one)
    circle = await details.tree(connection, TABLES, one)
    await link(one, *more)
    cut = await details.tree(connection, TABLES, one, limit=5)

    assert {task.id for task in circle.tasks} == {one, two}
    assert cut.truncated
    assert one in {task.id for task in cut.tasks}


async def test_a_worker_is_as_busy_as_it_holds_tasks_and_alive_within_its_lease(
    connection: asyncpg.Connection, add: Add
) -> None:
    for number, (state, silent) in enumerate((("running", 0), ("draining", 90)), start=1):
        await connection.execute(
            "INSERT INTO queued_task_workers (id, server_name, pid, concurrency, version, state,"
            " counters, queues, last_heartbeat)"
            " VALUES ($1, 'web', 7, 2, '1', $2, '{\"fenced\": 2}', $3,"
            " now() - $4 * interval '1 s')",
            UUID(int=number), state, ["mail"] if number == 1 else None, silent,
        )  # fmt: skip
    for _ in range(3):
        await add("doing")

    running, silent = await overview.list_workers(connection, TABLES)
    summary = overview.worker_summary([running, silent], lease=30)

    assert (running.busy, silent.busy) == (2, 0)
    assert (running.is_alive(30), silent.is_alive(30)) == (True, False)
    assert (running.serves("mail"), running.serves("other")) == (True, False)
    assert summary == overview.WorkerSummary(
        servers=1, processes=1, active=1, idle=0, slots=2, busy=2
    )
    assert overview.sum_counters([running, silent]) == {"fenced": 4}


async def test_failed_tasks_are_read_page_by_page_in_the_order_of_their_ends(
    connection: asyncpg.Connection, add: Add
) -> None:
    ids = [await add("failed", age=9 - n, queue="q") for n in range(5)]
    await add("failed", name="other")

    first = await find.failed_page(connection, TABLES, limit=3, queues=["q"])
    rest = await find.failed_page(connection, TABLES, after=first[-1], queues=["q"])

    assert [task for _, task in first + rest] == ids
    assert await find.count_failed(connection, TABLES) == 6
    assert await find.count_failed(connection, TABLES, name="other", queues=["q"]) == 0


@pytest.mark.usefixtures("large")
async def test_no_listing_scans_the_tasks_that_are_done(connection: asyncpg.Connection) -> None:
    hour_ago = find.first_id(datetime.now(UTC) - timedelta(hours=1))
    for conditions in ((), ("id <",), ("id >=", "'.' || name LIKE")):
        values = [{"id <": UUID(int=9), "id >=": hour_ago, "'.' || name LIKE": "a"}[c]
                  for c in conditions]  # fmt: skip
        for states in ((), *((state,) for state in find.STATES), ("failed", "doing")):
            statement = find._listing(states, conditions)[TABLES]
            assert "Seq Scan" not in await plan(connection, statement, 50, *values), statement


@pytest.mark.usefixtures("large")
async def test_no_count_and_no_look_up_scans_the_table(connection: asyncpg.Connection) -> None:
    for statement, values in (
        (counts.COUNT, (counts.EXACT + 1,)),
        (counts.DEPTHS, (counts.EXACT, counts.FEWEST)),
        (counts.ARRIVALS, (UUID(int=1), 2_000)),
        (overview._WORKERS, ()),
        (overview._SLOTS, (100,)),
        (find._LONGEST_RUNNING, (5,)),
        (find._OLDEST_DUE, (5,)),
        (find._BY_START, (UUID(int=1), UUID(int=2), 4)),
        (find._BY_END, ("0123456789", 1)),
        (find._FAILED, (None, None, *find.FIRST, 10)),
        (find._COUNT_NOT_STARTED, (None,)),
        (details._RELATIVES, (UUID(int=1), 100)),
    ):
        text = await plan(connection, statement[TABLES], *values)
        assert "Seq Scan on queued_tasks" not in text, text

    text = await plan(connection, counts.COUNT[TABLES], counts.EXACT + 1)
    for state in ("scheduled", "waiting", "ready", "gated", "suspect", "doing", "failed"):
        assert f"queued_tasks_{state} " in text, text
