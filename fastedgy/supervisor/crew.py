"""The crew: all worker processes of a supervisor, and the seats that they fill."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

from fastedgy.config import QueuedTaskConfig
from fastedgy.supervisor.child import (
    DRAINED,
    MISCONFIGURED,
    REPLACE,
    Assignment,
    Child,
    reap_strangers,
)
from fastedgy.supervisor.obituaries import Obituary
from fastedgy.supervisor.options import SupervisorOptions, Tempo
from fastedgy.supervisor.seats import Backoff, Seat

logger = logging.getLogger("fastedgy.supervisor")


class Crew:
    """Starts, watches, restarts, kills and buries workers.

    Everything happens in `look`, which is to be called now and then and at once after `wake` was
    set, and in the handlers of reports: all on one event loop, so that nothing is locked.
    `report` tells the database about an ended worker; it may take as long as it wants.
    """

    def __init__(
        self,
        url: str,
        options: SupervisorOptions,
        config: QueuedTaskConfig,
        *,
        report: Callable[[Obituary], Awaitable[None]],
        command: Sequence[str],
        tempo: Tempo,
    ) -> None:
        self.id = uuid4()
        self.seats: list[Seat] = []
        self.children: dict[int, Child] = {}
        self.wake = asyncio.Event()
        self.stopping = False
        self.failure: str | None = None
        self.deaths = 0
        """Workers that ended unasked since the start."""
        self._url = url
        self._options = options
        self._config = config
        self._report = report
        self._command = command
        self._tempo = tempo
        # Each runs one task at a time, alone in its process; one more for each report that there
        # are still some while all of them are busy, so that many suspects of one death do not
        # queue for a single process.
        self._solos = [Seat(0, Backoff(tempo)) for _ in range(options.workers)]
        self._suspects = False
        self._began = False
        self._looked_at = math.inf
        self._reports: set[asyncio.Task[None]] = set()
        # Workers hold the read end: however this process dies, they see the end of it at once.
        self._lifeline, self._alive = os.pipe()

    # Watching

    def look(self, now: float) -> None:
        """Bury the dead, kill those that hang, and fill the seats that are due."""
        if now - self._looked_at > self._tempo.look + 1:
            # This process itself was frozen, and perhaps the whole machine with it: nobody's
            # silence means anything.
            for child in self.children.values():
                child.last_sign = now
        self._looked_at = now
        for child in list(self.children.values()):
            if child.ended():
                self._bury(child, now)
        if os.getpid() == 1:
            reap_strangers(self.children)
        for child in self.children.values():
            self._judge(child, now)
        if self.stopping:
            return
        for seat in self.seats:
            if seat.empty and seat.restart_at <= now:
                seat.child = self.start(seat)
        if self._suspects:
            self._start_solo(now)

    def _start_solo(self, now: float) -> None:
        if any(seat.child is not None and not seat.child.busy for seat in self._solos):
            # It has nothing to do, or starts only now, so it takes what the report was about. If
            # there is more, a later heartbeat says so again.
            self._suspects = False
            return
        for seat in self._solos:
            if seat.empty and seat.restart_at <= now:
                self._suspects = False
                seat.child = self.start(seat, solo=True)
                return

    def _judge(self, child: Child, now: float) -> None:
        silence = self._config.lease / 2
        if child.ready and now - child.last_sign > silence:
            self._kill(child, f"no sign of life for {silence:g} s")
        elif child.deadline is not None and now > child.deadline:
            self._kill(child, "did not drain in time")
        elif not child.ready and child.lived(now) > self._tempo.start_limit:
            self._kill(child, f"not ready after {self._tempo.start_limit:g} s")
        elif not child.ready and not child.slow and child.lived(now) > self._tempo.start_warning:
            child.slow = True
            logger.warning("worker is slow to start", extra=child.facts)

    def _kill(self, child: Child, because: str) -> None:
        if child.killed_because is None:
            logger.warning("killing worker", extra={**child.facts, "because": because})
            child.kill(because)

    def _heard(self, child: Child, line: dict[str, Any]) -> None:
        match line.get("event"):
            case "ready":
                seconds = round(child.lived(time.monotonic()), 2)
                logger.info("worker ready", extra={**child.facts, "seconds": seconds})
                if not self._began:
                    self._began = True
                    self._announce()
            case "suspects":
                self._suspects = True
                self.wake.set()
            case "draining" if child.deadline is None:
                self._relieve(child, str(line.get("reason", "")))
            case "dissolve" if not self.stopping:  # an operator wants this, by the worker's row
                logger.info("draining", extra={"reason": str(line.get("reason", ""))})
                self.dissolve()

    def _announce(self) -> None:
        options, least = self._options, self._options.kept(self._config)
        facts = {
            "workers": least if least == options.workers else f"{least}-{options.workers}",
            "concurrency": options.concurrency,
            "queues": ",".join(options.queues) or "all",
            "supervisor": str(self.id),
        }
        logger.info("queue started", extra=facts)

    def _relieve(self, child: Child, reason: str) -> None:
        """A worker stops on its own (it has grown too large, a function hangs, or somebody sent
        it a SIGTERM): it leaves its seat at once, so that there is no gap."""
        now = time.monotonic()
        child.deadline = self._drained_by(now)
        if child.solo:  # it always ends like this
            return
        logger.info("worker drains on its own", extra={**child.facts, "reason": reason})
        seat = self._seat_of(child)
        if seat is not None:
            seat.leave(child, now)
            self.wake.set()

    def _seat_of(self, child: Child) -> Seat | None:
        for seat in (*self.seats, *self._solos):
            if child is seat.child or child is seat.coming:
                return seat
        return None

    # Starting

    def add_seat(self) -> Seat:
        """A further place, with the lowest free number; `look` fills it."""
        taken = {seat.number for seat in self.seats}
        number = next(number for number in range(1, len(taken) + 2) if number not in taken)
        seat = Seat(number, Backoff(self._tempo))
        self.seats.append(seat)
        self.wake.set()
        return seat

    def start(self, seat: Seat, *, solo: bool = False) -> Child | None:
        """A new worker process for that seat; None, and a later try, if the system refuses."""
        options = self._options
        assignment = Assignment(
            app=options.app,
            url=self._url,
            queues=options.queues,
            concurrency=1 if solo else options.concurrency,
            supervisor_id=self.id,
            worker_id=uuid4(),
            solo=solo,
            log_format=options.log_format,
            log_level=options.log_level,
        )
        try:
            child = Child(
                self._command,
                assignment,
                number=seat.number,
                lifeline=self._lifeline,
                heard=self._heard,
            )
        except OSError as error:
            now = time.monotonic()
            seat.restart_at = now + max(seat.backoff.after_end(now, 0), self._tempo.first_delay)
            facts = {"worker": seat.number, "error": str(error)}
            logger.error("worker cannot be started", extra=facts)
            return None
        self.children[child.pid] = child
        logger.debug("worker starting", extra=child.facts)
        return child

    # Ending

    def _bury(self, child: Child, now: float) -> None:
        del self.children[child.pid]
        self.deaths += not child.asked_to_stop and child.meant not in (DRAINED, REPLACE)
        seat = self._seat_of(child)
        replacing = seat is not None and seat.coming is child
        refill = seat is not None and seat.leave(child, now)
        if child.meant == MISCONFIGURED and not child.asked_to_stop:
            self._after_misconfigured(child, seat, replacing=replacing)
        else:
            self._log_end(child, now, seat.restart_at - now if seat and refill else None)
        # Before it is ready a worker claims nothing. Perhaps there is no table to report it to.
        if child.ready or (child.meant != MISCONFIGURED and self.failure is None):
            obituary = Obituary(
                worker_id=child.worker_id,
                exit_reason="drained" if child.meant == DRAINED else child.why(),
                started=child.started_tasks(),
                tables=child.tables,
            )
            task = asyncio.create_task(self._tell(obituary, child))
            self._reports.add(task)
            task.add_done_callback(self._reports.discard)
        child.close()

    def _log_end(self, child: Child, now: float, restart_in: float | None) -> None:
        facts = {**child.facts, "reason": child.why(), "lived": round(child.lived(now), 1)}
        message, level = "worker ended", logging.WARNING
        if child.asked_to_stop and (child.meant == DRAINED or child.exit_code == -signal.SIGTERM):
            message, level = "worker drained", logging.INFO
        elif child.meant in (DRAINED, REPLACE):
            message = "solo worker finished" if child.solo else message
            level = logging.INFO
        if self.stopping and not child.ready:
            level = logging.DEBUG  # no news: what has stopped everything is
        if restart_in is not None and not self.stopping and not child.solo:
            facts["restart_in"] = round(max(0.0, restart_in), 1)
        logger.log(level, message, extra=facts)

    def _after_misconfigured(self, child: Child, seat: Seat | None, *, replacing: bool) -> None:
        """Exit code 78: a mistake that a restart cannot cure, so everything stops.

        A replacement that fails so leaves the old worker in its seat. While developing, the next
        change of a file is the cure.
        """
        complaint = child.complaint or f"A worker cannot start (exit code {MISCONFIGURED})."
        if self.stopping:
            return
        developing = self._options.reload and self._began
        if not replacing and not developing:
            self.failure = complaint
            self.dissolve()
            return
        logger.error("worker cannot start", extra={**child.facts, "reason": complaint})
        if developing and seat is not None and not child.solo:
            seat.restart_at = math.inf

    async def _tell(self, obituary: Obituary, child: Child) -> None:
        try:
            await self._report(obituary)
        except Exception:
            logger.exception("end of worker not reported", extra=child.facts)
        if child.solo and child.meant != DRAINED:
            # Only now can a new one find the task that is under suspicion.
            self._suspects = True
            self.wake.set()

    def drain(self, child: Child) -> None:
        """Ask it to end; it is killed if it has not in `QUEUE_DRAIN_TIMEOUT` and a margin."""
        child.ask_to_stop(deadline=self._drained_by(time.monotonic()))

    def _drained_by(self, now: float) -> float:
        return now + self._config.drain_timeout + self._tempo.kill_margin

    def dissolve(self) -> None:
        """Drain all workers and start no more."""
        self.stopping = True
        for child in self.children.values():
            if child.deadline is None:  # to one that drains already, it would say "interrupt"
                self.drain(child)
        self.wake.set()

    def interrupt(self) -> None:
        """After `dissolve`: have the workers hand back what runs, and wait for no report."""
        deadline = time.monotonic() + self._tempo.kill_margin
        for child in self.children.values():
            child.ask_to_stop(deadline=deadline)
        if not self.children:
            self._forget_reports()

    async def say_farewell(self) -> None:
        """Let the last reports reach the database, for a few seconds at most."""
        if self._reports:
            await asyncio.wait(self._reports, timeout=self._tempo.farewell)
        if self._forget_reports():
            logger.warning("left before all ends were reported, their leases cover the rest")

    def _forget_reports(self) -> int:
        return sum(task.cancel() for task in self._reports)

    def close(self) -> None:
        """Let go of the lifeline. Workers that still live then end within seconds."""
        self._forget_reports()
        for fd in (self._lifeline, self._alive):
            with suppress(OSError):
                os.close(fd)
