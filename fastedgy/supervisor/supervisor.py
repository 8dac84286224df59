"""The supervisor: signals, growing and shrinking, replacing, and the order of the end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import ConfigurationError
from fastedgy.supervisor.crew import Crew
from fastedgy.supervisor.obituaries import Obituary
from fastedgy.supervisor.options import WORKER, SupervisorOptions, Tempo
from fastedgy.supervisor.reload import Snapshot, changes, snapshot
from fastedgy.supervisor.scaling import Load, Scaling, Step

logger = logging.getLogger("fastedgy.supervisor")


class Supervisor:
    """Keeps a crew of workers until a signal asks to stop.

    `report` tells the database about an ended worker. `command` starts a worker process.
    """

    def __init__(
        self,
        url: str,
        options: SupervisorOptions,
        config: QueuedTaskConfig,
        *,
        report: Callable[[Obituary], Awaitable[None]],
        command: Sequence[str] = WORKER,
        tempo: Tempo | None = None,
    ) -> None:
        self._options = options
        self._tempo = tempo or Tempo()
        self.crew = Crew(url, options, config, report=report, command=command, tempo=self._tempo)
        self._scaling = Scaling(
            options.kept(config),
            options.workers,
            config.worker_idle_timeout,
            self._tempo.grow_after,
        )
        self._roll_wanted = asyncio.Event()
        self._rolling = False
        self._has_terminal = os.isatty(0)

    async def run(self) -> None:
        """Return once a signal has asked to stop and all workers have ended.

        The order is the contract: no new workers, then the workers drain (or are killed when they
        do not), and last the database hears of those that died.

        Raises ConfigurationError with the worker's own words when one says that the application
        or the configuration is wrong.
        """
        crew = self.crew
        jobs = [asyncio.create_task(self._keep_rolling())]
        if self._options.reload:
            # Before any worker starts, so that none can have read what is older than this.
            known = await asyncio.to_thread(snapshot, Path.cwd())
            jobs.append(asyncio.create_task(self._watch_files(known)))
        try:
            with self._signals():
                for _ in range(self._scaling.least):
                    crew.add_seat()
                while crew.children or not crew.stopping:
                    crew.look(time.monotonic())
                    if not crew.stopping and not self._rolling:
                        self._scale(time.monotonic())
                    for job in jobs:
                        if job.done():
                            job.result()  # it never ends but by a mistake of ours: say so
                    with suppress(TimeoutError):
                        await asyncio.wait_for(crew.wake.wait(), self._tempo.look)
                    crew.wake.clear()
                await crew.say_farewell()
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.wait(jobs)
            crew.close()
        if crew.failure is not None:
            raise ConfigurationError(crew.failure)
        logger.info("supervisor stopped", extra={"supervisor": str(crew.id)})

    # Growing and shrinking

    def _scale(self, now: float) -> None:
        crew = self.crew
        workers = [seat.child for seat in crew.seats if seat.child is not None]
        if len(workers) < len(crew.seats) or not all(worker.ready for worker in workers):
            return
        loads = [
            Load(
                full=worker.busy >= self._options.concurrency,
                idle_for=0.0 if worker.busy else now - worker.idle_since,
            )
            for worker in workers
        ]
        match self._scaling.decide(now, loads):
            case Step.GROW:
                seat = crew.add_seat()
                logger.info("all slots are busy, adding a worker", extra={"worker": seat.number})
            case Step.SHRINK:
                idlest = max(range(len(loads)), key=lambda index: loads[index].idle_for)
                logger.info("worker is idle, draining it", extra=workers[idlest].facts)
                del crew.seats[idlest]
                crew.drain(workers[idlest])

    # Replacing

    async def _keep_rolling(self) -> None:
        while True:
            await self._roll_wanted.wait()
            self._roll_wanted.clear()
            self._rolling = True
            try:
                await self._roll()
            finally:
                self._rolling = False

    async def _roll(self) -> None:
        """Replace the workers one by one: the new one is ready before the old one drains."""
        crew = self.crew
        logger.info("replacing all workers, one by one")
        for seat in list(crew.seats):
            if crew.stopping:
                return
            new = seat.coming = crew.start(seat)
            if new is None:
                return
            await new.settled.wait()
            # An ended one has left the seat as soon as it has been buried.
            if crew.stopping or not new.ready or seat.coming is not new:
                logger.error("replacement failed, the other workers stay", extra=new.facts)
                return
            old, seat.child, seat.coming = seat.child, new, None
            if old is None:
                continue
            crew.drain(old)
            if not self._options.reload:  # while developing, the new code is wanted now
                await old.gone.wait()
        logger.info("all workers replaced")

    async def _watch_files(self, known: Snapshot) -> None:
        async for files in changes(Path.cwd(), known, interval=self._tempo.watch):
            names = [os.path.relpath(file) for file in files]
            logger.info("files changed", extra={"files": ", ".join(names[:5]), "count": len(names)})
            self._roll_wanted.set()

    # Signals

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGTERM: self._asked_to_stop,
            signal.SIGINT: self._asked_to_stop,
            signal.SIGHUP: self._hung_up,
            signal.SIGCHLD: self.crew.wake.set,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _asked_to_stop(self) -> None:
        if self.crew.stopping:
            logger.info("interrupting what runs")
            self.crew.interrupt()
        else:
            logger.info("draining, a second signal interrupts what runs")
            self.crew.dissolve()

    def _hung_up(self) -> None:
        """SIGHUP is the wish for new workers, or the news that the terminal was closed."""
        if self._has_terminal and not os.isatty(0):
            self._asked_to_stop()
        else:
            self._roll_wanted.set()
