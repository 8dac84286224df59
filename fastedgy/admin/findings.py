"""What `doctor` finds, and from when on it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from fastedgy.config import QueuedTaskConfig
from fastedgy.store.overview import WorkerRow


class Severity(StrEnum):
    """How bad it is: `error`: tasks do not run, or work may be lost; `warning`: soon, or slowly;
    `info`: worth knowing. The worst comes first."""

    error = "error"
    warning = "warning"
    info = "info"


@dataclass(frozen=True, slots=True)
class Fix:
    """A cure that can be applied without harm while everything runs.

    `text`: what it does. `statements`: the SQL, each run for itself, outside a transaction.
    """

    text: str
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or soon will be.

    `code`: which check found it. `title`: a sentence with the facts; `meaning`: what it does to the
    queue; `evidence`: the figures behind it; `cure`: what to do. `fix`: None where no machine
    should. `details`: the evidence for scripts.
    """

    code: str
    severity: Severity
    title: str
    meaning: str
    evidence: str
    cure: str
    fix: Fix | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cure:
    """A fix that was applied to a finding (`code`, `title`) by these `statements`.

    `error`: what the database refused, and what was done before; then there are no `statements`.
    """

    code: str
    title: str
    statements: Sequence[str]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From when on something is worth a finding. Seconds, bytes, and shares between 0 and 1.

    `bloat_factor`: so many times the bytes that its rows need. `freeze_factor`: so many times the
    age at which autovacuum freezes a table by itself.
    """

    transaction_seconds: float = 300.0
    transactions_behind: int = 100_000
    dead_rows: int = 50_000
    dead_share: float = 0.5
    bloat_bytes: int = 64_000_000
    bloat_factor: float = 4.0
    freeze_factor: float = 1.5
    notify_usage: float = 0.1
    connection_share: float = 0.8
    clock_seconds: float = 2.0
    overdue_seconds: float = 60.0
    waiting_seconds: float = 300.0
    overtime_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Ward:
    """What the checks share: the settings, the thresholds, and the workers by their rows.

    `workers` are all whose rows say that they run; `alive` those that gave a sign of life within
    the lease and run tasks of the queue (a web process does not).
    """

    config: QueuedTaskConfig
    thresholds: Thresholds
    workers: Sequence[WorkerRow]
    now: datetime

    @property
    def alive(self) -> list[WorkerRow]:
        return [
            worker
            for worker in self.workers
            if worker.is_alive(self.config.lease) and not worker.is_web
        ]
