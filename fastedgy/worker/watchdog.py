"""The watchdog: sees from the heartbeat's thread when a task blocks the event loop."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastedgy.worker.counters import Counters

if TYPE_CHECKING:
    from fastedgy.worker.executor import Executor
    from fastedgy.worker.running import Running

logger = logging.getLogger("fastedgy.worker")

PULSE = 0.25
"""Seconds between two marks that the event loop leaves."""
REPORT_AFTER = 1.0
HAND_BACK_AFTER = 10.0
REPLACE_AFTER = 10.0
"""Seconds beyond the blocking task's timeout."""
FROZEN = 2.0
"""Seconds between two looks, of two a second, that tell that the whole process stood still."""


class Watchdog:
    """Reports a blocked loop after a second, with the task that blocks it; hands on what waits
    behind it after ten; and ends the process when the task's time is over as well.

    What blocks may be an asyncio task that a task has started, which only Python 3.12 can tell
    whose it is, or a callback, of which nobody can. Then all async tasks whose time is over by as
    much are taken for it, once the loop has been silent for as long as it takes to hand on.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        executor: Executor,
        counters: Counters,
        *,
        on_blocked: Callable[[], None],
        on_hung: Callable[[], None],
    ) -> None:
        """`on_blocked`: what was claimed ahead is to be handed on. `on_hung`: the process is to
        end, its tasks accounted for. Both are called in the thread that looks.
        """
        self._loop = loop
        self._thread_id = threading.get_ident()
        self._executor = executor
        self._counters = counters
        self._on_blocked = on_blocked
        self._on_hung = on_hung
        self._mark = time.monotonic()
        self._reported = self._handed_back = self._hung = False
        self._stopped = False
        self._looked = self._watching_since = self._mark

    def start(self) -> None:
        """Let the loop leave its marks. Called in the loop."""
        if not self._stopped:
            self._mark = time.monotonic()
            self._loop.call_later(PULSE, self.start)

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True

    def look(self, now: float) -> None:
        """Called by the heartbeat's thread, twice a second."""
        if now - self._looked > FROZEN:
            self._watching_since = now
        self._looked = now
        silent = now - self._mark
        if self._stopped or silent < REPORT_AFTER:
            if self._reported:
                logger.warning("The event loop moves again")
            self._reported = self._handed_back = False
            return
        blocker = self._executor.current()
        if not self._reported:
            self._reported = True
            self._counters.loop_blocked += 1
            logger.warning(
                "The event loop has been blocked for %.1f s by %s. Use a sync function, which runs "
                "in a thread, or await.\n%s",
                silent,
                blocker.label if blocker else "something that is no task, or was started by one",
                self._stack(),
            )
        if silent >= HAND_BACK_AFTER and not self._handed_back:
            self._handed_back = True
            self._on_blocked()
        if not self._hung and (guilty := self._guilty(blocker, now, silent)):
            self._hung = True
            for it in guilty:
                it.deadline = float("inf")
                # Else it would be handed back free of charge, and block the next worker.
                it.cancelling = "timeout"
            logger.error(
                "The loop is blocked beyond the timeout of %s; the process ends",
                ", ".join(it.label for it in guilty),
            )
            self._on_hung()

    def _guilty(self, blocker: Running | None, now: float, silent: float) -> list[Running]:
        """Which tasks the process is to end for."""
        if blocker is not None:
            return [blocker] if now >= blocker.deadline + REPLACE_AFTER else []
        # A loop that stood still with the whole process, and has had no turn since, is not blocked.
        if min(silent, now - self._watching_since) < HAND_BACK_AFTER:
            return []
        return self._executor.late(now - REPLACE_AFTER)

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread_id)
        return "".join(traceback.format_stack(frame, limit=8)) if frame is not None else ""
