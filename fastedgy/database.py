"""The database: its URL, connections to it, the caller's transaction, and Edgy's registry.

The engine's own statements go through asyncpg (`connect`); Edgy and the
application's queries through databasez (`edgy_database`). `caller_transaction` is where they meet.

Drivers and Edgy are imported when they are used: together they cost half a second, and a module
that only declares tasks needs none of them. A worker never imports Edgy unless its tasks do.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastedgy.config import Settings
from fastedgy.database_url import DatabaseAddress, parse_url
from fastedgy.errors import ConfigurationError, DatabaseTooOld, DatabaseUnavailable

if TYPE_CHECKING:
    import asyncpg
    from databasez import Database
    from databasez.core.connection import Connection as DatabasezConnection
    from edgy import Registry

    registry: Registry

OLDEST_SERVER = 13
SSL_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")


def normalize_url(url: str) -> str:
    """The URL as asyncpg, psql and we take it: `postgresql://user:password@host:port/name?…`.

    Any scheme of Postgres, the options of other drivers, unescaped passwords, socket folders, IPv6
    and libpq's `host=… dbname=…` are understood. Raises ConfigurationError with the cure.
    """
    return parse_url(url).url


async def resolve_url(settings: Settings, *, announce: Callable[[str], None] | None = None) -> str:
    """Where the database is: `DATABASE_URL`, or the embedded server, started if need be.

    `announce` gets one line when it is the embedded one.
    """
    if settings.database_url and settings.database_url.strip():
        return normalize_url(settings.database_url)
    from fastedgy.embedded import server

    embedded = server(Path(settings.data_dir))
    url = await asyncio.to_thread(embedded.start)
    if announce is not None:
        announce(f"DATABASE_URL is not set: using the embedded Postgres in {embedded.data_dir}.")
    return normalize_url(url)


async def connect(
    url: str,
    *,
    application_name: str = "fastedgy",
    timeout: float = 10.0,
    command_timeout: float | None = None,
    server_settings: dict[str, str] | None = None,
    statement_cache_size: int | None = None,
    **asyncpg_options: Any,
) -> asyncpg.Connection:
    """A connection of asyncpg's. Times are seconds; no `command_timeout` means no limit.

    Raises DatabaseUnavailable (one sentence with the place, the cause and the cure, never the
    password), DatabaseTooOld, or ConfigurationError for an option that the server does not know.
    """
    import asyncpg

    address = parse_url(url)
    given = dict(server_settings or {})
    if "application_name" not in address.options:
        given.setdefault("application_name", application_name)
    if statement_cache_size is not None:
        asyncpg_options["statement_cache_size"] = statement_cache_size
    try:
        connection = await asyncpg.connect(
            address.url,
            timeout=timeout,
            command_timeout=command_timeout,
            server_settings=given,
            **asyncpg_options,
        )
    except (asyncpg.UndefinedObjectError, asyncpg.CantChangeRuntimeParamError) as error:
        raise ConfigurationError(
            f"DATABASE_URL has an option that the server refuses: {error}. Remove it."
        ) from error
    except (
        OSError,
        ValueError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,  # what answers there is no Postgres
    ) as error:
        raise _unreachable(address, error, timeout) from error
    if connection.get_server_version().major < OLDEST_SERVER:
        version = connection.get_settings().server_version
        connection.terminate()
        raise DatabaseTooOld(
            f"The server of {address} is PostgreSQL {version}, and {OLDEST_SERVER} is the oldest "
            "that works. Upgrade it, or set DATABASE_URL to another."
        )
    return connection


def _unreachable(address: DatabaseAddress, error: Exception, timeout: float) -> DatabaseUnavailable:
    import asyncpg

    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    cure = "Is the server running, and is DATABASE_URL right?"
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        cure = "`fastedgy db createdb` creates it."
    elif isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        cure = "Check the user and the password in DATABASE_URL."
    elif isinstance(error, asyncpg.TooManyConnectionsError):
        cure = "Raise max_connections of the server, or use fewer processes."
    elif isinstance(error, asyncpg.CannotConnectNowError):
        cure = "Try again in a moment."
    elif isinstance(error, TimeoutError) and not error.args:
        reason = f"no answer within {timeout:g} s"
    elif f"[Errno {errno.ECONNREFUSED}]" in reason:  # also where several addresses were tried
        reason = "connection refused"
    elif missing := [key for key in SSL_FILES if not Path(address.options.get(key, "/")).exists()]:
        reason = f"there is no file {address.options[missing[0]]}"
        cure = f"Correct {missing[0]} in DATABASE_URL."
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return DatabaseUnavailable(f"The database {address} is not reachable: {reason}. {cure}")


def lost(error: BaseException, connection: asyncpg.Connection) -> bool:
    """Whether the error means that the connection, not the statement, has failed.

    Nobody knows then whether the statement was executed.
    """
    import asyncpg

    if isinstance(error, asyncpg.QueryCanceledError):
        return False
    if isinstance(error, asyncpg.InterfaceError):
        return is_closed(connection)
    broken = (
        OSError,
        asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError,
        # "Cannot switch to state …": the end of the connection is on its way in.
        asyncpg.InternalClientError,
    )
    return isinstance(error, broken)


def is_closed(connection: asyncpg.Connection) -> bool:
    """Whether a connection is of no use any more."""
    import asyncpg

    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True  # a pool takes a connection away from its user as soon as it is lost


def edgy_database(url: str, settings: Settings, *, pooler: bool = False) -> Database:
    """A database for Edgy, not connected yet.

    databasez knows few options, so those of the URL go to asyncpg beside it. `pooler`: there is one
    in transaction mode, so nothing is prepared ahead.
    """
    from databasez import Database

    address = parse_url(url)
    connect_args: dict[str, Any] = {
        "dsn": address.url,
        "timeout": settings.database_connect_timeout,
    }
    if pooler:
        connect_args |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    with _root_logger_untouched():
        return Database(
            address.write("postgresql+asyncpg", options=False),
            pool_size=settings.database_pool_size,
            max_overflow=settings.database_max_overflow,
            pool_pre_ping=True,
            connect_args=connect_args,
        )


@contextmanager
def _root_logger_untouched() -> Iterator[None]:
    """databasez logs through the root logger when a Database is made, which gives that a handler if
    it has none. The application's own `logging.basicConfig` would then do nothing.
    """
    nothing = logging.NullHandler()
    logging.root.addHandler(nothing)
    try:
        yield
    finally:
        logging.root.removeHandler(nothing)


def in_transaction(database: Database) -> bool:
    """Whether this asyncio task has a transaction open on `database`. No await, no round trip."""
    connection = _current_connection(database)
    raw = _raw(connection) if connection is not None else None
    return raw is not None and bool(raw.is_in_transaction())


@asynccontextmanager
async def caller_transaction(database: Database) -> AsyncIterator[asyncpg.Connection | None]:
    """The asyncpg connection of the transaction that this asyncio task has open, or None.

    What is written on it is committed or undone with the caller's own statements. A JSONB column
    takes JSON text on it and gives Python objects. Raises ConfigurationError in a transaction that
    is none.
    """
    connection = _current_connection(database)
    raw = _raw(connection) if connection is not None else None
    if connection is None or raw is None:
        yield None
    elif raw.is_in_transaction():
        async with connection:
            yield raw
    elif connection._transaction_stack:
        raise ConfigurationError(
            "This transaction is none: databasez sent no BEGIN, because the isolation level that "
            "was asked for is the server's default. Write isolation_level='READ_COMMITTED', with "
            "the underscore, or use `async with tasks.transaction():`."
        )
    else:
        yield None


@asynccontextmanager
async def transaction(database: Database) -> AsyncIterator[None]:
    """A transaction at READ COMMITTED, or a savepoint in the one that this task has open."""
    if in_transaction(database):
        async with database.transaction():
            yield
        return
    try:
        # With a space, databasez takes it for the level that is set already, and sends no BEGIN.
        async with database.transaction(isolation_level="READ_COMMITTED"):
            yield
    finally:
        connection = _current_connection(database)
        held = connection._connection.async_connection if connection is not None else None
        if held is not None and not held.closed and not held.invalidated:
            # databasez "restores" READ COMMITTED; the next statement would never be committed.
            await held.execution_options(isolation_level="AUTOCOMMIT")


def _current_connection(database: Database) -> DatabasezConnection | None:
    """databasez' connection of this task, if it has one. `database.connection()` would make one."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # in the thread of a sync function
        return None
    if task is None:
        return None
    here = database._databases_map.get(task.get_loop(), database)
    if here.force_rollback:
        return here._global_connection
    return here._connection_map.get(task)


def _raw(connection: DatabasezConnection) -> asyncpg.Connection | None:
    held = connection._connection.async_connection
    if held is None or held.closed or held.invalidated:
        return None
    return held.sync_connection.connection.driver_connection


def bind(url: str, settings: Settings, *, pooler: bool = False) -> None:
    """Give the registry its database. Models may have been declared long before.

    Binding again is allowed while it is not connected, or to the same URL.
    """
    found: Registry = __getattr__("registry")
    _bind(found, url, settings, pooler=pooler)


def _bind(registry: Registry, url: str, settings: Settings, *, pooler: bool) -> None:
    new = edgy_database(url, settings, pooler=pooler)
    bound = registry.database
    if bound.is_connected:
        _refuse_another(bound.options["connect_args"]["dsn"], new.options["connect_args"]["dsn"])
        return
    # In place: every model keeps the database that its registry had when it was declared.
    bound.backend, bound.url, bound.options = new.backend, new.url, new.options
    bound.backend.owner = bound
    registry.metadata_by_url.process()


def _refuse_another(connected: str, wanted: str) -> None:
    if connected != wanted:
        raise ConfigurationError(
            "The registry is connected to another database already. One process serves one "
            "DATABASE_URL: stop the other application first."
        )


@dataclass(slots=True, eq=False)
class _Running:
    """A running application: what the registry is bound to if it is made while that runs."""

    url: str
    settings: Settings
    pooler: bool
    loop: asyncio.AbstractEventLoop
    connected: bool = False

    def connect(self, registry: Registry) -> None:
        """Connect the registry at once, in whatever thread it was asked for.

        Nothing is waited for, as databasez only makes a pool, which belongs to our loop.
        """
        _bind(registry, self.url, self.settings, pooler=self.pooler)
        here = asyncio._get_running_loop()
        asyncio._set_running_loop(self.loop)
        try:
            registry.database.connect().send(None)
        except StopIteration:
            self.connected = True
        else:
            raise ConfigurationError(
                "This release of databasez cannot be connected while the application runs. Import "
                "fastedgy.orm in the application's own module: then it is connected at the start."
            )
        finally:
            asyncio._set_running_loop(here)


_running: list[_Running] = []
_making = threading.Lock()


@asynccontextmanager
async def bound(url: str, settings: Settings, *, pooler: bool = False) -> AsyncIterator[None]:
    """The registry bound to a database, and connected as long as the block runs.

    Where nobody has asked for the registry yet, it is made when somebody does: Edgy and SQLAlchemy
    cost 0.3 s and 28 MB, which the worker of an application without models saves. Raises
    ConfigurationError when the registry is connected to another database.
    """
    running = _Running(normalize_url(url), settings, pooler, asyncio.get_running_loop())
    with _making:
        made: Registry | None = globals().get("registry")
        if made is None:
            for other in _running:
                _refuse_another(other.url, running.url)
            _running.append(running)
    if made is not None:
        _bind(made, url, settings, pooler=pooler)
        async with made:
            yield
        return
    try:
        yield
    finally:
        with _making:
            _running.remove(running)
        if running.connected:
            await __getattr__("registry").database.disconnect()


def in_use() -> bool:
    """Whether anybody has asked for the registry. Who has not has no transaction open."""
    return "registry" in globals()


def __getattr__(name: str) -> Any:
    """Make the process-wide registry when it is first asked for."""
    if name != "registry":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edgy import Database, Registry

    with _making:
        if "registry" not in globals():
            with _root_logger_untouched():
                made = Registry(Database("postgresql+asyncpg:///"))
                for application in _running:
                    application.connect(made)
            globals()["registry"] = made
    return globals()["registry"]
