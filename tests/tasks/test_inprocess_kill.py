"""The web process is killed, or told to stop, with a thousand durable tasks under way."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from commands import Background, environment, free_port
from helpers import NO_TLS, eventually, wait_until

SITE = Path(__file__).parent / "site"
NUMBER = 1_000
QUICK = {"QUEUE_HEARTBEAT": "0.5", "QUEUE_LEASE": "5", "QUEUE_FALLBACK_POLLING_INTERVAL": "0.5"}


@pytest.fixture
def env(database_url: str, tmp_path: Path) -> dict[str, str]:
    return environment(DATABASE_URL=database_url, JOURNAL=str(tmp_path / "journal"), **QUICK)


@contextmanager
def web(env: dict[str, str], **more: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A web process that serves requests."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "killed_app:app", "--port", str(port)]
    process = subprocess.Popen([*command, "--log-level", "warning"], cwd=SITE, env=env | more)

    def serves() -> None:
        assert process.poll() is None
        try:
            httpx.get(f"http://127.0.0.1:{port}/docs", verify=NO_TLS)
        except httpx.TransportError as error:
            raise AssertionError from error

    try:
        wait_until(serves)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


async def order(url: str, numbers: range) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60, verify=NO_TLS) as client:
        for start in range(0, len(numbers), 10):
            answers = await asyncio.gather(
                *(client.post(f"/orders/{n}") for n in numbers[start : start + 10])
            )
            assert {answer.status_code for answer in answers} == {200}


class Journal:
    """What the tasks have noted."""

    def __init__(self, env: dict[str, str]) -> None:
        lines = Path(env["JOURNAL"]).read_text().splitlines()
        self.lines = [(what, int(number), int(pid)) for what, number, pid in map(str.split, lines)]

    def numbers(self, what: str) -> Counter[int]:
        return Counter(number for word, number, _ in self.lines if word == what)


async def under_way(env: dict[str, str], number: int) -> None:
    async def check() -> None:
        assert len(Journal(env).numbers("began")) == number

    await eventually(check)


async def done_here(connection: asyncpg.Connection, number: int) -> None:
    assert number == await connection.fetchval(
        "SELECT count(*) FROM queued_tasks WHERE state = 'done'"
    )


async def all_done(connection: asyncpg.Connection, number: int) -> None:
    async def check() -> None:
        rows = await connection.fetch(
            "SELECT state, count(*) AS count FROM queued_tasks GROUP BY state"
        )
        assert {row["state"]: row["count"] for row in rows} == {"done": number}

    await eventually(check)


@pytest.mark.timeout(180)
async def test_after_a_sigkill_the_workers_do_the_rest_and_nothing_twice(
    env: dict[str, str], connection: asyncpg.Connection
) -> None:
    with web(env, HOLDS="1") as (process, url):
        await order(url, range(NUMBER))
        await under_way(env, NUMBER)
        # What has ended is written: between an end and its row, a kill means a second run.
        await eventually(lambda: done_here(connection, NUMBER // 10))
        pid = process.pid
        process.kill()
        process.wait()
        with Background("fastedgy queue start --app killed_app:app --workers 1", SITE, env):
            await all_done(connection, NUMBER)

    journal = Journal(env)
    ended = journal.numbers("ended")
    assert len(ended) == NUMBER
    assert set(ended.values()) == {1}
    assert max(journal.numbers("plain").values()) == 1
    in_web = [number for what, number, by in journal.lines if what == "ended" and by == pid]
    assert sorted(in_web) == list(range(0, NUMBER, 10))
    assert await connection.fetchval("SELECT max(losses) FROM queued_tasks") == 0
    [lost] = await connection.fetch("SELECT * FROM queued_task_workers WHERE state = 'lost'")
    assert lost["pid"] == pid


@pytest.mark.timeout(180)
async def test_after_a_sigterm_the_workers_go_on_at_once_and_at_no_cost(
    env: dict[str, str], connection: asyncpg.Connection
) -> None:
    with web(env | {"QUEUE_LEASE": "600"}, HOLDS="1") as (process, url):
        await order(url, range(1, 100, 2))  # none of them shielded
        await under_way(env, 50)
        process.terminate()
        process.wait(30)
        rows = await connection.fetch("SELECT DISTINCT state, attempt, losses FROM queued_tasks")
        assert [tuple(row) for row in rows] == [("enqueued", 0, 0)]
        with Background("fastedgy queue start --app killed_app:app --workers 1", SITE, env):
            await all_done(connection, 50)
    assert set(Journal(env).numbers("ended").values()) == {1}
