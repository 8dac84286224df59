"""`doctor` on a server that is not well: each finding on a database that really is like that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from rows import add, connections

from fastedgy.admin import doctor_server
from fastedgy.admin.doctor import Finding, Severity, Thresholds, apply_fix, doctor
from fastedgy.config import QueuedTaskConfig
from fastedgy.models.tables import Tables
from fastedgy.store import doctor as store

TABLES = Tables()


@pytest.fixture
def database_url(patient: str) -> str:
    return patient


async def find(connection: asyncpg.Connection, code: str, **thresholds: Any) -> list[Finding]:
    found = await doctor(
        connection, TABLES, QueuedTaskConfig(), thresholds=Thresholds(**thresholds)
    )
    return [each for each in found if each.code == code]


# Who holds the vacuum horizon.


async def test_an_old_transaction_is_named_with_its_session(
    connection: asyncpg.Connection, database_url: str
) -> None:
    assert await find(connection, "old_transaction", transaction_seconds=0) == []
    async with connections(database_url, 1) as [other]:
        await other.execute("SET application_name = 'a report'")
        trial = other.transaction(isolation="repeatable_read")
        await trial.start()
        await other.execute("SELECT 'of all customers'")

        [found] = await find(connection, "old_transaction", transaction_seconds=0)
        assert found.details["name"] == str(other.get_server_pid())
        assert "a report" in found.evidence
        assert "of all customers" in found.evidence
        assert f"pg_terminate_backend({other.get_server_pid()})" in found.cure
        assert await find(connection, "old_transaction") == [], "it is not old yet"
        await trial.rollback()
    assert await find(connection, "old_transaction", transaction_seconds=0) == []


@pytest.mark.parametrize(
    ("kind", "title", "cure"),
    [
        ("prepared", "The prepared transaction x holds the vacuum horizon for 10 min.",
         "COMMIT PREPARED 'x' or ROLLBACK PREPARED 'x'."),
        ("slot", "The replication slot x holds the vacuum horizon since 7 transactions ago.",
         "Let its standby catch up, or drop it: SELECT pg_drop_replication_slot('x')."),
        ("standby", "The standby app holds the vacuum horizon since 7 transactions ago.",
         "End the long query on the standby, or switch off hot_standby_feedback there."),
    ],
)  # fmt: skip
def test_what_else_can_hold_it_has_its_own_cure(kind: str, title: str, cure: str) -> None:
    seconds = 600.0 if kind == "prepared" else None
    application = "app" if kind == "standby" else ""
    found = doctor_server._holder(store.Holder(kind, "x", application, "", "", seconds, 7, ""))
    assert (found.title, found.cure) == (title, cure)


# Dead rows and bloat.


@pytest.fixture
async def worn(connection: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """A table that was full, and has a few rows and many dead ones."""
    await connection.execute("ALTER TABLE queued_tasks SET (autovacuum_enabled = false)")
    await connection.execute(
        "INSERT INTO queued_tasks (id, name, function) SELECT gen_random_uuid(), 'a', 'a'"
        " FROM generate_series(1, 20000)"
    )
    await connection.execute("DELETE FROM queued_tasks")
    await add(connection)
    await connection.execute("SELECT pg_stat_force_next_flush()")
    yield connection
    await connection.execute("ALTER TABLE queued_tasks RESET (autovacuum_enabled)")
    await connection.execute("TRUNCATE queued_tasks")


async def test_dead_rows_that_nobody_removes(worn: asyncpg.Connection) -> None:
    [found] = await find(worn, "dead_rows", dead_rows=10_000)
    assert found.details["dead"] >= 20_000

    assert await apply_fix(worn, found) == ["VACUUM (ANALYZE) queued_tasks"]
    assert await find(worn, "dead_rows", dead_rows=10_000) == []


async def test_bloat_of_an_index_and_of_the_table(worn: asyncpg.Connection) -> None:
    # The row at the end keeps vacuum from giving the pages back.
    await worn.execute("VACUUM (ANALYZE) queued_tasks")

    bloated = await find(worn, "index_bloat", bloat_bytes=100_000)
    assert "queued_tasks_ready" in {found.details["index"] for found in bloated}
    for found in bloated:
        await apply_fix(worn, found)
    assert await find(worn, "index_bloat", bloat_bytes=100_000) == []
    [table] = await find(worn, "table_bloat", bloat_bytes=100_000)
    assert table.fix is None, "it locks the table"
    assert "VACUUM FULL queued_tasks" in table.cure
    await worn.execute("VACUUM FULL queued_tasks")
    assert await find(worn, "table_bloat", bloat_bytes=100_000) == []


async def test_a_table_that_was_not_frozen_for_long(connection: asyncpg.Connection) -> None:
    for _ in range(60):
        await connection.execute("SELECT pg_current_xact_id()")
    some = {"freeze_factor": 50 / 200_000_000}
    assert await find(connection, "wraparound") == []

    found = await find(connection, "wraparound", **some)
    [audit] = [each for each in found if each.details["table"] == "queued_task_audit"]
    await apply_fix(connection, audit)
    left = await find(connection, "wraparound", **some)
    assert "queued_task_audit" not in {each.details["table"] for each in left}


# Settings.


async def test_settings_under_which_commits_can_be_lost(
    connection: asyncpg.Connection, database_url: str
) -> None:
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    async with connections(database_url, 1) as [other]:
        [found] = await find(other, "not_durable")
    await connection.execute(f'ALTER DATABASE "{name}" RESET synchronous_commit')
    assert "synchronous_commit" in found.details
    assert found.severity == Severity.warning


async def test_transactions_that_are_serializable_by_default(
    connection: asyncpg.Connection, database_url: str
) -> None:
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(
        f'ALTER DATABASE "{name}" SET default_transaction_isolation = serializable'
    )
    async with connections(database_url, 1) as [other]:
        [found] = await find(other, "isolation")
    await connection.execute(f'ALTER DATABASE "{name}" RESET default_transaction_isolation')
    assert found.title == "Transactions are SERIALIZABLE by default."


async def test_a_database_that_is_read_only(
    connection: asyncpg.Connection, database_url: str
) -> None:
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    async with connections(database_url, 1) as [other]:
        [found] = await find(other, "read_only")
    await connection.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    assert found.severity == Severity.error


async def test_autovacuum_that_is_off_on_the_server(connection: asyncpg.Connection) -> None:
    # It is a setting of the whole server, which other tests share: track_counts is a session's.
    await connection.execute("SET track_counts = off")
    [found] = await find(connection, "autovacuum_off")
    await connection.execute("RESET track_counts")
    assert "track_counts = off" in found.evidence


async def test_a_role_that_sees_its_own_sessions_only(connection: asyncpg.Connection) -> None:
    await connection.execute("CREATE ROLE fastedgy_blind")
    try:
        await connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO fastedgy_blind")
        await connection.execute("SET ROLE fastedgy_blind")
        [found] = await find(connection, "partly_blind")
        await connection.execute("RESET ROLE")
    finally:
        await connection.execute("DROP OWNED BY fastedgy_blind")
        await connection.execute("DROP ROLE fastedgy_blind")
    assert found.severity == Severity.info


# Notifications and connections.


async def test_a_queue_of_notifications_that_fills_up(
    connection: asyncpg.Connection, database_url: str
) -> None:
    async with connections(database_url, 1) as [listener]:
        await listener.execute("LISTEN doctor_test")
        trial = listener.transaction()
        await trial.start()
        await listener.execute("SELECT 1")
        await connection.execute(
            "SELECT pg_notify('doctor_test', repeat('x', 7000) || number)"
            "  FROM generate_series(1, 400) AS number"
        )

        [found] = await find(connection, "notify_queue", notify_usage=1e-6)
        assert 0 < found.details["usage"] < 0.1
        assert found.severity == Severity.warning
        assert await find(connection, "notify_queue") == []
        await trial.rollback()
        await listener.execute("UNLISTEN *")


async def test_connections_that_run_out(connection: asyncpg.Connection, database_url: str) -> None:
    name = await connection.fetchval("SELECT current_database()")
    async with connections(database_url, 4):
        await connection.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT 5')
        [found] = await find(connection, "connections")
        await connection.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')
    assert found.title == "5 of 5 connections of this database are in use."
    assert found.severity == Severity.error
    assert "fastedgy" in found.evidence


# Clocks.


async def test_this_machines_clock_is_off(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await find(connection, "clock_skew") == []
    real = doctor_server.time.time
    monkeypatch.setattr(doctor_server.time, "time", lambda: real() - 90)

    [found] = await find(connection, "clock_skew")
    assert found.title == "This machine: the clock is 1 min 30 s behind the database's."
