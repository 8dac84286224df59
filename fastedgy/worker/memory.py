"""How much memory this process has."""

from __future__ import annotations

import resource


def resident() -> int:
    """Bytes of it that are in RAM; where there is no /proc, the most there ever were."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
