"""Outcomes that are written while the event loop cannot: it is blocked, or will not move again."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

from fastedgy.store.finish import finish_any
from fastedgy.store.outcomes import Outcome
from fastedgy.worker.ending import LAST_WRITES, REPLACE
from fastedgy.worker.parts import Parts
from fastedgy.worker.report import Report

logger = logging.getLogger("fastedgy.worker")


class Aside:
    """What the watchdog has done, each in a thread and on a connection of its own."""

    def __init__(self, parts: Parts, report: Report) -> None:
        self._parts = parts
        self._report = report

    def hand_on(self) -> None:
        """The loop has been blocked for long: what waits behind the blocker goes elsewhere."""
        outcomes = self._parts.executor.take_queue()
        if outcomes:
            write = self._write(outcomes)
            threading.Thread(target=asyncio.run, args=(write,), daemon=True).start()

    def end(self) -> None:
        """The loop will not move again: write what became of its tasks from here, and end."""
        parts = self._parts
        outcomes = [outcome for outcome, _ in parts.executor.leave_behind()]
        outcomes += parts.executor.take_queue() + parts.completer.unwritten()

        def write_and_end() -> None:
            try:
                asyncio.run(self._write(outcomes, within=LAST_WRITES))
            except Exception:
                logger.exception("The outcomes of a hanging worker were not written")
            self._report.leave(REPLACE)

        threading.Thread(target=write_and_end, daemon=True).start()

    async def _write(self, outcomes: list[Outcome], *, within: float | None = None) -> None:
        parts = self._parts
        wire = parts.wire("hand-back")
        deadline = None if within is None else time.monotonic() + within
        await wire.run(
            lambda connection: finish_any(
                connection, parts.tables, outcomes, channels=parts.channels
            ),
            until=lambda: deadline is not None and time.monotonic() > deadline,
        )
        await wire.close()
