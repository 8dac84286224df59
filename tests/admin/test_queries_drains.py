"""Whom a name means when workers are to drain, and what is said before; whole trees of tasks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from rows import OTHER, TABLES, add, add_taken, end, read, states

from fastedgy.admin import QueueAdmin
from fastedgy.admin.drains import choose
from fastedgy.errors import AmbiguousId, InvalidOption, InvalidTransition, WorkerNotFound
from fastedgy.store import workers
from fastedgy.store.overview import WorkerRow

NOW = datetime.now(UTC)
ONE, TWO, THREE, WEB = (UUID(f"{n}{n}{n}{n}0000-0000-4000-8000-00000000abc{n}") for n in "1234")
FIRST, SECOND = UUID("f" * 32), UUID("e" * 32)


def row(id: UUID, pid: int, **changes: Any) -> WorkerRow:
    values: dict[str, Any] = {
        "id": id, "server_name": "web-3", "pid": pid, "supervisor_id": FIRST, "state": "running",
        "queues": None, "concurrency": 10, "busy": 0, "version": "1", "counters": {},
        "date_started": NOW, "last_heartbeat": NOW, "silent_for": 1.0,
    }  # fmt: skip
    return WorkerRow(**(values | changes))


CREW = [
    row(ONE, 1), row(TWO, 2), row(THREE, 3, server_name="web-4", supervisor_id=SECOND),
    row(WEB, 4, concurrency=0, supervisor_id=None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind", "ids", "supervisors"),
    [
        ("web-3/2", "worker", [TWO], []),
        (str(THREE), "worker", [THREE], []),
        ("abc1", "worker", [ONE], []),
        ("2222-00", "worker", [TWO], []),
        ("web-3", "server", [ONE, TWO], [FIRST]),
        ("web-4", "server", [THREE], [SECOND]),
        (str(FIRST), "supervisor", [ONE, TWO], [FIRST]),
        ("eeee", "supervisor", [THREE], [SECOND]),
    ],
)
def test_a_name_means_a_worker_a_supervisor_or_a_server(
    name: str, kind: str, ids: list[UUID], supervisors: list[UUID]
) -> None:
    chosen = choose(CREW, name)

    assert (chosen.kind, [each.id for each in chosen.workers]) == (kind, ids)
    assert chosen.supervisors == supervisors


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("web-9", WorkerNotFound, "There are web-3/1, web-3/2, web-4/3."),
        ("abc", WorkerNotFound, "No worker, supervisor or server is called 'abc'."),
        ("web-3/4", InvalidTransition, "is a web process, which takes no tasks from the queue."),
        (str(WEB), InvalidTransition, "Stop its server instead."),
    ],
)
def test_a_name_that_means_nobody_is_an_error(name: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says.replace(".", r"\.")):
        choose(CREW, name)


def test_a_short_id_of_several_is_an_error() -> None:
    twin = row(UUID("11110000-0000-4000-8000-000000000000"), 9)
    with pytest.raises(AmbiguousId, match="short for more than one worker"):
        choose([*CREW, twin], "1111")


async def test_what_runs_and_who_is_silent_is_said_before(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    for id, pid in ((UUID(int=1), 1), (OTHER, 2)):
        await workers.register(
            connection, TABLES, worker_id=id, server_name="web-3", pid=pid, supervisor_id=FIRST,
            queues=[], concurrency=4, version="1",
        )  # fmt: skip
    for _ in range(2):
        await add_taken(connection)
    await connection.execute(
        "UPDATE queued_task_workers SET last_heartbeat = now() - interval '1 hour' WHERE pid = 2"
    )

    planned = await admin.preview_drain("web-3")

    assert (planned.running, planned.supervisors) == (2, [FIRST])
    assert planned.sentence == (
        "2 workers on web-3 take no more tasks and end, with their supervisor; nobody starts "
        "others. 2 tasks run there: what does not end within QUEUE_DRAIN_TIMEOUT goes back to the "
        "line. 1 worker gives no sign of life, and may not hear of it."
    )


async def test_a_tree_is_cancelled_also_where_it_runs_and_as_its_preview_says(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    root = await add_taken(connection)
    child = await add(connection, root["id"], on_parent_failure="run")
    below = await add(connection, child)
    await add(connection)

    planned = await admin.preview_tree("cancel", root["id"])
    assert (planned.total, planned.states) == (3, {"waiting": 2, "doing": 1})
    assert planned.sentence == "Cancels 3 tasks in 2 queues; 1 is running."
    assert await admin.cancel_tree(root["id"], actor="ann") == planned.total
    assert await states(connection, [child, below]) == ["cancelled"] * 2
    assert (await read(connection, root["id"]))["cancel_requested"]

    await end(connection, root, word="cancelled")
    planned = await admin.preview_tree("retry", below)
    assert planned.total == await admin.retry_tree(below, actor="ann") == 3
    assert await states(connection, [root["id"], child, below]) == [
        "enqueued", "waiting", "waiting",
    ]  # fmt: skip
    assert await admin.retry_tree(below, actor="ann") == 0
    noted = await admin.audit(action="task.retry_tree")
    assert [entry.details for entry in noted] == [{"changed": 3}], "nothing is not noted"
    with pytest.raises(InvalidOption, match="A tree can be cancelled and retried"):
        await admin.preview_tree("delete", below)
