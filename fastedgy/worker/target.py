"""Which function a claimed row means, and what becomes of a row whose function cannot be run."""

from __future__ import annotations

import time
from collections.abc import Sequence

from asyncpg import Record

from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import ClosureRefused, FunctionNotFound, FunctionRefused, SignatureRefused
from fastedgy.queued_task.closures import unpack
from fastedgy.queued_task.functions import TaskFunction, describe_closure, resolve
from fastedgy.queued_task.signing import verify
from fastedgy.store import outcomes
from fastedgy.store.outcomes import Outcome
from fastedgy.worker.counters import Counters
from fastedgy.worker.running import read_extra

UNKNOWN_AGAIN, UNKNOWN_LATER = 0.5, 10.0
"""Seconds after which a task whose function is unknown is offered to the workers again: at first,
and at most, doubling with each run. A worker of another release may be there already."""

CANNOT_RUN = (FunctionNotFound, FunctionRefused, ClosureRefused, SignatureRefused)
"""What tells that a row is not to be run."""


def find_target(row: Record, config: QueuedTaskConfig) -> TaskFunction:
    """The function to call for `row`. Raises one of CANNOT_RUN."""
    closure = row["closure"]
    if config.signing_keys:
        _verify(row, config.signing_keys)
    if closure is None:
        return resolve(row["function"], config)
    return describe_closure(unpack(closure, config.signing_keys))


def not_run(row: Record, error: Exception, counters: Counters) -> Outcome:
    """The outcome of a row that is not run: another release may know its function, and nobody runs
    what is refused.
    """
    now = time.monotonic()
    if isinstance(error, FunctionNotFound):
        counters.unknown += 1
        again = min(UNKNOWN_AGAIN * 2 ** min(max(row["run"] - 1, 0), 10), UNKNOWN_LATER)
        return outcomes.unknown(row["id"], row["run"], now, now, again, str(error))
    counters.refused += 1
    return outcomes.failed(row["id"], row["run"], now, now, type(error).__name__, str(error))


def _verify(row: Record, keys: Sequence[str]) -> None:
    """Raise SignatureRefused unless the task that was claimed is one that was signed."""
    extra = row["extra"]
    signature = read_extra(extra).signature if extra is not None else None
    verify(keys, signature, row["id"], row["function"], row["args"], row["kwargs"])
