"""What a worker tells its supervisor: lines on a pipe, and the board of tasks it has started."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import threading
from typing import Any
from uuid import UUID

EMPTY = bytes(16)


class Report:
    """JSON lines to the supervisor. Without one (fd None) nothing is told."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        if fd is not None:
            os.set_blocking(fd, False)

    def tell(self, event: str, **facts: Any) -> None:
        """Send a line. A supervisor that is gone or does not read must not stop the worker."""
        if self._fd is None:
            return
        line = json.dumps({"event": event, **facts}, default=str).encode() + b"\n"
        with self._lock, contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._fd, line)


class Board:
    """Shared memory in which the supervisor finds, after our death, what was running."""

    def __init__(self, fd: int | None, slots: int) -> None:
        size = max(slots * 16, mmap.PAGESIZE if fd is None else slots * 16)
        self._memory = mmap.mmap(-1 if fd is None else fd, size)
        self._free = list(range(slots - 1, -1, -1))

    def put(self, id: UUID) -> int:
        """Note that a task starts; returns the slot to clear when it has ended."""
        slot = self._free.pop()
        start = slot * 16
        self._memory[start : start + 16] = id.bytes
        return slot

    def clear(self, slot: int) -> None:
        """Note that the task of this slot has ended."""
        start = slot * 16
        self._memory[start : start + 16] = EMPTY
        self._free.append(slot)
