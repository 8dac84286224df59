"""The board: which tasks a worker process has started, readable after its death."""

from __future__ import annotations

import os
import tempfile
from uuid import UUID

SLOT = 16
"""Bytes per slot: the id of the task that it started last, zeros while it is idle."""


class Board:
    """Memory that a worker process writes and its supervisor reads once the worker is dead.

    A write costs the worker nothing but 16 bytes of memory, and survives any way to die. An id
    that is torn because death came in the middle of it names no task, and does no harm.
    """

    def __init__(self, slots: int) -> None:
        self.size = slots * SLOT
        self.fd = _memory_file()
        os.ftruncate(self.fd, self.size)

    def started(self) -> list[UUID]:
        """The tasks in the slots, each once."""
        content = os.pread(self.fd, self.size, 0)
        slots = (content[start : start + SLOT] for start in range(0, self.size, SLOT))
        return [UUID(bytes=slot) for slot in dict.fromkeys(slots) if any(slot)]

    def close(self) -> None:
        """Give the memory back; the board is not to be read afterwards."""
        os.close(self.fd)


def _memory_file() -> int:
    memfd_create = getattr(os, "memfd_create", None)  # Linux only
    if memfd_create is not None:
        return int(memfd_create("fastedgy-board"))
    with tempfile.TemporaryFile(prefix="fastedgy-board-") as file:
        return os.dup(file.fileno())
