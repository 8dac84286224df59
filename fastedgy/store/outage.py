"""Telling an outage of the database from an error of ours."""

from __future__ import annotations

import asyncpg

from fastedgy.errors import DatabaseUnavailable

# The connection is gone, or the server is on its way down, up, or to another host. 25006: a standby
# that was promoted elsewhere answers "read-only"; 53xxx: out of connections, memory or disk;
# 40001, 40P01, 55P03: somebody else was in the way. A cached
# statement is stale after a migration, and a new connection has none. All of them pass, and the
# statement may be repeated.
_CLASSES = (
    OSError,
    EOFError,
    TimeoutError,
    DatabaseUnavailable,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.LockNotAvailableError,
    asyncpg.InternalClientError,
    asyncpg.InvalidCachedStatementError,
)


def is_outage(error: BaseException) -> bool:
    """Whether `error` says that the database is away for now, so that trying again makes sense.

    Wider than `database.lost`, which tells a broken connection from a refused statement: a deadlock
    or a full server is an outage, and the connection is as good as before.
    """
    if isinstance(error, asyncpg.QueryCanceledError):
        return True  # a server-side statement_timeout
    if isinstance(error, asyncpg.InterfaceError):
        # "connection is closed", "connection was closed in the middle of operation": asyncpg has no
        # narrower class for them. Wrong arguments are InterfaceErrors, too.
        text = str(error)
        return "closed" in text or "released" in text
    return isinstance(error, _CLASSES)
