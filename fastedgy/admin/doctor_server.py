"""What doctor asks the server: sessions, settings, tables, connections, clocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from asyncpg import Connection

from fastedgy.admin.findings import Finding, Fix, Severity, Thresholds, Ward
from fastedgy.models.tables import Tables
from fastedgy.store import doctor as store
from fastedgy.store.doctor import ConnectionUse, Holder, TableStats
from fastedgy.wording import count, duration

CONNECTIONS_PER_WORKER = 5


async def check_server(connection: Connection, tables: Tables, ward: Ward) -> list[Finding]:
    """Whether this server can carry a queue at all, and keeps what it has committed."""
    server = await store.read_server(connection)
    settings = await store.read_settings(connection)
    findings = []
    if server.standby or settings["default_transaction_read_only"] == "on":
        findings.append(
            Finding(
                "read_only", Severity.error,
                "The database is read-only here.",
                "Nothing can be enqueued, claimed or finished over this address.",
                "It is a standby." if server.standby else "default_transaction_read_only is on.",
                "Let DATABASE_URL point to the primary." if server.standby else
                "ALTER DATABASE … RESET default_transaction_read_only, or the same of the role.",
            )
        )  # fmt: skip
    unsafe = [name for name in ("fsync", "full_page_writes") if settings[name] == "off"]
    if settings["synchronous_commit"] == "off":
        unsafe.append("synchronous_commit")
    if unsafe:
        findings.append(
            Finding(
                "not_durable", Severity.warning,
                f"Commits can be lost: {' and '.join(unsafe)} {'is' if len(unsafe) == 1 else 'are'}"
                " off.",
                "After a crash of the server, tasks whose request was answered may be gone, and "
                "tasks that ran may run again beside their first run.",
                ", ".join(f"{name} = {settings[name]}" for name in unsafe),
                "; ".join(f"ALTER SYSTEM SET {name} = on" for name in unsafe)
                + "; SELECT pg_reload_conf(). ALTER ROLE and ALTER DATABASE set it, too.",
                details={name: settings[name] for name in unsafe},
            )
        )  # fmt: skip
    if (level := settings["default_transaction_isolation"]) != "read committed":
        findings.append(
            Finding(
                "isolation", Severity.error,
                f"Transactions are {level.upper()} by default.",
                "Workers that claim at the same time fail with serialization errors, and so does "
                "everything that waits for a lock.",
                f"default_transaction_isolation = {level}",
                "ALTER DATABASE … SET default_transaction_isolation = 'read committed', or the same"
                " of the role; then restart the workers.",
            )
        )  # fmt: skip
    if settings["autovacuum"] == "off" or settings["track_counts"] == "off":
        findings.append(
            Finding(
                "autovacuum_off", Severity.error,
                "Autovacuum is switched off on this server.",
                "Each task leaves three dead rows. Without vacuum, claims slow down with every "
                "task, and the table grows without end.",
                f"autovacuum = {settings['autovacuum']}, track_counts = {settings['track_counts']}",
                "ALTER SYSTEM SET autovacuum = on; ALTER SYSTEM SET track_counts = on; "
                "SELECT pg_reload_conf()",
            )
        )  # fmt: skip
    if not server.sees_all:
        findings.append(
            Finding(
                "partly_blind", Severity.info,
                "This role does not see what other roles' sessions do.",
                "Old transactions of other roles are not found here.",
                "The role is not a member of pg_read_all_stats.",
                "GRANT pg_read_all_stats TO the role of DATABASE_URL.",
            )
        )  # fmt: skip
    if server.notify_usage >= ward.thresholds.notify_usage:
        findings.append(_notify_queue(server.notify_usage))
    return findings


def _notify_queue(usage: float) -> Finding:
    return Finding(
        "notify_queue", Severity.error if usage > 0.5 else Severity.warning,
        f"The queue of notifications is {usage:.1%} full.",
        "When it is full, every statement that notifies fails: nothing can be enqueued. It fills up"
        " while a session that listens stays in one transaction.",
        f"pg_notification_queue_usage() = {usage:.6f}",
        "Find the session that listens and is in a transaction, and end it: SELECT pid, "
        "application_name, xact_start FROM pg_stat_activity WHERE state <> 'idle' ORDER BY "
        "xact_start; then SELECT pg_terminate_backend(pid).",
        details={"usage": usage},
    )  # fmt: skip


async def check_horizon(connection: Connection, tables: Tables, ward: Ward) -> list[Finding]:
    """Who keeps vacuum from removing dead rows."""
    limits = ward.thresholds
    holders = await store.horizon_holders(
        connection, seconds=limits.transaction_seconds, transactions=limits.transactions_behind
    )
    return [_holder(holder) for holder in holders[:10]]


_HOLDER_CURES = {
    "session": "Ask its owner, or end it: SELECT pg_terminate_backend({name}). Set "
    "idle_in_transaction_session_timeout against the next one.",
    "prepared": "COMMIT PREPARED '{name}' or ROLLBACK PREPARED '{name}'.",
    "slot": "Let its standby catch up, or drop it: SELECT pg_drop_replication_slot('{name}').",
    "standby": "End the long query on the standby, or switch off hot_standby_feedback there.",
}


def _holder(holder: Holder) -> Finding:
    what = {
        "session": f"Session {holder.name}",
        "prepared": f"The prepared transaction {holder.name}",
        "slot": f"The replication slot {holder.name}",
        "standby": f"The standby {holder.application or holder.name}",
    }[holder.kind]
    since = (
        f"for {duration(holder.seconds)}"
        if holder.seconds is not None
        else f"since {count(holder.transactions, 'transaction')} ago"
    )
    evidence = ", ".join(
        part
        for part in (
            holder.application,
            holder.role and f"role {holder.role}",
            holder.state,
            f"{holder.transactions:,} transactions behind",
            holder.query and f"last statement: {holder.query}",
        )
        if part
    )
    return Finding(
        "old_transaction", Severity.warning,
        f"{what} holds the vacuum horizon {since}.",
        "Dead rows cannot be removed as long as it lives. The queue goes on, but the table and its "
        "indexes grow with each task.",
        evidence,
        _HOLDER_CURES[holder.kind].format(name=holder.name),
        details={
            "kind": holder.kind, "name": holder.name, "application": holder.application,
            "role": holder.role, "state": holder.state, "seconds": holder.seconds,
            "transactions": holder.transactions, "query": holder.query,
        },
    )  # fmt: skip


async def check_tables(connection: Connection, tables: Tables, ward: Ward) -> list[Finding]:
    """Dead rows, bloat, and rows that nobody has frozen for too long."""
    limits = ward.thresholds
    settings = await store.read_settings(connection)
    findings = []
    for table in await store.table_stats(connection, tables):
        live, dead = table.live or 0, table.dead or 0
        if dead >= limits.dead_rows and dead >= limits.dead_share * (live + dead):
            findings.append(_dead_rows(table, live, dead))
        if wasted := _wasted(table, limits):
            findings.append(
                Finding(
                    "table_bloat", Severity.warning,
                    f"The table {table.name} is mostly empty space: about "
                    f"{wasted / 1e6:,.0f} of {table.bytes / 1e6:,.0f} MB.",
                    "Reading all of it takes as much longer. New rows use the room, so it is no "
                    "danger.",
                    f"{table.bytes:,} bytes for {table.tuples:,.0f} rows of {table.row_bytes} "
                    "bytes on average",
                    f"At a quiet hour: VACUUM FULL {table.name} (locks it meanwhile), or "
                    "pg_repack, which does not.",
                    details={"table": table.name, "bytes": table.bytes, "wasted": wasted},
                )
            )  # fmt: skip
        if table.frozen_age > limits.freeze_factor * int(settings["autovacuum_freeze_max_age"]):
            findings.append(
                Finding(
                    "wraparound", Severity.error,
                    f"The table {table.name} has not been frozen for {table.frozen_age:,} "
                    "transactions.",
                    "At some two thousand million, the server accepts no more writes.",
                    f"autovacuum_freeze_max_age = {settings['autovacuum_freeze_max_age']}",
                    "Find out what holds up vacuum (see the other findings), then VACUUM (FREEZE).",
                    Fix(f"Freezes {table.name}.", (f"VACUUM (FREEZE) {table.name}",)),
                    {"table": table.name, "age": table.frozen_age},
                )
            )  # fmt: skip
    for index in await store.index_sizes(connection, tables):
        needed = max(0.0, index.tuples) * 150 + 100_000
        if index.bytes - needed > limits.bloat_bytes and index.bytes > limits.bloat_factor * needed:
            findings.append(
                Finding(
                    "index_bloat", Severity.warning,
                    f"The index {index.name} has {index.bytes / 1e6:,.0f} MB for "
                    f"{max(0.0, index.tuples):,.0f} entries.",
                    "Claims and lookups read more pages than they need.",
                    f"{index.bytes:,} bytes, {index.tuples:,.0f} entries by the last vacuum",
                    f"REINDEX INDEX CONCURRENTLY {index.name}",
                    Fix(
                        f"Builds {index.name} anew beside the old one, without blocking anybody.",
                        (f"REINDEX INDEX CONCURRENTLY {index.name}",),
                    ),
                    {"index": index.name, "bytes": index.bytes, "entries": index.tuples},
                )
            )  # fmt: skip
    return findings


def _dead_rows(table: TableStats, live: int, dead: int) -> Finding:
    when = table.vacuumed
    vacuumed = f"last vacuumed {when:%Y-%m-%d %H:%M}" if when else "never vacuumed"
    return Finding(
        "dead_rows", Severity.warning,
        f"The table {table.name} has {dead:,} dead rows beside {live:,} living ones.",
        "Vacuum does not keep up, or something holds it up: claims and lookups walk over the dead "
        "rows.",
        f"n_dead_tup = {dead:,}, n_live_tup = {live:,}, {vacuumed}",
        f"End what holds the vacuum horizon, if there is such a finding; then VACUUM {table.name}.",
        Fix(f"Vacuums {table.name}, beside the work.", (f"VACUUM (ANALYZE) {table.name}",)),
        {"table": table.name, "dead": dead, "live": live},
    )  # fmt: skip


def _wasted(table: TableStats, limits: Thresholds) -> int:
    """Bytes of a table that are no rows, if they are too many. The room that the fill factor leaves
    is no waste."""
    if table.tuples < 0 or not table.row_bytes:
        return 0  # never analysed: nobody knows
    needed = table.tuples * (table.row_bytes + 28) / 0.5
    wasted = table.bytes - needed
    enough = wasted > 4 * limits.bloat_bytes and table.bytes > limits.bloat_factor * needed
    return int(wasted) if enough else 0


async def check_connections(connection: Connection, tables: Tables, ward: Ward) -> list[Finding]:
    """Whether there are connections left."""
    use, busiest = await store.connection_use(connection)
    settings = await store.read_settings(connection)
    reserved = int(settings["superuser_reserved_connections"])
    reserved += int(settings.get("reserved_connections", 0))
    worst = _tightest(use, int(settings["max_connections"]) - reserved)
    what, used, limit = worst
    if used < ward.thresholds.connection_share * limit:
        return []
    needed = CONNECTIONS_PER_WORKER * len(ward.alive)
    return [
        Finding(
            "connections", Severity.error if used >= limit else Severity.warning,
            f"{used} of {limit} connections of {what} are in use.",
            "When there is none left, workers cannot reconnect, and routes cannot enqueue.",
            f"{count(len(ward.alive), 'living worker process')} of the queue: some {needed}. By "
            "application: " + ", ".join(f"{name} {number}" for name, number in busiest.items()),
            "Fewer worker processes with more slots each (--workers, --concurrency), smaller pools "
            "(DATABASE_POOL_SIZE, DATABASE_MAX_OVERFLOW), a pooler, or a higher limit.",
            details={"of": what, "used": used, "limit": limit, "applications": busiest},
        )
    ]  # fmt: skip


def _tightest(use: ConnectionUse, server_limit: int) -> tuple[str, int, int]:
    """The limit that is nearest: whose it is, how many are used, how many there are."""
    limits = [
        ("the server", use.server, server_limit),
        ("this database", use.database, use.database_limit),
        ("this role", use.role, use.role_limit),
    ]
    return max(
        (limit for limit in limits if limit[2] >= 0), key=lambda limit: limit[1] / max(1, limit[2])
    )


async def check_pooler(
    connection: Connection,
    ward: Ward,
    connect: Callable[[], AbstractAsyncContextManager[Connection]] | None,
) -> list[Finding]:
    """Whether a pooler in transaction mode lends server processes, while the queue listens."""
    if connect is None or not ward.config.use_postgresql_notify:
        return []
    server = await store.read_server(connection)
    told = connection.get_server_pid()
    if server.pid == told:
        return []  # a pooler says a number of its own
    async with connect() as other:
        shared = await store.shares_backends(connection, other)
    if not shared:
        return []
    return [
        Finding(
            "pooler", Severity.error,
            "There is a pooler in transaction mode between the queue and the server.",
            "Nobody hears notifications, so tasks are picked up late; prepared statements of one "
            "client reach another and fail.",
            f"The server's process is {server.pid}, the other end of the connection says {told}, "
            "and lends the same process to another client between two statements.",
            "Set QUEUE_USE_POSTGRESQL_NOTIFY=false everywhere, or give the queue the address of "
            "the server itself, or of a pool in session mode.",
        )
    ]  # fmt: skip


async def check_clock(connection: Connection, tables: Tables, ward: Ward) -> list[Finding]:
    """Whether this machine's clock agrees with the database's. Of several looks, the quickest."""
    best = (float("inf"), 0.0)
    for _ in range(3):
        before = time.time()
        server = await store.read_server(connection)
        after = time.time()
        best = min(best, (after - before, (before + after) / 2 - server.now.timestamp()))
    took, ahead = best
    if abs(ahead) < ward.thresholds.clock_seconds + took:
        return []
    return [clock_finding("This machine", ahead)]


def clock_finding(whose: str, ahead: float) -> Finding:
    """A clock that is `ahead` by so many seconds (negative: behind)."""
    side = "ahead of" if ahead > 0 else "behind"
    return Finding(
        "clock_skew", Severity.warning,
        f"{whose}: the clock is {duration(abs(ahead))} {side} the database's.",
        "Ids are made from the producers' clocks, so listings are out of order and pruning keeps "
        "tasks too long or too short. Due times and leases are the database's, and not touched.",
        f"{ahead:+.1f} s",
        "Keep the clocks of all machines in step with NTP (chrony, systemd-timesyncd).",
        details={"whose": whose, "seconds": ahead},
    )  # fmt: skip
