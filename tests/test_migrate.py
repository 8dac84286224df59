from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.script import ScriptDirectory
from helpers import database_on, drop_database, execute, run
from project import own_models

from fastedgy import migrate
from fastedgy.config import Settings
from fastedgy.database import bind, connect
from fastedgy.database_url import parse_url
from fastedgy.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    MigrationFailed,
    SchemaOutdated,
)
from fastedgy.models.queued_task import BaseQueuedTask
from fastedgy.models.tables import Tables

TABLES = """
SELECT relname FROM pg_class
 WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname
"""
SHIPPED = set(asdict(Tables()).values())
REVISIONS = ["fastedgy_0001", "fastedgy_0002"]
"""The shipped revisions, the oldest first."""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a project, without models and revisions at first; commands start in it."""
    monkeypatch.chdir(tmp_path)
    with own_models():
        yield tmp_path


@pytest.fixture
def url(database_url: str) -> str:
    """A migrated database that the project's models are bound to."""
    bind(database_url, Settings(database_url=database_url))
    return database_url


async def tables(url: str) -> set[str]:
    return {row["relname"] for row in await fetch(url, TABLES)}


async def columns(url: str, table: str) -> dict[str, str]:
    rows = await fetch(
        url,
        "SELECT attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute"
        " WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped",
        table,
    )
    return {row["attname"]: row["type"] for row in rows}


async def fetch(url: str, query: str, *values: object) -> list[Any]:
    connection = await connect(url)
    try:
        rows: list[Any] = await connection.fetch(query, *values)
        return rows
    finally:
        await connection.close()


async def check(url: str) -> None:
    connection = await connect(url)
    try:
        await migrate.check(connection)
    finally:
        await connection.close()


def revision(folder: Path, name: str, body: str, *, after: str | None = None) -> None:
    """Write a revision of the project's by hand."""
    versions = folder / "migrations" / "versions"
    versions.mkdir(parents=True, exist_ok=True)
    (versions / f"{name}.py").write_text(
        "from alembic import op\n"
        f"revision = {name!r}\ndown_revision = {after!r}\nbranch_labels = None\n"
        f"depends_on = {None if after else migrate.NEEDED_REVISION!r}\n"
        f"def upgrade():\n    {body}\n"
        "def downgrade():\n    pass\n"
    )


# -- Up, down, status ------------------------------------------------------------------------------


def test_the_needed_revision_is_the_newest_that_is_shipped() -> None:
    config = migrate._config(None)
    assert ScriptDirectory.from_config(config).get_heads() == [migrate.NEEDED_REVISION]


async def test_upgrading_makes_the_tables_and_says_what_was_applied(
    empty_database_url: str,
) -> None:
    before = await migrate.status(empty_database_url)
    assert before.current == []
    assert before.pending == REVISIONS
    assert not before.up_to_date

    assert await migrate.upgrade(empty_database_url) == REVISIONS
    assert await migrate.upgrade(empty_database_url) == []

    after = await migrate.status(empty_database_url)
    assert after.up_to_date
    assert after.current == after.heads == [migrate.NEEDED_REVISION]
    assert await tables(empty_database_url) >= SHIPPED


async def test_status_changes_nothing(empty_database_url: str) -> None:
    await migrate.status(empty_database_url)
    assert await tables(empty_database_url) == set()


async def test_downgrading_to_base_takes_everything_away_and_can_be_redone(url: str) -> None:
    assert await migrate.downgrade(url, "base") == REVISIONS[::-1]
    assert await tables(url) == {migrate.VERSION_TABLE}
    with pytest.raises(SchemaOutdated):
        await check(url)
    assert await migrate.upgrade(url) == REVISIONS
    await check(url)


async def test_the_newest_revision_can_be_taken_back_and_applied_again(url: str) -> None:
    assert await migrate.downgrade(url, REVISIONS[0]) == REVISIONS[:0:-1]
    with pytest.raises(SchemaOutdated):
        await check(url)
    assert await migrate.upgrade(url) == REVISIONS[1:]
    await check(url)


async def test_ten_at_once_in_one_process_apply_each_revision_once(
    empty_database_url: str,
) -> None:
    applied = await asyncio.gather(*(migrate.upgrade(empty_database_url) for _ in range(10)))
    assert sorted(applied) == [[]] * 9 + [REVISIONS]


def test_ten_processes_at_once_apply_each_revision_once(empty_database_url: str) -> None:
    script = (
        "import asyncio, sys; from fastedgy import migrate;"
        "print(*asyncio.run(migrate.upgrade(sys.argv[1])))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, empty_database_url], stdout=subprocess.PIPE, text=True
        )
        for _ in range(10)
    ]
    outputs = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * 10
    assert sorted(outputs) == [""] * 9 + [" ".join(REVISIONS)]


async def test_renamed_tables_are_made_under_their_names(empty_database_url: str) -> None:
    class Job(BaseQueuedTask):
        class Meta:
            tablename = "jobs"

    await migrate.upgrade(empty_database_url)
    assert await tables(empty_database_url) == {
        "jobs", *(SHIPPED - {"queued_tasks"}), migrate.VERSION_TABLE
    }  # fmt: skip
    await check(empty_database_url)
    await migrate.downgrade(empty_database_url, "base")
    assert Job.meta.tablename not in await tables(empty_database_url)


async def test_a_server_with_serializable_as_default_is_migrated_all_the_same(
    empty_database_url: str,
) -> None:
    name = parse_url(empty_database_url).name
    await execute(
        empty_database_url,
        f'ALTER DATABASE "{name}" SET default_transaction_isolation = serializable',
    )
    applied = await asyncio.gather(*(migrate.upgrade(empty_database_url) for _ in range(4)))
    assert sum(map(len, applied)) == len(REVISIONS)


# -- The project's own revisions -------------------------------------------------------------------


async def test_the_projects_revisions_come_after_those_they_depend_on(
    project: Path, empty_database_url: str
) -> None:
    revision(project, "one", "op.execute('CREATE TABLE notes (task uuid REFERENCES queued_tasks)')")
    revision(project, "two", "op.execute('ALTER TABLE notes ADD text text')", after="one")

    expected = [*REVISIONS, "one", "two"]
    assert (await migrate.status(empty_database_url)).pending == expected
    assert await migrate.upgrade(empty_database_url) == expected
    assert (await migrate.status(empty_database_url)).up_to_date
    assert "notes" in await tables(empty_database_url)
    # Alembic's table holds "two" only; the shipped revision below it is known all the same.
    await check(empty_database_url)
    assert await migrate.downgrade(empty_database_url, "one") == ["two"]
    await check(empty_database_url)


async def test_a_folder_elsewhere_can_be_named(project: Path, empty_database_url: str) -> None:
    revision(project / "100% my: app", "one", "op.execute('CREATE TABLE notes ()')")
    folder = project / "100% my: app" / "migrations" / "versions"
    assert "one" in await migrate.upgrade(empty_database_url, directory=folder)


async def test_a_revision_that_fails_undoes_the_whole_command(
    project: Path, empty_database_url: str
) -> None:
    revision(project, "one", "op.execute('CREATE TABLE notes ()')")
    revision(project, "two", "op.execute('SELECT nonsense')", after="one")
    with pytest.raises(MigrationFailed) as caught:
        await migrate.upgrade(empty_database_url)

    assert str(caught.value) == (
        "The revision two.py (line 7) failed, so nothing was changed: "
        'UndefinedColumnError: column "nonsense" does not exist'
    )
    assert await tables(empty_database_url) == set()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def", r"one\.py"),
        ("import nothing_like_that", "nothing_like_that"),
        ("x = 1", "one"),
    ],
)
async def test_a_revision_that_cannot_be_loaded_is_named(
    project: Path, empty_database_url: str, text: str, sentence: str
) -> None:
    revision(project, "one", "pass")
    (project / "migrations" / "versions" / "one.py").write_text(text)
    with pytest.raises(MigrationFailed, match=sentence):
        await migrate.upgrade(empty_database_url)


async def test_an_unknown_revision_is_one_sentence_with_the_cure(url: str) -> None:
    with pytest.raises(MigrationFailed, match=r"'nowhere'.*`fastedgy db status`"):
        await migrate.upgrade(url, "nowhere")
    await execute(url, f"UPDATE {migrate.VERSION_TABLE} SET version_num = 'of_another_folder'")
    for command in (migrate.upgrade(url), migrate.status(url)):
        with pytest.raises(MigrationFailed, match=r"'of_another_folder'.*start the command beside"):
            await command


# -- check -----------------------------------------------------------------------------------------


async def test_a_database_without_the_tables_is_outdated(empty_database_url: str) -> None:
    with pytest.raises(SchemaOutdated, match=r"not in this database. Run `fastedgy db migrate`"):
        await check(empty_database_url)


async def test_tables_of_an_older_release_are_outdated(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate.check(connection)
    monkeypatch.setattr(migrate, "NEEDED_REVISION", "fastedgy_9999")
    with pytest.raises(SchemaOutdated, match=r"at fastedgy_0002.*needs fastedgy_9999.*db migrate"):
        await migrate.check(connection)


async def test_a_table_that_was_renamed_in_the_models_only_is_named(
    connection: asyncpg.Connection,
) -> None:
    class Job(BaseQueuedTask):
        class Meta:
            tablename = "jobs"

    with pytest.raises(SchemaOutdated, match="'jobs'"):
        await migrate.check(connection)
    await connection.execute(f"ALTER TABLE queued_tasks RENAME TO {Job.meta.tablename}")
    await migrate.check(connection)


# -- createdb --------------------------------------------------------------------------------------


@pytest.fixture
def missing_url(server_url: str) -> Iterator[str]:
    """A database that does not exist, with a name that must be quoted."""
    missing = database_on(server_url, f'fastedgy "test" {id(object())}')
    yield missing
    quoted = (parse_url(missing).name or "").replace('"', '""')
    run(execute(server_url, f'DROP DATABASE IF EXISTS "{quoted}" WITH (FORCE)'))


async def test_a_database_is_created_once(missing_url: str) -> None:
    created = await asyncio.gather(*(migrate.createdb(missing_url) for _ in range(5)))
    assert sorted(created) == [False] * 4 + [True]
    assert await migrate.upgrade(missing_url) == REVISIONS


async def test_a_missing_database_is_one_sentence_with_the_cure(missing_url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match=r"`fastedgy db createdb`"):
        await migrate.upgrade(missing_url)


async def test_a_url_without_a_database_is_refused(server_url: str) -> None:
    address = parse_url(server_url)
    with pytest.raises(ConfigurationError, match="names no database"):
        await migrate.createdb(address.named("").url)


async def test_a_user_without_the_right_is_told_who_can(server_url: str) -> None:
    from fastedgy.errors import DatabaseError

    address = parse_url(server_url)
    await execute(server_url, "CREATE ROLE fastedgy_nobody")
    options = address.options | {"role": "fastedgy_nobody"}
    try:
        with pytest.raises(DatabaseError, match="'fastedgy_new' cannot be created: permission"):
            await migrate.createdb(_with(address.named("fastedgy_new"), options))
    finally:
        await execute(server_url, "DROP ROLE fastedgy_nobody")
        drop_database(server_url, address.named("fastedgy_new").url)


def _with(address: Any, options: dict[str, str]) -> str:
    from dataclasses import replace

    changed: str = replace(address, options=options).url
    return changed
