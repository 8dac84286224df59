"""What is wrong with the queue and its database, or soon will be, and how to cure it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from asyncpg import Connection, PostgresError

from fastedgy.admin import doctor_schema, doctor_server, doctor_work
from fastedgy.admin.findings import Finding, Fix, Severity, Thresholds, Ward
from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import DatabaseError
from fastedgy.models.tables import Tables
from fastedgy.store import doctor as store
from fastedgy.store.overview import list_workers

__all__ = ["Finding", "Fix", "Severity", "Thresholds", "apply_fix", "doctor"]

LOCK_WAIT = 3.0
"""Seconds that a cure waits for the lock of a table."""

CHECKS = (
    doctor_server.check_server,
    doctor_schema.check_schema,
    doctor_work.check_queues,
    doctor_work.check_tasks,
    doctor_work.check_workers,
    doctor_work.check_schedules,
    doctor_server.check_horizon,
    doctor_server.check_tables,
    doctor_server.check_connections,
    doctor_server.check_clock,
    doctor_work.check_clocks,
)

_RANK = {severity: rank for rank, severity in enumerate(Severity)}


async def doctor(
    connection: Connection,
    tables: Tables,
    config: QueuedTaskConfig,
    *,
    thresholds: Thresholds | None = None,
    connect: Callable[[], AbstractAsyncContextManager[Connection]] | None = None,
) -> list[Finding]:
    """Look for everything that can be wrong, the worst first. Changes nothing.

    `connect` lends another connection like this one: it takes two to prove that there is a pooler
    in transaction mode between. Without it, that is not looked for.
    """
    findings = await doctor_schema.check_release(connection)
    if findings:
        return findings
    ward = Ward(
        config,
        thresholds or Thresholds(),
        await list_workers(connection, tables),
        (await store.read_server(connection)).now,
    )
    findings += await doctor_server.check_pooler(connection, ward, connect)
    for check in CHECKS:
        findings += await check(connection, tables, ward)
    return sorted(findings, key=lambda finding: _RANK[finding.severity])


async def apply_fix(connection: Connection, finding: Finding) -> Sequence[str]:
    """Apply the cure of a finding that has a safe one; returns the statements that were run.

    Raises DatabaseError, with what was done so far, if the database refuses.
    """
    done: list[str] = []
    for statement in finding.fix.statements if finding.fix else ():
        try:
            await store.execute(connection, statement, wait=LOCK_WAIT)
        except PostgresError as error:
            raise DatabaseError(
                f"{statement} was refused: {str(error).rstrip('.')}. "
                + (f"Done before: {'; '.join(done)}." if done else "Nothing was changed.")
            ) from error
        done.append(statement)
    return done
