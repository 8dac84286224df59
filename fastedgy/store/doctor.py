"""What the server says of itself, as far as it matters to the queue: sessions, tables, settings.

Only looked at, never changed; each is one statement on the catalog or on the statistics.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from asyncpg import Connection

from fastedgy.models.tables import Tables

# What keeps vacuum from removing dead rows in this database: snapshots of its own sessions, and
# of standbys and slots anywhere. Vacuum itself holds up nobody.
_HOLDERS = """
SELECT 'session' AS kind, pid::text AS name, coalesce(application_name, '') AS application,
       coalesce(usename::text, '') AS role, coalesce(state, '') AS state,
       extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds,
       greatest(age(backend_xmin), age(backend_xid))::bigint AS transactions,
       left(regexp_replace(coalesce(query, ''), '\\s+', ' ', 'g'), 200) AS query
  FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
   AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
   AND backend_type NOT IN ('autovacuum worker', 'walsender') AND query !~* '^\\s*vacuum'
   AND xact_start < clock_timestamp() - $1 * interval '1 second'
UNION ALL
SELECT 'prepared', gid, '', owner::text, 'prepared',
       extract(epoch FROM clock_timestamp() - prepared)::float8, age(transaction)::bigint, ''
  FROM pg_prepared_xacts
 WHERE database = current_database()
   AND prepared < clock_timestamp() - $1 * interval '1 second'
UNION ALL
SELECT 'slot', slot_name::text, '', '', CASE WHEN active THEN 'active' ELSE 'inactive' END,
       NULL, age(xmin)::bigint, ''
  FROM pg_replication_slots WHERE xmin IS NOT NULL AND age(xmin) > $2
UNION ALL
SELECT 'standby', pid::text, coalesce(application_name, ''), coalesce(usename::text, ''), state,
       NULL, age(backend_xmin)::bigint, ''
  FROM pg_stat_replication WHERE backend_xmin IS NOT NULL AND age(backend_xmin) > $2
 ORDER BY seconds DESC NULLS LAST, transactions DESC
"""
_TABLES = """
SELECT class.relname AS name, stats.n_live_tup AS live, stats.n_dead_tup AS dead,
       greatest(stats.last_vacuum, stats.last_autovacuum) AS vacuumed,
       class.reltuples::float8 AS tuples, pg_relation_size(class.oid) AS bytes,
       age(class.relfrozenxid)::bigint AS frozen_age,
       coalesce((SELECT sum(avg_width) FROM pg_stats
                  WHERE schemaname = space.nspname AND tablename = class.relname), 0)::bigint
           AS row_bytes
  FROM pg_class AS class
  JOIN pg_namespace AS space ON space.oid = class.relnamespace
  LEFT JOIN pg_stat_user_tables AS stats ON stats.relid = class.oid
 WHERE class.oid IN (SELECT to_regclass(quote_ident(name)) FROM unnest($1::text[]) AS name)
 ORDER BY class.relname
"""
_INDEX_SIZES = """
SELECT index.relname AS name, pg_relation_size(index.oid) AS bytes,
       index.reltuples::float8 AS tuples
  FROM pg_index AS entry JOIN pg_class AS index ON index.oid = entry.indexrelid
 WHERE entry.indrelid IN (SELECT to_regclass(quote_ident(name)) FROM unnest($1::text[]) AS name)
   AND entry.indisvalid
 ORDER BY index.relname
"""
_SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY ($1::text[])"
_SERVER = """
SELECT pg_is_in_recovery() AS standby, pg_notification_queue_usage()::float8 AS notify_usage,
       pg_backend_pid() AS pid, clock_timestamp() AS now,
       coalesce((SELECT bool_or(pg_has_role(current_user, oid, 'USAGE')) FROM pg_roles
                  WHERE rolname IN ('pg_read_all_stats', 'pg_monitor')), false)
       OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS sees_all
"""
_CONNECTIONS = """
SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS server,
       (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
           AND backend_type = 'client backend') AS database,
       (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user
           AND backend_type = 'client backend') AS role,
       (SELECT datconnlimit FROM pg_database WHERE datname = current_database())
           AS database_limit,
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role_limit
"""
_BUSIEST = """
SELECT coalesce(nullif(application_name, ''), 'unnamed') AS name, count(*) AS sessions
  FROM pg_stat_activity WHERE backend_type = 'client backend'
 GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5
"""

SETTINGS = (
    "autovacuum", "track_counts", "fsync", "full_page_writes", "synchronous_commit",
    "default_transaction_isolation", "default_transaction_read_only", "max_connections",
    "superuser_reserved_connections", "reserved_connections", "autovacuum_freeze_max_age",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Holder:
    """What holds the vacuum horizon. `kind`: session, prepared, slot or standby; `name`: its pid,
    or its own name; `seconds`: for how long its transaction is open, None where nobody knows.
    """

    kind: str
    name: str
    application: str
    role: str
    state: str
    seconds: float | None
    transactions: int
    query: str


@dataclass(frozen=True, slots=True)
class TableStats:
    """One table: rows by the statistics, `bytes` on disk, `row_bytes` of an average row."""

    name: str
    live: int | None
    dead: int | None
    vacuumed: datetime | None
    tuples: float
    bytes: int
    frozen_age: int
    row_bytes: int


@dataclass(frozen=True, slots=True)
class IndexSize:
    """One index: `bytes` on disk, and how many entries it has by the last vacuum."""

    name: str
    bytes: int
    tuples: float


@dataclass(frozen=True, slots=True)
class Server:
    """`pid` is that of the server's process, `now` its clock; `sees_all`: whether this role sees
    what other roles' sessions do."""

    standby: bool
    notify_usage: float
    pid: int
    now: datetime
    sees_all: bool


@dataclass(frozen=True, slots=True)
class ConnectionUse:
    """Sessions of the whole server, of this database, and of this role; limits of -1: none."""

    server: int
    database: int
    role: int
    database_limit: int
    role_limit: int


async def read_server(connection: Connection) -> Server:
    """What kind of server it is, and its clock."""
    return Server(**await connection.fetchrow(_SERVER))


async def read_settings(connection: Connection) -> dict[str, str]:
    """The server's settings that matter, as they hold for this role in this database."""
    rows = await connection.fetch(_SETTINGS, list(SETTINGS))
    return {row["name"]: row["setting"] for row in rows}


async def horizon_holders(
    connection: Connection, *, seconds: float, transactions: int
) -> list[Holder]:
    """Who keeps dead rows from being removed for longer than this, the oldest first.

    `transactions`: for slots and standbys, which have no clock.
    """
    rows = await connection.fetch(_HOLDERS, seconds, transactions)
    return [Holder(**row) for row in rows]


async def table_stats(connection: Connection, tables: Tables) -> list[TableStats]:
    """The queue's tables, as the statistics know them."""
    rows = await connection.fetch(_TABLES, list(asdict(tables).values()))
    return [TableStats(**row) for row in rows]


async def index_sizes(connection: Connection, tables: Tables) -> list[IndexSize]:
    """The indexes of the queue's tables."""
    rows = await connection.fetch(_INDEX_SIZES, list(asdict(tables).values()))
    return [IndexSize(**row) for row in rows]


async def connection_use(connection: Connection) -> tuple[ConnectionUse, dict[str, int]]:
    """How many sessions there are; and by application name, the five with most."""
    use = ConnectionUse(**await connection.fetchrow(_CONNECTIONS))
    rows = await connection.fetch(_BUSIEST)
    return use, {row["name"]: row["sessions"] for row in rows}


async def shares_backends(connection: Connection, other: Connection) -> bool:
    """Whether a pooler lends the same server process to both, each for a transaction only."""
    first = {await connection.fetchval("SELECT pg_backend_pid()") for _ in range(3)}
    async with other.transaction():
        # While this one is held, the first has to be given another.
        held = await other.fetchval("SELECT pg_backend_pid()")
        again = await connection.fetchval("SELECT pg_backend_pid()")
    return len(first) > 1 or held in first or again not in first


async def execute(connection: Connection, statement: str, *, wait: float) -> None:
    """Run a statement of a cure. Raises what the database says.

    What changes a table waits for its lock for `wait` seconds at most, since everybody else would
    wait behind it. What runs beside the work (VACUUM, CONCURRENTLY) may take its time.
    """
    if not statement.startswith("ALTER TABLE"):
        await connection.execute(statement, timeout=None)
        return
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = {round(wait * 1000)}")
        await connection.execute(statement)
