"""One worker process as its supervisor sees it: start, signs of life, signals, end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from fastedgy.models import Tables
from fastedgy.supervisor.board import Board

logger = logging.getLogger("fastedgy.supervisor")

DRAINED = 0
REPLACE = 3
MISCONFIGURED = 78
"""The exit codes with a meaning, if the worker has announced them: a task may end its process with
any code. Everything else is a death."""

_LONGEST_LINE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a worker process is told about itself."""

    app: str | None
    url: str
    queues: tuple[str, ...]
    concurrency: int
    supervisor_id: UUID
    worker_id: UUID
    solo: bool
    log_format: str
    log_level: str


class Child:
    """A worker process, from its start until it has been reaped.

    It is started by making the object (raises OSError when the system has no process left). It
    has a session of its own, so that a Ctrl-C in the terminal reaches the supervisor only, and so
    that what its tasks have started can be killed with it.
    """

    def __init__(
        self,
        command: Sequence[str],
        assignment: Assignment,
        *,
        number: int,
        lifeline: int,
        heard: Callable[[Child, dict[str, Any]], None],
    ) -> None:
        self.number = number
        self.solo = assignment.solo
        self.worker_id = assignment.worker_id
        self.started_at = self.last_sign = self.idle_since = time.monotonic()
        self.tables = Tables()
        self.busy = 0
        self.ready = False
        self.slow = False
        self.asked_to_stop = False
        self.deadline: float | None = None
        self.killed_because: str | None = None
        self.complaint: str | None = None
        self.exit_code: int | None = None
        self.announced: int | None = None
        self.settled = asyncio.Event()
        self.gone = asyncio.Event()
        self._heard = heard
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        self.board = Board(assignment.concurrency)
        self._reports, report = os.pipe()
        os.set_blocking(self._reports, False)
        pipes = {"board": self.board.fd, "lifeline": lifeline, "report": report}
        facts = asdict(assignment)
        url = facts.pop("url")  # by its usual variable, so that the worker's own settings hold it
        told = json.dumps(facts | pipes, default=str)
        try:
            self._process = subprocess.Popen(
                command,
                # The application in the worker finds the database where the supervisor has.
                env={**os.environ, "FASTEDGY_WORKER": told, "DATABASE_URL": url},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=tuple(pipes.values()),
            )
        except OSError:
            os.close(self._reports)
            self.board.close()
            raise
        finally:
            os.close(report)
        self.pid = self._process.pid
        self._loop.add_reader(self._reports, self._read)

    @property
    def facts(self) -> dict[str, Any]:
        """What every log line about this child carries."""
        return {"worker": "solo" if self.solo else self.number, "pid": self.pid}

    def lived(self, now: float) -> float:
        """Seconds since its start."""
        return now - self.started_at

    # Asking and forcing

    def ask_to_stop(self, *, deadline: float) -> None:
        """SIGTERM: drain. A second one interrupts what runs. After `deadline` it may be killed."""
        self.asked_to_stop = True
        self.deadline = deadline if self.deadline is None else min(deadline, self.deadline)
        if self.exit_code is None:
            # Nobody but this object reaps the process, so that its pid cannot be another's.
            os.kill(self.pid, signal.SIGTERM)

    def kill(self, because: str) -> None:
        """SIGKILL, for the process and for everything that its tasks have started."""
        if self.killed_because is None:
            self.killed_because = because
            self._kill_group()

    def ended(self) -> bool:
        """Whether the process has ended; if so, `exit_code` is set (negative: a signal's number).

        What an unclean death left running (a program that a task had started) is killed here: the
        task will run again, and must not overlap with the rest of its first run.
        """
        if self.exit_code is None and (status := self._peek()) is not None:
            self._read_all()
            if not status == self.announced == DRAINED:
                self._kill_group()
            self.exit_code = self._process.wait()
            self._finish()
        return self.exit_code is not None

    @property
    def meant(self) -> int | None:
        """The exit code, if the worker itself has ended its process; None if something else has."""
        return self.exit_code if self.exit_code == self.announced else None

    def why(self) -> str:
        """How it ended, in words for a log line and for the rows of its tasks."""
        code = self.exit_code or 0
        if code >= 0:
            how = f"exit code {code}"
        else:
            try:
                how = f"killed by {signal.Signals(-code).name}"
            except ValueError:  # a real-time signal has no name
                how = f"killed by signal {-code}"
        return f"{self.killed_because}, {how}" if self.killed_because else how

    def started_tasks(self) -> list[UUID]:
        """The tasks that may have caused this end: none if it was stopped, else those it had."""
        stopped = self.meant in (DRAINED, REPLACE) or (
            self.asked_to_stop and self.exit_code in (-signal.SIGTERM, -signal.SIGKILL)
        )
        return [] if stopped else self.board.started()

    def close(self) -> None:
        """Give back what the supervisor held of it. Only after its end."""
        self.board.close()

    # Listening

    def _read(self) -> bool:
        """Take what has been reported; whether there may be more."""
        try:
            data = os.read(self._reports, 65536)
        except BlockingIOError:
            return False
        if not data:  # closed by the worker; its end is seen by SIGCHLD
            self._loop.remove_reader(self._reports)
            return False
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest if len(rest) < _LONGEST_LINE else b""
        for line in lines:
            self._hear(line)
        return True

    def _hear(self, text: bytes) -> None:
        self.last_sign = time.monotonic()
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict):
            logger.warning("worker reported nonsense", extra={**self.facts, "line": text[:200]})
            return
        if isinstance(busy := line.get("busy"), int):
            if busy or self.busy:
                self.idle_since = self.last_sign
            self.busy = busy
        if isinstance(idle_for := line.get("idle_for"), int | float):
            self.idle_since = self.last_sign - idle_for
        if isinstance(reason := line.get("reason"), str):
            self.complaint = " ".join(reason.split())
        if isinstance(names := line.get("tables"), dict):
            self.tables = Tables(**names)
        if line.get("event") == "ready":
            self.ready = True
            self.idle_since = self.last_sign
            self.settled.set()
        if line.get("event") == "leaving":
            self.announced = line.get("code")
        self._heard(self, line)

    def _read_all(self) -> None:
        while self._read():
            pass

    def _finish(self) -> None:
        self._read_all()
        self._loop.remove_reader(self._reports)
        os.close(self._reports)
        self.settled.set()
        self.gone.set()

    # The system

    def _peek(self) -> int | None:
        """The exit status, but the process stays a zombie, so that its group keeps its number."""
        if not hasattr(os, "waitid"):
            return self._process.poll()
        try:
            status = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # reaped by somebody else in this process: it is gone
            return -1
        if status is None:
            return None
        return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # nobody is left, or a zombie only
            os.killpg(self.pid, signal.SIGKILL)


def reap_strangers(known: Container[int]) -> None:
    """Reap the orphans that pid 1 of a container inherits; children with a `known` pid stay."""
    while True:
        try:
            status = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if status is None or status.si_pid in known:
            return
        os.waitpid(status.si_pid, os.WNOHANG)
