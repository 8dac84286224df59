"""Behind a pooler, over TLS and IPv6, and on hosts with other clocks and lines that are cut."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import asyncpg
import fault_tasks
import pytest
from elsewhere import Host, Pooler, by_tcp, tls_server
from helpers import SLACK, eventually
from proxy import proxy
from supervised import Supervised, enqueue, reaches, row_of

from fastedgy import migrate
from fastedgy.app import FastEdgy, running
from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.database import connect
from fastedgy.dependencies import get_service
from fastedgy.orm import Database
from fastedgy.queued_tasks import QueuedTasks

Supervise = Callable[..., Supervised]


async def all_done(connection: asyncpg.Connection, count: int) -> None:
    rows = await connection.fetch("SELECT state, count(*) FROM queued_tasks GROUP BY state")
    assert {row["state"]: row["count"] for row in rows} == {"done": count}


# A pooler


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[QueuedTasks]:
    queue = QueuedTaskConfig(use_postgresql_notify=False, polling_interval=0.2)
    async with running(FastEdgy(), settings=Settings(database_url=url), queue=queue) as tasks:
        yield tasks


async def test_producers_and_workers_work_behind_a_pooler_in_transaction_mode(
    connection: asyncpg.Connection, pooler: Pooler, supervise: Supervise, tmp_path: Path
) -> None:
    supervise(pooler.url, workers=2, use_postgresql_notify="false", polling_interval=0.2)
    async with producer(pooler.url) as tasks:
        refs = tasks.add_tasks(fault_tasks.ping, [()] * 50)
        await tasks.flush()
        async with tasks.transaction():
            await get_service(Database).fetch_one("SELECT 1 AS one")
            inside = tasks.add_task(fault_tasks.ping)
        with pytest.raises(ZeroDivisionError):
            async with tasks.transaction():
                tasks.add_task(fault_tasks.ping)
                raise ZeroDivisionError
        parent = tasks.add_task(fault_tasks.ping)
        child = tasks.add_task(fault_tasks.ping, parent=parent)
        long = tasks.add_task(fault_tasks.nap, 30, str(tmp_path / "runs"))

        for ref in (*refs, inside, child):
            assert await ref.wait(30) > 0
        await reaches(connection, long.id, "doing")
        await long.cancel()
        await reaches(connection, long.id, "cancelled")
        await long.retry()
        await long.cancel()
        await reaches(connection, long.id, "cancelled")

    states = await connection.fetch("SELECT state, count(*) FROM queued_tasks GROUP BY 1")
    assert {row["state"]: row["count"] for row in states} == {"done": 53, "cancelled": 1}
    assert await connection.fetchval(
        "SELECT bool_and(application_name <> 'LISTEN' AND query NOT LIKE 'LISTEN%')"
        " FROM pg_stat_activity WHERE datname = current_database()"
    ), "nobody listens through a pooler"


async def test_workers_go_on_when_their_pooler_was_killed_and_is_back(
    connection: asyncpg.Connection, pooler: Pooler, supervise: Supervise
) -> None:
    supervised = supervise(pooler.url, use_postgresql_notify="false", polling_interval=0.2)
    pids = await supervised.ready(connection)
    for _ in range(3):
        pooler.kill()
        missed = await enqueue(connection, fault_tasks.ping)
        pooler.start()
        await reaches(connection, missed, "done")
    assert supervised.workers() == pids


# TLS and IPv6


async def test_everything_works_over_tls_with_the_server_verified(
    tmp_path: Path, supervise: Supervise
) -> None:
    with tls_server(tmp_path) as (plain, certificate):
        url = f"{plain}?sslmode=verify-full&sslrootcert={certificate}"
        await migrate.upgrade(url)
        connection = await connect(url)
        supervised = supervise(url)
        await supervised.ready(connection)
        async with running(FastEdgy(), settings=Settings(database_url=url)) as tasks:
            await get_service(Database).fetch_one("SELECT 1 AS one")
            assert await tasks.add_task(fault_tasks.ping).wait(30) > 0

        seen = await connection.fetch(
            "SELECT application_name, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)"
            " WHERE client_addr IS NOT NULL"
        )
        assert len(seen) > 5
        assert all(row["ssl"] for row in seen), [dict(row) for row in seen if not row["ssl"]]
        await connection.close()
        supervised.close()


async def test_the_address_may_be_of_ipv6(
    database_url: str, connection: asyncpg.Connection, supervise: Supervise
) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with proxy(database_url, "::1") as line:
        url = by_tcp(database_url, "::1", line.port)
        supervised = supervise(url)
        await supervised.ready(connection)
        async with running(FastEdgy(), settings=Settings(database_url=url)) as tasks:
            assert await tasks.add_task(fault_tasks.ping).wait(30) > 0
        supervised.close()


# Hosts


@dataclass(frozen=True)
class Line:
    """A host, and where it finds the database."""

    host: Host
    url: str


@pytest.fixture
async def hosts(database_url: str) -> AsyncIterator[list[Line]]:
    """Two hosts, each with a line of its own to the database."""
    async with AsyncExitStack() as stack:
        lines: list[Line] = []
        for number in (1, 2):
            host = Host(number)
            stack.callback(host.close)
            relay = await stack.enter_async_context(proxy(database_url, host.gateway))
            lines.append(Line(host, by_tcp(database_url, host.gateway, relay.port)))
        yield lines


def clock(offset: str) -> dict[str, str]:
    """The environment in which a process believes it is another time."""
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"):
        library = Path(folder, "faketime/libfaketime.so.1")
        if library.exists():
            return {
                "LD_PRELOAD": str(library), "FAKETIME": offset,
                "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
            }  # fmt: skip
    pytest.skip("libfaketime is not installed (Debian has it)")


async def test_two_hosts_whose_clocks_are_two_hours_apart_share_the_work(
    connection: asyncpg.Connection, hosts: list[Line], supervise: Supervise, tmp_path: Path
) -> None:
    supervised = [
        # A lease that the test machine does not lose by stalling for two seconds.
        supervise(
            line.url, prefix=line.host.prefix(), environment=clock(offset) | {"QUEUE_LEASE": "8"}
        )
        for line, offset in zip(hosts, ("+1h", "-1h"), strict=True)
    ]
    for each in supervised:
        await each.ready(connection)

    runs = tmp_path / "runs"
    naps = [await enqueue(connection, fault_tasks.nap, 0.2, str(runs)) for _ in range(40)]
    long = [await enqueue(connection, fault_tasks.nap, 10, str(runs)) for _ in range(4)]
    async with running(FastEdgy(), settings=Settings(database_url=hosts[0].url)) as tasks:
        at = await connection.fetchval("SELECT clock_timestamp()") + timedelta(seconds=3)
        later = tasks.task(at=at).add_task(fault_tasks.ping)
        await later.wait(30)

    for id in (*naps, *long):
        await reaches(connection, id, "done")
    assert len(runs.read_text().splitlines()) == 44, "none ran twice, though one outlasts a lease"
    row = await row_of(connection, later.id)
    assert timedelta(0) <= row["date_started"] - at < timedelta(seconds=SLACK)
    rescued = await connection.fetchval(
        "SELECT sum((counters->>'rescued')::integer) FROM queued_task_workers"
    )
    assert not rescued


async def test_a_host_that_is_cut_off_loses_its_tasks_to_another_and_writes_nothing_later(
    connection: asyncpg.Connection, hosts: list[Line], supervise: Supervise, tmp_path: Path
) -> None:
    first, second = hosts
    cut = supervise(first.url, prefix=first.host.prefix())
    await cut.ready(connection)
    runs = tmp_path / "runs"
    ids = [await enqueue(connection, fault_tasks.nap_at_first, 90, str(runs)) for _ in range(5)]
    for id in ids:
        await reaches(connection, id, "doing")
    other = supervise(second.url, prefix=second.host.prefix())
    await other.ready(connection)

    first.host.cut()
    for id in ids:
        await reaches(connection, id, "done")
    first.host.mend()

    async def back() -> None:
        alive = await connection.fetchval(
            "SELECT count(*) FROM queued_task_workers WHERE state = 'running'"
            " AND last_heartbeat > clock_timestamp() - interval '2 seconds'"
        )
        assert alive == 2, cut.output[-2_000:]

    await eventually(back)
    lines = [line.split() for line in runs.read_text().splitlines()]
    owners = {row["id"]: row["worker_id"] for row in await connection.fetch(
        "SELECT id, worker_id FROM queued_tasks WHERE id = ANY ($1)", ids)}  # fmt: skip
    of_other = await connection.fetch(
        "SELECT id FROM queued_task_workers WHERE supervisor_id IN"
        " (SELECT supervisor_id FROM queued_task_workers WHERE pid = ANY ($1))",
        other.workers(),
    )
    assert set(owners.values()) <= {row["id"] for row in of_other}
    assert sorted(run for run, _ in lines) == ["1"] * 5 + ["3"] * 5, "a rescue counts as a run"


async def test_a_worker_killed_on_a_host_is_replaced_and_its_tasks_run_again_at_once(
    connection: asyncpg.Connection, hosts: list[Line], supervise: Supervise, tmp_path: Path
) -> None:
    supervised = supervise(hosts[0].url, prefix=hosts[0].host.prefix(), environment=clock("+1h"))
    await supervised.ready(connection)
    id = await enqueue(connection, fault_tasks.nap_at_first, 90, str(tmp_path / "runs"))
    await reaches(connection, id, "doing")

    pid = await connection.fetchval(
        "SELECT worker.pid FROM queued_tasks AS task JOIN queued_task_workers AS worker"
        " ON worker.id = task.worker_id WHERE task.id = $1",
        id,
    )
    assert pid in supervised.workers(), supervised.output  # else it says here why it has gone
    os.kill(pid, signal.SIGKILL)

    row = await reaches(connection, id, "done")
    assert row["losses"] == 0, "a finished run clears what was held against it"
