"""Every snippet of the user guide, in a real application: over HTTP, in rows, in worker processes.

`guide_app` holds the snippets to the letter, with what they take for granted.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import pytest
from commands import Background, environment, free_port, shell
from guide_app import focused, progress, robust, third_party
from helpers import NO_TLS, create_database, drop_database, eventually

from fastedgy.database import connect
from fastedgy.errors import TaskFailed
from fastedgy.queued_tasks import QueuedTaskRef, QueuedTasks

TESTS = Path(__file__).parent
GUIDE = (TESTS / "guide_app" / "queued-tasks-guide.txt").read_text(encoding="utf-8")
START_WORKERS, SHOW_STATUS = "fastedgy queue start --workers=3", "fastedgy queue status"


@dataclass
class Running:
    """The guide's application, served, with the workers of the guide's command."""

    http: str
    database_url: str
    env: dict[str, str]


@pytest.fixture(scope="module")
def guide(server_url: str, template: str) -> Iterator[Running]:
    url = create_database(server_url, template)
    env = environment(
        DATABASE_URL=url, FASTEDGY_APP="guide_app.main:app", QUEUE_RETRY_BACKOFF="0.05"
    )
    port = free_port()
    try:
        with (
            Background(f"fastedgy serve --port {port}", TESTS, env) as web,
            Background(START_WORKERS, TESTS, env) as pool,
        ):
            web.wait_for("Serving at")
            pool.wait_for("worker ready", times=3)
            yield Running(f"http://127.0.0.1:{port}", url, env)
    finally:
        drop_database(server_url, url)


@pytest.fixture
async def http(guide: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=guide.http, verify=NO_TLS) as client:
        yield client


@pytest.fixture
async def rows(guide: Running) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(guide.database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def tasks(guide: Running, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[QueuedTasks]:
    """The producer, as a script has it."""
    monkeypatch.setenv("DATABASE_URL", guide.database_url)
    async with QueuedTasks() as service:
        yield service


async def ended(rows: asyncpg.Connection, name: str, count: int) -> list[asyncpg.Record]:
    """The tasks of that name when all of them are done, oldest first."""

    async def check() -> list[asyncpg.Record]:
        found = await rows.fetch("SELECT * FROM queued_tasks WHERE name = $1 ORDER BY id", name)
        assert [row["state"] for row in found] == ["done"] * count
        return list(found)

    return await eventually(check)


async def row_of(rows: asyncpg.Connection, ref: QueuedTaskRef) -> asyncpg.Record:
    return await rows.fetchrow("SELECT * FROM queued_tasks WHERE id = $1", ref.id)


async def log_lines(rows: asyncpg.Connection, id: UUID | None) -> list[tuple[str, str, str]]:
    found = await rows.fetch(
        "SELECT level, logger, message FROM queued_task_logs WHERE task_id = $1 ORDER BY run, seq",
        id,
    )
    return [tuple(row) for row in found]


def test_the_snippets_here_are_those_of_the_guide() -> None:
    snippets = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.M | re.S)
    modules = [path.read_text(encoding="utf-8") for path in (TESTS / "guide_app").glob("*.py")]

    missing = [code for code in snippets if not any(code in module for module in modules)]

    assert len(snippets) == 7
    assert missing == []


async def test_pattern_1_a_route_adds_a_task_and_answers(
    http: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    answer = await http.post("/users/7/notify", params={"message": "hello"})

    assert answer.json() == {"notification_queued": True}
    [row] = await ended(rows, "guide_app.notify.send_email", 1)
    assert json.loads(row["args"]) == ["user7@example.com", "Notification", "hello"]
    assert json.loads(row["result"]) == {"sent": True, "recipient": "user7@example.com"}


async def test_pattern_2_a_child_starts_after_its_parent(
    http: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    answer = await http.post("/orders", json={"id": 42})

    assert answer.json() == {"order_queued": True}
    [parent] = await ended(rows, "guide_app.orders.process_order", 1)
    [child] = await ended(rows, "guide_app.orders.send_confirmation", 1)
    assert json.loads(parent["result"]) == {"order_id": 42, "status": "processed"}
    assert json.loads(child["result"]) == {"confirmation_sent": True}
    assert child["date_started"] >= parent["date_ended"]
    links = await rows.fetch("SELECT parent_id, child_id FROM queued_task_links")
    assert [tuple(link) for link in links] == [(parent["id"], child["id"])]


async def test_pattern_3_many_tasks_run_in_parallel(
    http: httpx.AsyncClient, rows: asyncpg.Connection
) -> None:
    answer = await http.post("/users/3/process-gallery")

    assert answer.json() == {"images_queued": 5}
    images = await ended(rows, "guide_app.services.process_image", 5)
    assert [json.loads(row["args"]) for row in images] == [[300 + n, 3] for n in range(1, 6)]
    assert max(row["date_started"] for row in images) < min(row["date_ended"] for row in images)


async def test_context_and_progress_are_in_the_row(
    tasks: QueuedTasks, rows: asyncpg.Connection
) -> None:
    ref = tasks.add_task(progress.process_dataset, 12)

    assert await ref.wait(timeout=30) == {"processed": True}
    assert await ref.context() == {"dataset": {"id": 12}, "progress": 100, "stage": "saving"}
    assert json.loads((await row_of(rows, ref))["context"]) == await ref.context()


async def test_a_robust_task_logs_what_it_does(
    tasks: QueuedTasks, rows: asyncpg.Connection
) -> None:
    ref = tasks.add_task(robust.robust_task, 5)

    assert await ref.wait(timeout=30) == {"processed": 5}
    assert await log_lines(rows, ref.id) == [
        ("info", "tasks.processing", "Starting task for 5"),
        ("info", "tasks.processing", "Task completed successfully"),
    ]
    assert await ref.context() == {"data": {"id": 5}}


async def test_a_robust_task_that_fails_says_why(
    tasks: QueuedTasks, rows: asyncpg.Connection
) -> None:
    ref = tasks.task(max_retries=0).add_task(robust.robust_task, "broken")

    with pytest.raises(TaskFailed, match="ValueError: the data is broken"):
        await ref.wait(timeout=30)
    assert (await log_lines(rows, ref.id))[-1] == (
        "error",
        "tasks.processing",
        "Task failed: the data is broken",
    )
    assert await ref.context() == {
        "data": {"id": "broken"},
        "error": {"message": "the data is broken"},
    }


async def test_focused_and_unfocused_tasks_run(
    tasks: QueuedTasks, rows: asyncpg.Connection
) -> None:
    welcome = tasks.add_task(focused.send_welcome_email, "ann@example.com")
    too_much = tasks.add_task(focused.handle_new_user, {"name": "Ann"})

    sent = await welcome.wait(timeout=30)
    assert sent == {"recipient": "ann@example.com", "template": "welcome_template"}
    assert await too_much.wait(timeout=30) is None
    assert [message for _, _, message in await log_lines(rows, too_much.id)] == [
        "created",
        "sent",
        "resized",
    ]


async def test_a_rate_limit_is_retried_automatically(
    tasks: QueuedTasks, rows: asyncpg.Connection
) -> None:
    ref = tasks.add_task(third_party.api_task, {"key": "k", "limited": 2})

    assert await ref.wait(timeout=30) == {"accepted": True}
    row = await row_of(rows, ref)
    assert (row["attempt"], row["max_retries"]) == (3, 3)
    retried = [(past["what"], past["error_type"]) for past in json.loads(row["history"])]
    assert retried == [("retry", "guide_app.services.APIRateLimitError")] * 2


async def test_an_error_of_authorization_is_not_retried(
    tasks: QueuedTasks, rows: asyncpg.Connection
) -> None:
    ref = tasks.add_task(third_party.api_task, {})

    with pytest.raises(TaskFailed, match="no key"):
        await ref.wait(timeout=30)
    assert (await row_of(rows, ref))["attempt"] == 1
    assert await ref.context() == {"auth_failed": True}


def test_the_status_command_shows_the_workers_that_run(guide: Running) -> None:
    assert f"`{SHOW_STATUS}`" in GUIDE
    assert f"`{START_WORKERS}`" in GUIDE

    said = shell(SHOW_STATUS, TESTS, guide.env)

    assert re.search(r"Active Servers +1\b", said)
    assert re.search(r"Total Workers +3/", said)
    assert re.search(r"Pending Tasks +\d+", said)


def test_the_variables_of_the_guide_configure_the_workers(
    database_url: str, tmp_path: Path
) -> None:
    [variables] = re.findall(r"^```bash\n(.*?)^```$", GUIDE, re.M | re.S)
    (tmp_path / ".env").write_text(variables)
    env = environment(DATABASE_URL=database_url)
    read = (
        "from fastedgy.queued_task import QueuedTaskConfig as Config; config = Config(); "
        "print(config.max_workers, config.task_timeout, config.max_retries)"
    )
    exported = f"set -a\n{variables}\npython -c '{read}'"
    assert shell(exported, tmp_path, env).split() == ["4", "300.0", "3"]

    start = f"fastedgy --env-file {tmp_path / '.env'} queue start --app guide_app.main:app"
    with Background(start, TESTS, env) as pool:
        pool.wait_for("workers=4")
        pool.wait_for("worker ready", times=4)
