"""What a worker process is told when it is started: the environment variable FASTEDGY_WORKER."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from uuid import UUID

from fastedgy.errors import ConfigurationError
from fastedgy.ids import new_id
from fastedgy.logs import LogFormat, LogLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """`board`, `lifeline` and `report` are file descriptors that the supervisor passed on."""

    app: str | None = None
    queues: list[str] = field(default_factory=list)
    concurrency: int = 100
    supervisor_id: UUID | None = None
    worker_id: UUID = field(default_factory=new_id)
    solo: bool = False
    board: int | None = None
    lifeline: int | None = None
    report: int | None = None
    log_format: LogFormat = "text"
    log_level: LogLevel = "info"


def read_assignment() -> Assignment:
    """The assignment in this process's environment. Raises ConfigurationError without one."""
    text = os.environ.pop("FASTEDGY_WORKER", None)
    if text is None:
        raise ConfigurationError(
            "fastedgy.worker is started by its supervisor. Use `fastedgy queue start`."
        )
    told = json.loads(text)
    for name in ("supervisor_id", "worker_id"):
        if told.get(name) is not None:
            told[name] = UUID(told[name])
    # A supervisor of an earlier release may say more, or less, than this one knows.
    known = {item.name for item in fields(Assignment)}
    return Assignment(**{name: value for name, value in told.items() if name in known})
