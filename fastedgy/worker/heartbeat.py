"""The heartbeat: a thread with a connection of its own, which a blocked event loop cannot stop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from asyncpg import Connection

from fastedgy.store.workers import Pulse
from fastedgy.worker.wire import GivenUp, Wire

logger = logging.getLogger("fastedgy.worker")

TICK = 0.5
"""Seconds between two signs of life to the supervisor and two looks at the event loop."""
MARGIN = 1.0
"""Seconds before the end of the lease at which it counts as lost here: what runs must have stopped
by the time at which others may take it."""


class Heartbeat:
    """Beats for one worker until it is stopped.

    `lease_until` (a reading of `time.monotonic()`) is a little before others may take us for dead,
    by the last beat that is known to have arrived, counted from before it was sent: who starts a
    task must look at it, and nobody else will run it before then.
    """

    def __init__(
        self,
        make_wire: Callable[[], Wire],
        send: Callable[[Connection], object],
        *,
        interval: float,
        lease: float,
        on_pulse: Callable[[Pulse], None],
        on_tick: Callable[[], None],
        on_lease_lost: Callable[[], None],
        on_error: Callable[[], None] = lambda: None,
    ) -> None:
        """`send` returns the coroutine of one beat. The callbacks are called in this thread.

        `on_error`: one of the others has failed where it must not.
        """
        self._make_wire = make_wire
        self._send = send
        self._interval = interval
        self._lease = lease - min(MARGIN, lease / 4)
        self._on_pulse = on_pulse
        self._on_tick = on_tick
        self._on_lease_lost = on_lease_lost
        self._on_error = on_error
        self._stopping = threading.Event()
        self._soon = threading.Event()
        self._thread = threading.Thread(target=self._main, name="heartbeat", daemon=True)
        self.lease_until = time.monotonic() + self._lease
        self.steady_since: float | None = None
        """Since when beats have arrived without a gap."""

    def start(self) -> None:
        """Begin to beat. The first beat goes out at once."""
        self._thread.start()

    def soon(self) -> None:
        """Beat once more within a moment: something may have been written into our row."""
        self._soon.set()

    def stop(self) -> None:
        """Stop beating, and wait until the thread has ended."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * TICK + 2)

    def is_alive(self) -> bool:
        """Whether the thread still does its work."""
        return self._thread.is_alive()

    def _main(self) -> None:
        asyncio.run(self._beat_and_watch())

    async def _beat_and_watch(self) -> None:
        ticking = asyncio.create_task(self._tick())
        wire = self._make_wire()
        try:
            while not self._stopping.is_set():
                sent = time.monotonic()
                try:
                    pulse = await wire.run(self._one, until=self._late_or_stopping)
                except GivenUp:
                    self.steady_since = None
                    continue
                except Exception:
                    logger.exception("A heartbeat failed")
                    self.steady_since = None
                    await asyncio.sleep(TICK)
                    continue
                now = time.monotonic()
                if self.steady_since is None or now - sent > self._interval:
                    self.steady_since = now
                if pulse.alive:
                    # Retries inside `run` only make the true deadline later than this one.
                    self.lease_until = max(self.lease_until, sent + self._lease)
                self._on_pulse(pulse)
                await self._pause(sent + self._interval)
        finally:
            ticking.cancel()
            with suppress(asyncio.CancelledError):
                await ticking
            await wire.close()

    async def _pause(self, until: float) -> None:
        # In steps: the events that end it are set by other threads, and cannot be awaited.
        while (left := until - time.monotonic()) > 0:
            if self._stopping.is_set() or self._soon.is_set():
                break
            await asyncio.sleep(min(left, TICK / 2))
        self._soon.clear()

    async def _one(self, connection: Connection) -> Pulse:
        return await self._send(connection)  # type: ignore[misc, no-any-return]

    def _late_or_stopping(self) -> bool:
        return self._stopping.is_set()

    async def _tick(self) -> None:
        lost = False
        while True:
            await asyncio.sleep(TICK)
            try:
                if time.monotonic() >= self.lease_until:
                    self.steady_since = None
                    if not lost:
                        self._on_lease_lost()
                    lost = True
                else:
                    lost = False
                self._on_tick()
            except Exception:
                # Without ticks the supervisor would take the process for hung, and kill it.
                logger.exception("A tick of the heartbeat failed")
                self._on_error()
