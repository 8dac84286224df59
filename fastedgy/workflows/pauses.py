"""Ending a run that has to wait, so that another one goes on."""

from __future__ import annotations

import asyncio
import math

from fastedgy.queued_task.running import TaskRun

GRACE = 0.05
"""Seconds that a wait beside other work of the task gives that to begin a step."""


class Pauses:
    """The waits of one run, and the steps beside which they may not end it."""

    def __init__(self, run: TaskRun) -> None:
        self._run = run
        self.resume_in = math.inf
        """Seconds after which a suspended run is to be followed by the next."""
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def begin_work(self) -> None:
        """A step is at work: the run does not end meanwhile."""
        self._busy += 1
        self._idle.clear()

    def end_work(self) -> None:
        """A step has ended, or waits itself."""
        self._busy -= 1
        if not self._busy:
            self._idle.set()

    async def suspend(self, seconds: float) -> None:
        """End this run, to go on in another one in `seconds`.

        Returns only where the task is still at work elsewhere: when that ends, or after `seconds`.
        """
        if self._busy:
            try:
                await asyncio.wait_for(self._idle.wait(), seconds)
            except TimeoutError:
                return
        main = getattr(self._run, "task", None)
        if main is not None and asyncio.current_task() is not main:
            # What runs beside it may be about to begin a step.
            await asyncio.sleep(min(GRACE, seconds))
            if self._busy:
                return
        self.put_off(seconds)
        await asyncio.get_running_loop().create_future()  # until the run is cancelled

    async def suspend_in_step(self, seconds: float) -> None:
        """`suspend` for a step that is at work itself. Does not return."""
        self.end_work()
        try:
            while True:
                await self.suspend(seconds)
        finally:
            self.begin_work()

    def put_off(self, seconds: float) -> None:
        """Have this run, or what is left of it when its time is over, followed by another."""
        self.resume_in = min(self.resume_in, seconds)
        self._run.suspend()
