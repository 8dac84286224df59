"""What a supervisor is asked to do, and how fast it reacts."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import ConfigurationError
from fastedgy.logs import LogFormat, LogLevel

WORKER = (sys.executable, "-m", "fastedgy.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorOptions:
    """The options of `fastedgy queue start`.

    `app`: `module:attribute`; None: as the workers find it (`discovery.PLACES`).
    `workers`: processes at most. `min_workers`: processes kept while idle, at least one; None:
    that of the settings, else `workers`, so that nothing ever shrinks. `concurrency`: tasks that
    one process runs at a time. `queues`: which to serve; empty: all, also those that come later.
    `reload`: replace the workers when a *.py below the working directory changes. `metrics_port`:
    where Prometheus may ask, on the address `metrics_host`; None: nowhere.

    Raises ConfigurationError when the numbers make no sense.
    """

    workers: int
    concurrency: int
    app: str | None = None
    min_workers: int | None = None
    queues: tuple[str, ...] = ()
    reload: bool = False
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    log_format: LogFormat = "text"
    log_level: LogLevel = "info"

    def __post_init__(self) -> None:
        for name, value, least in (
            ("--workers", self.workers, 1),
            ("--concurrency", self.concurrency, 1),
            ("--min-workers", self.min_workers, 0),
        ):
            if value is not None and value < least:
                raise ConfigurationError(f"{name}={value} makes no sense: it starts at {least}.")
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ConfigurationError(
                f"--min-workers={self.min_workers} is above --workers={self.workers}. "
                "Lower the first or raise the second."
            )

    def kept(self, config: QueuedTaskConfig) -> int:
        """How many workers stay while there is nothing to do.

        One at least: with none, nobody would see that there is something to do.
        """
        kept = self.min_workers if self.min_workers is not None else config.min_workers
        return self.workers if kept is None else max(1, min(kept, self.workers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tempo:
    """How fast a supervisor reacts, in seconds. Only tests have a reason to change it."""

    look: float = 0.25
    """Between two looks at all children; an end or a signal is seen at once."""
    quick_death: float = 10
    """A worker that lives shorter than this is not restarted at once a second time."""
    first_delay: float = 1
    max_delay: float = 30
    kill_margin: float = 10
    """Between the end of the drain timeout and SIGKILL."""
    start_warning: float = 30
    start_limit: float = 600
    """A process that is not ready by then hangs. Importing a large model may take minutes."""
    grow_after: float = 1
    farewell: float = 5
    """How long the last reports to the database may take before the supervisor leaves."""
    watch: float = 0.5
    """Between two looks at the files with `reload`."""
