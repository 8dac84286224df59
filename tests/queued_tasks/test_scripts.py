"""Outside of routes: scripts, background code, tasks that add tasks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from helpers import PATIENCE, eventually
from mail_samples import report, send
from proxy import Proxy
from rows import count

from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import ConfigurationError, NoOpenBuffer, ParentNotFound
from fastedgy.ids import new_id
from fastedgy.queued_task.context import TaskContext
from fastedgy.queued_tasks import QueuedTasks


@pytest.fixture
def environment(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)


@pytest.mark.usefixtures("environment")
async def test_a_script_writes_at_the_end_of_its_block(connection: asyncpg.Connection) -> None:
    async with QueuedTasks() as tasks:
        ref = tasks.add_task(send, "a")
        assert await count(connection) == 0

    assert await count(connection, "id = $1", ref.id) == 1


@pytest.mark.usefixtures("environment")
async def test_a_script_that_raises_drops_what_it_added(connection: asyncpg.Connection) -> None:
    with pytest.raises(ValueError, match="no"):
        async with QueuedTasks() as tasks:
            await tasks.add_task(send, "kept")
            tasks.add_task(send, "dropped")
            raise ValueError("no")

    assert await count(connection) == 1


@pytest.mark.usefixtures("environment")
async def test_a_script_whose_tasks_cannot_be_written_fails(connection: asyncpg.Connection) -> None:
    with pytest.raises(ParentNotFound):
        async with QueuedTasks() as tasks:
            tasks.add_task(send, "a", parent=new_id())

    assert await count(connection) == 0


@pytest.mark.usefixtures("environment")
async def test_a_producer_may_be_opened_again(connection: asyncpg.Connection) -> None:
    tasks = QueuedTasks()
    for name in ("first", "second"):
        async with tasks:
            tasks.add_task(send, name)

    assert await count(connection) == 2


@pytest.mark.usefixtures("environment")
async def test_a_block_within_the_block_of_a_script_writes_at_its_own_end(
    connection: asyncpg.Connection,
) -> None:
    async with QueuedTasks() as tasks:
        tasks.add_task(send, "outer")
        async with tasks:
            tasks.add_task(send, "inner")
        assert await count(connection) == 1
        tasks.add_task(send, "outer")

    assert await count(connection) == 3


SCRIPT = """
import asyncio
from fastedgy.queued_tasks import QueuedTasks
from mail_samples import send

async def main():
    async with QueuedTasks() as tasks:
        tasks.add_tasks(send, [(str(number),) for number in range(10)])

asyncio.run(main())
"""


async def test_a_script_of_ten_lines_works(
    connection: asyncpg.Connection, database_url: str
) -> None:
    result = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", SCRIPT],
        env={"DATABASE_URL": database_url, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert await count(connection) == 10


@pytest.mark.usefixtures("environment")
async def test_a_script_has_no_transactions_of_an_application() -> None:
    async with QueuedTasks() as tasks:
        with pytest.raises(ConfigurationError, match="async with running"):
            async with tasks.transaction():
                pass


@pytest.mark.usefixtures("environment")
async def test_blocks_of_several_asyncio_tasks_at_once_do_not_meet(
    connection: asyncpg.Connection,
) -> None:
    tasks = QueuedTasks()
    met = asyncio.Barrier(3)

    async def block(name: str) -> None:
        async with tasks:
            await met.wait()
            tasks.add_task(send, name)
            await met.wait()
            if name == "bad":
                raise ValueError

    await asyncio.gather(*map(block, ("first", "bad", "second")), return_exceptions=True)

    rows = await connection.fetch("SELECT args ->> 0 AS name FROM queued_tasks ORDER BY 1")
    assert [row["name"] for row in rows] == ["first", "second"]


# In a loop without a block


async def test_what_is_added_outside_of_everything_is_written_at_once(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    tasks.add_task(send, "a")
    tasks.add_task(send, "b")

    async def check() -> None:
        assert await count(connection) == 2

    await eventually(check)


async def test_no_task_is_forgotten_when_the_background_writer_is_about_to_end(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    first = tasks.add_task(send, "a")
    seconds = []

    def add_when_written() -> None:
        if first._pending is not None:
            asyncio.get_running_loop().call_soon(add_when_written)
        else:
            # The writer has had its last look at the buffer a moment ago.
            seconds.append(tasks.add_task(send, "b"))

    add_when_written()

    async def check() -> None:
        assert await count(connection) == 2

    await eventually(check)


async def test_closing_writes_what_is_on_its_way(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    tasks.add_task(send, "a")
    await tasks.close()

    assert await count(connection) == 1


async def test_what_cannot_be_written_in_the_background_is_logged(
    tasks: QueuedTasks, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.add_task(send, "a", parent=new_id())

    def check() -> None:
        assert any("are lost" in message for message in caplog.messages)

    await eventually(check)
    tasks.add_task(send, "b")
    await tasks.close()
    assert await count(connection) == 1


async def in_a_thread(work: Callable[[], Any]) -> Any:
    # Not `to_thread`, which takes the context along, with the buffer that is open in it.
    with ThreadPoolExecutor(1) as pool:
        return await asyncio.wrap_future(pool.submit(work))


async def test_a_thread_of_its_own_adds_by_way_of_the_application(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    refs = await in_a_thread(lambda: [tasks.add_task(send, str(number)) for number in range(20)])
    await in_a_thread(lambda: refs[0].cancel("not needed"))
    await tasks.close()

    assert await count(connection) == 20
    assert await count(connection, "state = 'cancelled'") == 1


async def test_a_thread_of_a_script_adds_by_way_of_its_loop(
    connection: asyncpg.Connection, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", queue_url)
    async with QueuedTasks() as tasks:
        await in_a_thread(lambda: tasks.add_task(send, "a"))

    assert await count(connection) == 1
    with pytest.raises(NoOpenBuffer):
        await in_a_thread(lambda: tasks.add_task(send, "late"))


async def test_adding_where_nothing_would_write_is_an_error() -> None:
    tasks = QueuedTasks(config=QueuedTaskConfig())
    with pytest.raises(NoOpenBuffer, match="async with QueuedTasks"):
        await in_a_thread(lambda: tasks.add_task(send, "a"))


async def test_a_producer_that_was_never_opened_says_so() -> None:
    with pytest.raises(NoOpenBuffer):
        await QueuedTasks(config=QueuedTaskConfig()).add_task(send, "a")


# Thousands


async def test_thousands_are_added_in_a_few_round_trips(
    wire: Proxy, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", wire.url)
    async with QueuedTasks() as tasks:
        tasks.add_tasks(report, [(0,), (0,)])
        await tasks.flush()  # each connection prepares a statement once
        wire.reset()
        refs = tasks.add_tasks(report, [(number,) for number in range(5_000)])
        await tasks.flush()
        assert wire.round_trips <= 3
        assert len({ref.id for ref in refs}) == 5_000
        wire.reset()
        tasks.add_tasks(report, [(0,)] * 1_500)
        await tasks.flush()
        assert wire.round_trips == 1
        tasks.add_tasks(report, [{"number": number} for number in range(5_001)])

    assert await count(connection) == 11_503
    assert await count(connection, "kwargs @> '{\"number\": 5000}'") == 1


@pytest.mark.parametrize("cut", [False, True], ids=["frozen", "cut"])
async def test_a_copy_that_gets_stuck_is_given_up_and_done_again(
    wire: Proxy, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, cut: bool
) -> None:
    monkeypatch.setenv("DATABASE_URL", wire.url)
    config = QueuedTaskConfig(statement_timeout=60 if cut else 3, enqueue_timeout=60)
    async with QueuedTasks(config=config) as tasks:
        await tasks.add_task(report, 0)
        wire.stall_copies(after=300_000)
        refs = tasks.add_tasks(report, [("x" * 1_000,) for _ in range(20_000)])
        opened = wire.opened
        writing = asyncio.create_task(tasks.flush())
        async with asyncio.timeout(PATIENCE):
            while wire._copied >= 0 if cut else wire.opened == opened:
                await asyncio.sleep(0.01)
        # Until then the server waits for the rest of the rows, and the repetition for the server.
        wire.cut()
        async with asyncio.timeout(PATIENCE):
            await writing
        assert await refs[-1].get_state() == "enqueued"

    assert await count(connection) == 20_001


# Inside a task


async def test_a_task_collects_what_it_adds(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    """Its worker writes it when the function has returned."""
    with TaskContext() as run:
        tasks.add_task(send, "a")
        await asyncio.to_thread(tasks.add_task, send, "b")
        assert len(run.buffer.tasks) == 2
        await tasks.add_task(send, "c")
        assert not run.buffer

    assert await count(connection) == 3
