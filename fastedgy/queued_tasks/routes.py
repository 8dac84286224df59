"""The block in which a route adds tasks."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from fastedgy.queued_tasks.buffer import Buffer, open_buffer

if TYPE_CHECKING:
    from fastedgy.queued_tasks.service import QueuedTasks


class RouteBuffer:
    """The block in which a route runs: what it adds is written at the end, or dropped."""

    __slots__ = ("_buffer", "_outer", "_service")

    def __init__(self, service: QueuedTasks) -> None:
        self._service = service

    async def __aenter__(self) -> QueuedTasks:
        self._outer = open_buffer.get()
        self._buffer = Buffer()
        open_buffer.set(self._buffer)
        return self._service

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                await self._service._write(self._buffer)
        finally:
            self._buffer.close()
            open_buffer.set(self._outer)
