"""What a worker tells its supervisor: lines on a pipe, and the board of tasks it has started."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import threading
from typing import Any, NoReturn
from uuid import UUID


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

    def leave(self, code: int) -> NoReturn:
        """End this process. The supervisor believes an exit code that was announced: any other is
        a task's doing.
        """
        try:
            self.tell("leaving", code=code)
        finally:  # a task may have closed the pipe
            os._exit(code)


class Board:
    """Shared memory in which the supervisor finds, after our death, what was running.

    A slot keeps its last task until the next one comes, or until nothing runs any more. That costs
    one write a task, and misleads nobody: only tasks that are still running by their rows can be
    blamed for a death.
    """

    def __init__(self, fd: int | None, slots: int) -> None:
        self._size = slots * 16
        self._memory = mmap.mmap(-1 if fd is None else fd, self._size)
        self._free = list(range((slots - 1) * 16, -1, -16))

    def put(self, id: UUID) -> int:
        """Note that a task starts; returns its slot, to be given back by `free`."""
        start = self._free.pop()
        self._memory[start : start + 16] = id.bytes
        return start

    def free(self, slot: int) -> None:
        """The task of this slot has ended."""
        self._free.append(slot)

    def wipe(self) -> None:
        """Nothing runs."""
        self._memory[: self._size] = bytes(self._size)
