"""Finding and reading tasks, through the service that everything else is built on."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from rows import WORKER, add, add_ended, add_taken, change, end, new, write

from fastedgy.admin import QueueAdmin, TaskFilter
from fastedgy.errors import InvalidOption, TaskNotFound
from fastedgy.ids import new_id
from fastedgy.store import search

NOW = datetime.now(UTC)


@pytest.fixture(params=["by its index", "in steps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to find tasks: by partial indexes, and along the primary key in small steps."""
    if request.param == "in steps":
        monkeypatch.setattr(search, "FEW", -1)
        monkeypatch.setattr(search, "WINDOW", 2)
    return str(request.param)


def made(seconds_ago: float) -> UUID:
    """An id of a task that was made so long ago."""
    stamp = int((datetime.now(UTC).timestamp() - seconds_ago) * 1000)
    return UUID(int=(stamp << 80) | (new_id().int & ((1 << 80) - 1)))


async def furnish(connection: asyncpg.Connection) -> dict[str, UUID]:
    """One task of each kind that filters tell apart."""
    ids = {
        "mail": await add(connection, name="mail.send", queue="mail"),
        "old": await add(connection, id=made(7200)),
        "gated": await add(connection, gate="customer:42"),
        "keyed": await add(connection, unique_key="invoice 7"),
        "planned": await add(connection, schedule="nightly"),
        "told": await add(connection, context='{"dataset": {"id": 7, "word": "x"}, "a": true}'),
        "later": await add(connection, delay=3600.0),
        "failed": await add_ended(connection, "failed"),
        "long": await add_ended(connection, "done"),
    }
    await connection.execute(
        "INSERT INTO queued_task_workers (id, server_name, pid, concurrency, version)"
        " VALUES ($1, 'web-3', 1712, 4, '1') ON CONFLICT DO NOTHING", WORKER,
    )  # fmt: skip
    await change(
        connection, ids["long"], date_started=NOW - timedelta(seconds=90), date_ended=NOW,
        worker_id=UUID(int=9),
    )  # fmt: skip
    return ids


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"states": ("failed",)}, {"failed"}),
        ({"states": ("failed", "scheduled")}, {"failed", "later"}),
        ({"states": ("enqueued",), "queue": "mail"}, {"mail"}),
        ({"name": "send", "queue": "mail"}, {"mail"}),
        ({"name": "mail.*"}, {"mail"}),
        ({"created_before": NOW - timedelta(hours=1)}, {"old"}),
        ({"started_after": NOW - timedelta(minutes=5), "min_duration": 60}, {"long"}),
        ({"states": ("done", "failed"), "max_duration": 60.0}, {"failed"}),
        ({"worker": "web-3"}, {"failed"}),
        ({"worker": "web-3/1712"}, {"failed"}),
        ({"worker": "web-3/1"}, set()),
        ({"worker": str(UUID(int=9))}, {"long"}),
        ({"error": "ValueError"}, {"failed"}),
        ({"error_text": "No Such"}, {"failed"}),
        ({"context": {"dataset.id": 7}}, {"told"}),
        ({"context": {"dataset.id": "7", "dataset.word": "x", "a": True}}, {"told"}),
        ({"context": {"dataset.id": 8}}, set()),
        ({"key": "invoice 7"}, {"keyed"}),
        ({"gate": "customer:42"}, {"gated"}),
        ({"schedule": "nightly"}, {"planned"}),
        ({"ids": ()}, set()),
    ],
    ids=lambda value: "+".join(sorted(map(str, value))),
)
async def test_a_filter_finds_what_it_says(
    admin: QueueAdmin, connection: asyncpg.Connection, way: str, wanted: Any, found: set[str]
) -> None:
    ids = await furnish(connection)

    page = await admin.list_tasks(TaskFilter(**wanted))

    assert {task.id for task in page.items} == {ids[name] for name in found}
    assert page.next is None
    assert await admin.count_tasks(TaskFilter(**wanted)) == len(found)


async def test_relatives_are_found_by_tree_and_parent(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    top = await add(connection)
    middle = await add(connection, top)
    low = await add(connection, middle)
    await add(connection)

    async def found(**wanted: Any) -> set[UUID]:
        return {task.id for task in (await admin.list_tasks(TaskFilter(**wanted))).items}

    assert await found(tree=middle) == {top, middle, low}
    assert await found(parent=top) == {middle}
    assert await found(tree=middle, states=("waiting",)) == {middle, low}
    assert await found(tree=middle, ids=(low, new_id())) == {low}


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("filter", [TaskFilter(), TaskFilter(states=("enqueued",), name="send")])
async def test_pages_follow_each_other_without_gap_or_repetition(
    admin: QueueAdmin, connection: asyncpg.Connection, way: str, oldest_first: bool, filter: Any
) -> None:
    ids = [await add(connection) for _ in range(7)]
    read: list[UUID] = []
    cursor: str | None = None
    sizes = []
    while True:
        page = await admin.list_tasks(filter, limit=3, cursor=cursor, oldest_first=oldest_first)
        read += [task.id for task in page.items]
        sizes.append(len(page.items))
        if page.next is None:
            break
        cursor = page.next
        await add(connection, name="other.task")  # what comes meanwhile disturbs nobody

    wanted = ids if oldest_first else ids[::-1]
    assert [id for id in read if id in ids] == wanted
    assert len(read) == len(set(read))
    assert sizes[:2] == [3, 3]


async def test_a_search_whose_time_is_up_says_how_far_it_came_and_can_go_on(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "WINDOW", 3)
    rare = await add(connection, name="rare.one")
    for _ in range(10):
        await add(connection)
    admin, found, steps, cursor = QueueAdmin.on(connection), [], 0, None
    wanted = TaskFilter(name="rare.one")

    async def step() -> search.Found:
        after = None if cursor is None else UUID(cursor)
        return await search.find(connection, admin.tables, wanted, limit=5, after=after, seconds=-1)

    while True:
        got = await step()
        steps += 1
        found += got.ids
        if got.next is None:
            break
        assert got.searched_to is not None
        cursor = got.next.hex

    assert found == [rare]
    assert steps == 4


@pytest.mark.parametrize("wanted", [{"limit": 0}, {"limit": 1001}, {"cursor": "yesterday"}])
async def test_what_is_no_page_is_refused(admin: QueueAdmin, wanted: Any) -> None:
    with pytest.raises(InvalidOption):
        await admin.list_tasks(**wanted)


def test_a_state_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidOption, match="There is no state 'stopped'"):
        TaskFilter(states=("stopped",))


async def test_the_promised_names_answer(admin: QueueAdmin, connection: asyncpg.Connection) -> None:
    old, young = await add(connection, id=made(7200)), await add(connection)
    running = await add_taken(connection)

    recent = await admin.get_recent_tasks(2)
    enqueued = await admin.get_tasks_by_status("enqueued")
    past = await admin.get_tasks_in_range(NOW - timedelta(hours=3), NOW - timedelta(hours=1))

    assert [task.id for task in recent] == [running["id"], young]
    assert [task.id for task in enqueued] == [young, old]
    assert [task.id for task in past] == [old]
    assert [task.id for task in await admin.get_running_tasks()] == [running["id"]]


async def test_running_tasks_come_by_how_long_they_run(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    first, second = await add_taken(connection), await add_taken(connection)
    since = datetime.now(UTC) - timedelta(seconds=60)
    await change(connection, second["id"], date_started=since)

    tasks = await admin.get_running_tasks(1)

    assert [task.id for task in tasks] == [second["id"]]
    assert tasks[0].duration == pytest.approx(60, abs=30)
    assert first["id"] != second["id"]


async def test_a_line_of_a_listing_says_what_matters(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    await furnish(connection)
    task = await add_taken(
        connection, args='["ann@x.org", {"a": 1}]', kwargs='{"copy": true}',
        context='{"progress": 163, "stage": "saving"}',
    )  # fmt: skip
    await end(connection, task, word="failed", message="no such user\nsecond line")

    [line] = (await admin.list_tasks(TaskFilter(ids=(task["id"],)))).items

    assert line.arguments == '"ann@x.org", {"a": 1}, copy=true'
    assert (line.progress, line.stage) == (100.0, "saving")
    assert (line.error_type, line.error) == ("ValueError", "no such user")
    assert line.worker == "web-3/1712"
    assert line.duration == pytest.approx(0.5, abs=0.1)


async def test_large_arguments_are_not_read_for_a_listing(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    await add(connection, args=json.dumps(["x" * 300]))
    await add(connection, args=json.dumps([secrets.token_hex(3000)]))

    large, long = await admin.get_recent_tasks()

    assert large.arguments == "…"
    assert len(long.arguments) == 200
    assert long.arguments.endswith("…")


async def test_what_is_redacted_is_in_no_answer(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    id = await add(
        connection, args='["ann", "geheim", 3]', kwargs='{"token": "geheim", "copy": true}',
        redact=("1", "token"),
    )  # fmt: skip
    child = await add(connection, id)

    details = await admin.get_task_details(id)
    [line] = (await admin.list_tasks(TaskFilter(ids=(id,)))).items
    tree = await admin.get_tree(child)

    assert details.args == ["ann", "[redacted]", 3]
    assert details.kwargs == {"token": "[redacted]", "copy": True}
    assert line.arguments == '"ann", "[redacted]", 3, copy=true, token="[redacted]"'
    assert "geheim" not in repr((details, line, tree))


@pytest.mark.parametrize("forged", ['{"0": "geheim"}', '"geheim"', '["x", "geheim"]'])
async def test_a_forged_row_shows_no_secret_either(
    admin: QueueAdmin, connection: asyncpg.Connection, forged: str
) -> None:
    id = await add(connection, redact=("1",))
    await change(connection, id, args=forged, kwargs='["geheim"]')

    assert "geheim" not in repr(await admin.get_task_details(id))
    assert "geheim" not in repr(await admin.get_recent_tasks())


async def test_a_tree_has_its_edges(admin: QueueAdmin, connection: asyncpg.Connection) -> None:
    top = await add(connection)
    left, right = await add(connection, top), await add(connection, top)
    join = await add(connection, left, right)

    tree = await admin.get_tree(left)

    assert tree.root == left
    assert [task.id for task in tree.nodes] == [top, left, join]
    assert set(tree.edges) == {(top, left), (left, join)}
    assert not tree.truncated
    assert (await admin.get_tree(join, limit=1)).truncated


async def test_logs_can_be_limited_to_what_is_serious(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    id = await add(connection)
    for seq, level in enumerate(("debug", "info", "warning", "error")):
        await connection.execute(
            "INSERT INTO queued_task_logs (logged_at, task_id, run, seq, level, logger, message)"
            " VALUES (now(), $1, 1, $2, $3, 'shop', 'hello')", id, seq, level,
        )  # fmt: skip

    async def levels(**wanted: Any) -> list[str]:
        return [line.level for line in await admin.get_task_logs(id, **wanted)]

    assert await levels() == ["debug", "info", "warning", "error"]
    assert await levels(level="warning") == ["warning", "error"]
    assert await levels(after=(1, 1), limit=1) == ["warning"]
    with pytest.raises(InvalidOption, match="There is no level 'loud'"):
        await levels(level="loud")


async def test_what_is_not_there_is_said(admin: QueueAdmin) -> None:
    for ask in (admin.get_task_details, admin.get_tree, admin.explain):
        with pytest.raises(TaskNotFound):
            await ask(new_id())


async def test_an_abbreviated_id_is_found(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    task = new()
    await write(connection, task)
    assert await admin.find_id(str(task.id)[-12:]) == task.id
