"""What a worker counts: cheap integers, told with each heartbeat and shown by `queue status`."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Counters:
    """Since the start of this process. All but the first few should stay at 0 on a quiet system."""

    claimed: int = 0
    done: int = 0
    failed: int = 0
    retried: int = 0
    cancelled: int = 0
    interrupted: int = 0
    snoozed: int = 0
    unknown: int = 0
    refused: int = 0
    timeouts: int = 0
    fenced: int = 0
    handed_back: int = 0
    promoted: int = 0
    fired: int = 0
    misfired: int = 0
    rescued: int = 0
    pruned: int = 0
    log_lines_dropped: int = 0
    loop_blocked: int = 0
    connections_lost: int = 0
    errors: int = 0
    deaf: int = 0  # 1 while notifications do not arrive, and the table is polled instead

    def told(self) -> dict[str, int]:
        """Those that are not 0."""
        return {name: value for name, value in asdict(self).items() if value}
