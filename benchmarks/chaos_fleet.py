"""The processes under `benchmarks.chaos`: supervisors and their workers, known by pid and birth."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

Process = tuple[int, str]
"""A pid, and the time at which the process was born: together nobody else's."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A SIGKILL that we sent. `at` by the wall clock, in seconds."""

    pid: int
    at: float
    what: str


def born(pid: int) -> str | None:
    """When a process was born, in ticks since the boot; None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def children(pid: int) -> list[int]:
    """The pids of a process's children."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


class Fleet:
    """Three supervisors with two workers each, kept at three."""

    def __init__(self, environments: list[dict[str, str]], folder: Path) -> None:
        """One environment for each supervisor. Their output goes to files in `folder`."""
        self._environments = environments
        self._folder = folder
        self._supervisors: list[subprocess.Popen[bytes]] = []
        self._workers: set[Process] = set()
        self.kills: list[Kill] = []
        self.frozen: set[int] = set()
        self.thaws: list[tuple[int, float]] = []

    def start(self) -> None:
        """Start all supervisors."""
        self._supervisors = [self._spawn(place) for place in range(len(self._environments))]

    def _spawn(self, place: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "fastedgy", "queue", "start", "--log-format", "json"]
        command += ["--app", "benchmarks.chaos_app:app", "--workers", "2", "--concurrency", "20"]
        with (self._folder / f"supervisor-{place}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                env=self._environments[place],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def look(self) -> None:
        """Note new workers, and start a supervisor in the place of one that is gone."""
        for place, supervisor in enumerate(self._supervisors):
            for pid in children(supervisor.pid):
                if (birth := born(pid)) is not None:
                    self._workers.add((pid, birth))
            if supervisor.poll() is not None:
                self._supervisors[place] = self._spawn(place)

    def workers(self) -> list[int]:
        """The workers that live."""
        self.look()
        return sorted(pid for pid, birth in self._workers if born(pid) == birth)

    def _pick_supervisor(self, rng: random.Random) -> subprocess.Popen[bytes] | None:
        thawed = [one for one in self._supervisors if one.pid not in self.frozen]
        return rng.choice(thawed) if thawed else None

    def kill_worker(self, rng: random.Random) -> str:
        """SIGKILL for one worker."""
        candidates = [pid for pid in self.workers() if pid not in self.frozen]
        if not candidates:
            return "nobody to kill"
        pid = rng.choice(candidates)
        self._kill(pid, "worker")
        return f"kill -9 worker {pid}"

    def kill_supervisor(self, rng: random.Random) -> str:
        """SIGKILL for one supervisor; its workers are to end by themselves."""
        self.look()
        supervisor = self._pick_supervisor(rng)
        if supervisor is None:
            return "nobody to kill"
        self._kill(supervisor.pid, "supervisor")
        supervisor.wait()
        return f"kill -9 supervisor {supervisor.pid}"

    def kill_host(self, rng: random.Random) -> str:
        """SIGKILL for a supervisor and its workers at once."""
        self.look()
        supervisor = self._pick_supervisor(rng)
        if supervisor is None:
            return "nobody to kill"
        for pid in [*children(supervisor.pid), supervisor.pid]:
            self._kill(pid, "host")
        supervisor.wait()
        return f"kill -9 host {supervisor.pid}"

    def freeze(self, rng: random.Random, *, host: bool) -> tuple[list[int], str]:
        """SIGSTOP for one worker, or for a supervisor with all its workers."""
        self.look()
        supervisor = self._pick_supervisor(rng)
        if supervisor is None:
            return [], "nobody to freeze"
        below = children(supervisor.pid)
        pids = [supervisor.pid, *below] if host else below and [rng.choice(below)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            self.frozen.add(pid)
        return pids, f"freeze {'host' if host else 'worker'} {pids}"

    def thaw(self, pids: list[int]) -> None:
        """SIGCONT."""
        for pid in pids:
            self.frozen.discard(pid)
            with suppress(ProcessLookupError):
                self.thaws.append((pid, time.monotonic()))
                os.kill(pid, signal.SIGCONT)

    def _kill(self, pid: int, what: str) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills.append(Kill(pid, time.time(), what))

    def stop(self, within: float) -> list[str]:
        """Drain the supervisors; what complaints there are about the way they ended."""
        complaints = []
        self.look()
        self.thaw(list(self.frozen))
        for supervisor in self._supervisors:
            with suppress(ProcessLookupError):
                supervisor.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + within
        for supervisor in self._supervisors:
            try:
                code = supervisor.wait(max(0.1, deadline - time.monotonic()))
                if code != 0:
                    complaints.append(f"supervisor {supervisor.pid} ended with {code}")
            except subprocess.TimeoutExpired:
                complaints.append(f"supervisor {supervisor.pid} did not drain")
        for pid, birth in self._workers:
            if born(pid) == birth:
                complaints.append(f"worker {pid} outlived its supervisor")
        return complaints

    def kill_all(self) -> None:
        """Leave nobody behind."""
        for supervisor in self._supervisors:
            if supervisor.poll() is None:
                for pid in children(supervisor.pid):
                    if (birth := born(pid)) is not None:
                        self._workers.add((pid, birth))
                supervisor.kill()
                supervisor.wait()
        for pid, birth in self._workers:
            if born(pid) == birth:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
