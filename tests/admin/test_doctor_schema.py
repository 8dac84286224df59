"""`doctor` on tables that other hands have been at: what it finds, and that its cures work."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from fastedgy.admin.doctor import Finding, Severity, apply_fix, doctor
from fastedgy.admin.doctor_schema import check_schema
from fastedgy.config import QueuedTaskConfig
from fastedgy.database import connect
from fastedgy.errors import DatabaseError
from fastedgy.models.tables import Tables
from fastedgy.store import schema

TABLES = Tables()


@pytest.fixture
def database_url(patient: str) -> str:
    return patient


@pytest.fixture(autouse=True)
async def whole_again(connection: asyncpg.Connection) -> AsyncIterator[None]:
    yield
    await connection.execute("DELETE FROM queued_tasks")
    assert await findings(connection) == []


async def findings(connection: asyncpg.Connection, *codes: str) -> list[Finding]:
    """What doctor says of the schema, or of these codes. The tests' server does not sync."""
    found = await doctor(connection, TABLES, QueuedTaskConfig())
    return [each for each in found if (each.code in codes if codes else each.code != "not_durable")]


async def cured(connection: asyncpg.Connection, code: str) -> Finding:
    """Break, find, cure, and find nothing more; returns what was found."""
    [found] = await findings(connection, code)
    assert found.fix is not None
    assert await apply_fix(connection, found) == list(found.fix.statements)
    assert await findings(connection) == []
    return found


async def test_nothing_is_wrong_with_a_fresh_database(connection: asyncpg.Connection) -> None:
    assert await findings(connection) == []


async def test_looking_changes_nothing_and_leaves_nothing(connection: asyncpg.Connection) -> None:
    before = await connection.fetchval("SELECT pg_current_xact_id_if_assigned()")
    path = await connection.fetchval("SHOW search_path")
    count = "SELECT count(*) FROM pg_class WHERE relname LIKE 'queued_task%'"
    there = await connection.fetchval(count)
    await findings(connection)

    assert await connection.fetchval("SHOW search_path") == path
    assert await connection.fetchval(count) == there
    assert await connection.fetchval("SELECT pg_current_xact_id_if_assigned()") == before


@pytest.mark.parametrize("index", ["queued_tasks_ready", "queued_tasks_unique_key"])
async def test_a_missing_index(connection: asyncpg.Connection, index: str) -> None:
    await connection.execute(f"DROP INDEX {index}")

    found = await cured(connection, "missing_index")
    assert found.severity == Severity.error
    assert found.title == f"The index {index} of queued_tasks is missing."
    assert "CONCURRENTLY" in found.cure


async def test_a_missing_primary_key_is_not_built_behind_your_back(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute("ALTER TABLE queued_task_steps DROP CONSTRAINT queued_task_steps_pkey")

    [found] = await findings(connection, "missing_index")
    assert found.fix is None
    await connection.execute(found.cure)
    assert await findings(connection, "missing_index") == []


async def test_an_invalid_index(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'queued_tasks_doing'::regclass"
    )

    found = await cured(connection, "invalid_index")
    assert found.fix is not None
    assert found.fix.statements == ("REINDEX INDEX CONCURRENTLY queued_tasks_doing",)


async def test_an_index_that_was_half_built_and_left(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "INSERT INTO queued_tasks (id, name, function, state, date_ended)"
        " SELECT gen_random_uuid(), 'a', 'a', 'done', now() FROM generate_series(1, 2)"
    )
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("CREATE UNIQUE INDEX CONCURRENTLY mine ON queued_tasks (name)")

    found = await cured(connection, "invalid_index")
    assert "none of the queue's" in found.title


async def test_an_index_of_the_same_name_that_is_another(connection: asyncpg.Connection) -> None:
    await connection.execute("DROP INDEX queued_tasks_ready")
    await connection.execute("CREATE INDEX queued_tasks_ready ON queued_tasks (queue)")

    found = await cured(connection, "changed_index")
    assert "It is btree (queue), and should be btree (queue, priority DESC" in found.evidence


async def test_an_index_of_your_own_is_worth_knowing(connection: asyncpg.Connection) -> None:
    await connection.execute("CREATE INDEX mine ON queued_tasks (state)")

    [found] = await findings(connection)
    assert (found.code, found.severity, found.fix) == ("extra_index", Severity.info, None)
    await connection.execute(found.cure.partition("else ")[2])


async def test_a_missing_column(connection: asyncpg.Connection) -> None:
    await connection.execute("ALTER TABLE queued_task_workers DROP COLUMN exit_reason")

    [found] = await findings(connection, "schema_drift")
    assert found.title == "The column exit_reason of queued_task_workers is missing."
    await connection.execute(found.cure)
    assert await findings(connection) == []


async def test_a_column_of_another_type(connection: asyncpg.Connection) -> None:
    await connection.execute("ALTER TABLE queued_task_logs ALTER COLUMN logger TYPE varchar(40)")

    [found] = await findings(connection, "schema_drift")
    assert found.fix is None, "it would rewrite the table"
    await connection.execute(found.cure)
    assert await findings(connection) == []


async def test_a_default_that_was_dropped(connection: asyncpg.Connection) -> None:
    await connection.execute("ALTER TABLE queued_tasks ALTER COLUMN queue DROP DEFAULT")

    await cured(connection, "schema_drift")


async def test_columns_of_your_own_are_fine_unless_they_forbid_every_insert(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute("ALTER TABLE queued_tasks ADD COLUMN tenant text")
    assert await findings(connection) == []
    await connection.execute("ALTER TABLE queued_tasks ALTER COLUMN tenant SET NOT NULL")

    [found] = await findings(connection)
    assert "nothing can be inserted" in found.meaning
    await connection.execute("ALTER TABLE queued_tasks DROP COLUMN tenant")


async def test_a_rule_that_was_dropped_or_changed(connection: asyncpg.Connection) -> None:
    rule = "queued_tasks_state_known"
    await connection.execute(f"ALTER TABLE queued_tasks DROP CONSTRAINT {rule}")
    await cured(connection, "schema_drift")
    await connection.execute(
        f"ALTER TABLE queued_tasks DROP CONSTRAINT {rule},"
        f" ADD CONSTRAINT {rule} CHECK (state <> 'x')"
    )
    found = await cured(connection, "schema_drift")
    assert "another one" in found.title


async def test_a_cure_that_the_database_refuses_is_an_error_that_says_what_was_done(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute("ALTER TABLE queued_tasks DROP CONSTRAINT queued_tasks_state_known")
    await connection.execute(
        "INSERT INTO queued_tasks (id, name, function, state)"
        " VALUES (gen_random_uuid(), 'a', 'a', 'lost in thought')"
    )
    [found] = await findings(connection, "schema_drift")

    with pytest.raises(DatabaseError, match=r"VALIDATE .* was refused: .*Done before: ALTER"):
        await apply_fix(connection, found)
    # It holds for new rows by now, and for the others as soon as they are put right.
    await connection.execute("DELETE FROM queued_tasks")
    await connection.execute(
        "ALTER TABLE queued_tasks VALIDATE CONSTRAINT queued_tasks_state_known"
    )


async def test_a_cure_does_not_make_others_wait_behind_it(
    connection: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastedgy.admin.doctor.LOCK_WAIT", 0.1)
    await connection.execute("ALTER TABLE queued_tasks DROP CONSTRAINT queued_tasks_state_known")
    [found] = await findings(connection, "schema_drift")
    other = await connect(database_url)
    trial = other.transaction()
    await trial.start()
    await other.execute("LOCK TABLE queued_tasks IN SHARE MODE")

    with pytest.raises(DatabaseError, match="lock timeout.*Nothing was changed"):
        await apply_fix(connection, found)
    await trial.rollback()
    await other.close()
    await cured(connection, "schema_drift")


async def test_storage_settings_that_were_reset(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "ALTER TABLE queued_tasks RESET (fillfactor, autovacuum_vacuum_scale_factor)"
    )

    found = await cured(connection, "storage_settings")
    assert found.details["lacking"] == {
        "fillfactor": "60",
        "autovacuum_vacuum_scale_factor": "0.02",
    }


async def test_autovacuum_that_is_off_for_a_table(connection: asyncpg.Connection) -> None:
    await connection.execute("ALTER TABLE queued_tasks SET (autovacuum_enabled = false)")

    found = await cured(connection, "autovacuum_off")
    assert found.severity == Severity.error


async def test_tables_of_an_older_release_are_the_only_finding(
    connection: asyncpg.Connection,
) -> None:
    applied = await connection.fetchval("SELECT obj_description('fastedgy_versions'::regclass)")
    await connection.execute("COMMENT ON TABLE fastedgy_versions IS 'fastedgy_0001'")

    [found] = await findings(connection)
    await connection.execute(f"COMMENT ON TABLE fastedgy_versions IS '{applied}'")
    assert (found.code, found.cure) == ("schema_outdated", "fastedgy db migrate")


async def test_an_empty_database_is_a_finding(server_url: str) -> None:
    connection = await connect(server_url)
    [found] = await findings(connection)
    await connection.close()
    assert found.code == "schema_outdated"


async def test_a_role_that_may_not_make_temporary_tables_is_told_so(
    connection: asyncpg.Connection,
) -> None:
    schema._expected.clear()  # an earlier look may have learnt it
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f'REVOKE TEMP ON DATABASE "{name}" FROM PUBLIC')
    await connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO pg_read_all_stats")
    await connection.execute("SET ROLE pg_read_all_stats")
    try:
        [found] = await findings(connection)
    finally:
        await connection.execute("RESET ROLE")
        await connection.execute(f'GRANT TEMP ON DATABASE "{name}" TO PUBLIC')
    assert found.code == "schema_unchecked"


async def test_other_table_names_are_looked_for(connection: asyncpg.Connection) -> None:
    renames = [
        ("TABLE", "queued_task_audit", "queued_task_deeds"),
        ("INDEX", "queued_task_audit_pkey", "queued_task_deeds_pkey"),
        ("INDEX", "queued_task_audit_target", "queued_task_deeds_target"),
    ]
    renamed = Tables(audit="queued_task_deeds")
    try:
        for what, old, new in renames:
            await connection.execute(f"ALTER {what} {old} RENAME TO {new}")
        assert await check_schema(connection, renamed) == []
    finally:
        for what, old, new in renames:
            await connection.execute(f"ALTER {what} {new} RENAME TO {old}")
