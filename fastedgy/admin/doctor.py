"""What is wrong with the queue and its database, or soon will be, and how to cure it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from asyncpg import Connection, PostgresError

from fastedgy.admin import doctor_schema, doctor_server, doctor_work
from fastedgy.admin.findings import Cure, Finding, Fix, Severity, Thresholds, Ward
from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import DatabaseError
from fastedgy.models.tables import Tables
from fastedgy.store import audit
from fastedgy.store import doctor as store
from fastedgy.store.overview import list_workers

__all__ = ["Cure", "Finding", "Fix", "Severity", "Thresholds", "apply_fix", "cure", "doctor"]

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


async def cure(
    connection: Connection,
    tables: Tables,
    findings: Sequence[Finding],
    *,
    actor: str,
    source: str,
) -> list[Cure]:
    """Apply the cures of those findings that have a safe one, and note each in the audit.

    One that the database refuses keeps nobody from the others.
    """
    cures = []
    for finding in findings:
        if finding.fix is None:
            continue
        try:
            done, error = await apply_fix(connection, finding), None
        except DatabaseError as refused:
            done, error = [], str(refused)
        cures.append(Cure(finding.code, finding.title, done, error))
        details: dict[str, Any] = {"title": finding.title, "statements": done}
        if error is not None:
            details["error"] = error
        await audit.note(
            connection, tables, actor=actor, source=source, action="doctor.fix",
            target=f"doctor:{finding.code}", details=details,
        )  # fmt: skip
    return cures


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
