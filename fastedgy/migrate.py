"""Migrations: the shipped revisions of the queue's tables beside the project's own.

Both live in one version table. The shipped revisions come with the package, the project's are
files in `./migrations/versions` (a branch of its own, which may depend on ours). One command is
one transaction under one lock: a revision that fails undoes all of the command, and of ten
processes that start it at once one does the work and nine find it done.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from fastedgy import autogenerate, database
from fastedgy.database_url import parse_url
from fastedgy.errors import (
    ConfigurationError,
    DatabaseError,
    FastEdgyError,
    MigrationFailed,
    SchemaOutdated,
)
from fastedgy.models import queue_tables

if TYPE_CHECKING:
    import asyncpg
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

VERSION_TABLE = "fastedgy_versions"

NEEDED_REVISION = "fastedgy_0002"
"""The newest shipped revision: what the statements of this release are written for."""

PROJECT_DIRECTORY = Path("migrations/versions")
"""Where a project's own revisions are, below the folder that a command is started in."""

LOCK = 4_705_330_219_460_126_029  # any number, as long as every release uses the same one


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """How far a database is. Revisions are named by their ids; `pending` is in order."""

    current: list[str]
    heads: list[str]
    pending: list[str]

    @property
    def up_to_date(self) -> bool:
        """Whether nothing is left to apply."""
        return not self.pending


async def upgrade(url: str, revision: str = "heads", *, directory: Path | None = None) -> list[str]:
    """Apply what is missing up to `revision`, and return the ids of what was applied.

    `directory` holds the project's own revisions (default: `./migrations/versions`, if it is
    there). Raises MigrationFailed, with nothing changed, if a revision does.
    """
    from alembic import command

    return await _change(url, directory, lambda config: command.upgrade(config, revision))


async def downgrade(url: str, revision: str, *, directory: Path | None = None) -> list[str]:
    """Undo what came after `revision`, and return the ids of what was undone.

    `"base"` undoes everything, `"fastedgy@base"` the queue's tables and what depends on them.
    Raises MigrationFailed, with nothing changed, if a revision does.
    """
    from alembic import command

    return await _change(url, directory, lambda config: command.downgrade(config, revision))


async def status(url: str, *, directory: Path | None = None) -> MigrationStatus:
    """Which revisions the database has and lacks. Changes nothing."""
    scripts = _scripts(_config(directory))
    async with _transaction(url) as connection:
        current = await connection.run_sync(_current)
    return MigrationStatus(
        current=current, heads=sorted(scripts.get_heads()), pending=_pending(scripts, current)
    )


async def makemigrations(url: str, message: str, *, directory: Path | None = None) -> Path | None:
    """Write a revision for what the project's models have and the database lacks.

    Looks at the models of `fastedgy.orm` that are imported by now, and at the columns that the
    project added to the queue's tables; the queue's own columns come with the shipped revisions.
    Returns the new file in `directory` (default: `./migrations/versions`), or None if there is
    nothing to write. Raises SchemaOutdated while revisions wait to be applied.
    """
    from alembic import command
    from alembic.script import Script

    folder = (directory or PROJECT_DIRECTORY).resolve()
    config = _config(folder)
    scripts = _scripts(config)
    metadata = autogenerate.project_metadata()
    async with _one_at_a_time(), _transaction(url) as connection:
        await _lock(connection)
        current = await connection.run_sync(_current)
        if pending := _pending(scripts, current):
            raise SchemaOutdated(
                f"Revision {pending[0]} is not applied to this database yet, so it cannot be "
                "compared with the models. Run `fastedgy db migrate` first."
            )
        written = await connection.run_sync(
            functools.partial(
                _run,
                config,
                lambda config: command.revision(
                    config,
                    message,
                    autogenerate=True,
                    head=_project_head(scripts, folder),
                    depends_on=NEEDED_REVISION,
                    version_path=str(folder),
                    process_revision_directives=autogenerate.without_empty,
                ),
                target_metadata=metadata,
                include_object=autogenerate.Included(metadata, scripts),
                render_item=autogenerate.render_item,
            )
        )
    return Path(written.path) if isinstance(written, Script) else None


async def createdb(url: str) -> bool:
    """Create the database that `url` names. False if it is there already.

    Raises DatabaseUnavailable when the server does not answer, and DatabaseError when the user
    may not create databases.
    """
    import asyncpg

    address = parse_url(url)
    if not (name := address.name):
        raise ConfigurationError("The database's address names no database: add /NAME to it.")
    connection = await database.connect(address.named("postgres").url)
    try:
        if await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
            return False
        quoted = name.replace('"', '""')
        await connection.execute(f'CREATE DATABASE "{quoted}"')
    except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
        return False  # another process was faster
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseError(
            f"The database {name!r} cannot be created: {error}. Let an administrator create it."
        ) from error
    finally:
        await connection.close()
    return True


# The shipped revisions that are applied are also written on the version table as its comment:
# Alembic keeps only heads, and behind the head of a project's branch ours would not be seen
# without loading the project's files.
_CHECK = f"""
SELECT coalesce(obj_description(to_regclass('{VERSION_TABLE}'), 'pg_class'), '') AS applied,
       ARRAY (SELECT name FROM unnest($1::text[]) AS name
               WHERE to_regclass(quote_ident(name)) IS NULL) AS missing
"""


async def check(connection: asyncpg.Connection) -> None:
    """Raise SchemaOutdated unless the tables are there and new enough for this release.

    One statement. A newer schema is fine: during a deploy old workers go on beside it.
    """
    tables = list(asdict(queue_tables()).values())
    row = await connection.fetchrow(_CHECK, tables)
    applied, missing = row["applied"].split(), row["missing"]
    if not applied:
        raise SchemaOutdated(
            "The queue's tables are not in this database. Run `fastedgy db migrate`."
        )
    if NEEDED_REVISION not in applied:
        raise SchemaOutdated(
            f"The queue's tables are of an older release: they are at {applied[-1]}, this one "
            f"needs {NEEDED_REVISION}. Run `fastedgy db migrate`."
        )
    if missing:
        raise SchemaOutdated(
            f"The table {missing[0]!r} is not in this database, which was migrated when the "
            "models had other table names. Rename the table, or give the model its old name."
        )


# -- How a command runs ----------------------------------------------------------------------------


async def _change(
    url: str, directory: Path | None, command: Callable[[Config], object]
) -> list[str]:
    done: list[str] = []

    def note(*, step: Any, **_: object) -> None:
        done.extend(step.up_revision_ids)

    config = _config(directory)
    scripts = _scripts(config)
    async with _one_at_a_time(), _transaction(url) as connection:
        await _lock(connection)
        await connection.run_sync(functools.partial(_run, config, command, on_version_apply=note))
        if done:
            current = await connection.run_sync(_current)
            await connection.run_sync(_remember, _applied(scripts, current))
    return done


def _run(
    config: Config,
    command: Callable[[Config], object],
    connection: Connection,
    **options: object,
) -> object:
    config.attributes["connection"] = connection
    config.attributes["tables"] = asdict(queue_tables())
    config.attributes["options"] = {"version_table": VERSION_TABLE, **options}
    with _one_sentence():
        return command(config)


def _remember(connection: Connection, applied: Iterable[Script]) -> None:
    from sqlalchemy import text

    shipped = sorted(script.revision for script in applied if _is_shipped(script))
    connection.execute(text(f"COMMENT ON TABLE {VERSION_TABLE} IS '{' '.join(shipped)}'"))


@asynccontextmanager
async def _transaction(url: str) -> AsyncIterator[AsyncConnection]:
    """One connection, one transaction, committed at the end.

    READ COMMITTED whatever the server's default is: a snapshot from before the lock was granted
    would not show what the process before us did.
    """
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=functools.partial(database.connect, url, application_name="fastedgy db"),
        poolclass=NullPool,
        isolation_level="READ COMMITTED",
    )
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


async def _lock(connection: AsyncConnection) -> None:
    from sqlalchemy import text

    await connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


def _one_at_a_time() -> asyncio.Lock:
    """Alembic's `context` and `op` are globals of the process: tasks of one loop take turns."""
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Say in one sentence what Alembic, the database or a revision's own code stumbled over."""
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except FastEdgyError:
        raise
    except CommandError as error:
        raise MigrationFailed(
            f"{str(error).rstrip('.')}. `fastedgy db status` shows which revisions there are; the "
            f"project's own are read from ./{PROJECT_DIRECTORY}, so start the command beside it."
        ) from error
    except Exception as error:
        cause: BaseException = error
        if isinstance(error, DBAPIError) and error.orig is not None:
            cause = error.orig.__cause__ or error.orig
        reason = (str(cause) or repr(cause)).splitlines()[0]
        raise MigrationFailed(
            f"{_place(error)} failed, so nothing was changed: {type(cause).__name__}: {reason}"
        ) from error


def _place(error: Exception) -> str:
    """The revision in which an exception came up, found by the files in its traceback."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    for frame in frames:
        if Path(frame.filename).parent.name == "versions":
            return f"The revision {Path(frame.filename).name} (line {frame.lineno})"
    return "The migration"


# -- Revisions -------------------------------------------------------------------------------------


def _shipped_directory() -> Path:
    return Path(str(files("fastedgy.migrations"))).resolve()


def _config(directory: Path | None) -> Config:
    """Alembic's settings without a file. `directory` is listed if it is asked for or there."""
    from alembic.config import Config

    shipped = _shipped_directory()
    locations = [shipped / "versions"]
    project = (directory or PROJECT_DIRECTORY).resolve()
    if project not in locations and (directory is not None or project.is_dir()):
        locations.append(project)
    config = Config(cmd_opts=argparse.Namespace(quiet=True))
    for option, value in {
        "script_location": str(shipped),
        "path_separator": "newline",  # so that a path may hold spaces and colons
        "version_locations": "\n".join(map(str, locations)),
    }.items():
        config.set_main_option(option, value.replace("%", "%%"))
    return config


def _scripts(config: Config) -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    with _one_sentence():
        scripts = ScriptDirectory.from_config(config)
        scripts.get_heads()  # loads the files, so that a broken one is reported here
    return scripts


def _current(connection: Connection) -> list[str]:
    from alembic.runtime.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return sorted(context.get_current_heads())


def _applied(scripts: ScriptDirectory, current: Iterable[str]) -> set[Script]:
    """The revisions that `current` stands for: these and all that they came from or depend on."""
    applied: set[Script] = set()
    todo = list(current)
    with _one_sentence():
        while todo:
            for script in scripts.get_revisions(todo.pop()):
                if script is not None and script not in applied:
                    applied.add(script)
                    todo += _names(script.down_revision) + _names(script.dependencies)
    return applied


def _pending(scripts: ScriptDirectory, current: Iterable[str]) -> list[str]:
    applied = _applied(scripts, current)
    newest_first = list(scripts.walk_revisions())
    return [script.revision for script in reversed(newest_first) if script not in applied]


def _names(value: str | Iterable[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _is_shipped(script: Script) -> bool:
    return Path(script.path).resolve().parent == _shipped_directory() / "versions"


def _project_head(scripts: ScriptDirectory, folder: Path) -> str:
    """What the project's next revision comes after. Raises when that is not clear."""
    scripts_there = [scripts.get_revision(head) for head in scripts.get_heads()]
    heads = [s.revision for s in scripts_there if Path(s.path).resolve().parent == folder]
    if len(heads) > 1:
        raise MigrationFailed(
            f"{folder} has {len(heads)} ends ({', '.join(sorted(heads))}). Write a revision whose "
            "down_revision names them all."
        )
    return heads[0] if heads else "base"
