"""The drivers' side of the conversation: one JSON object a line, on stdin and stdout.

Imports nothing but the standard library and uvloop: it runs in the environment of a peer. A driver
fills in `Peer` and ends with `main(ItsPeer())`. The process ends when its stdin does, so that none
outlives the benchmark.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version
from typing import Any

import uvloop

PROGRESS_EVERY = 0.005
"""Seconds between two looks at how many bodies have run."""
STOP_LIMIT = 20.0


class Ledger:
    """What ran in this worker: the number of each task, in the order of their bodies."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.times: list[int] = []
        self.began = 0
        self.stamps = False

    def note(self, number: int) -> None:
        """A body begins. All that a task of the benchmark does."""
        if self.stamps:
            self.times.append(time.monotonic_ns())
        elif not self.numbers:
            self.began = time.monotonic_ns()
        self.numbers.append(number)


LEDGER = Ledger()


class Peer:
    """One queue, as its authors advise to use it for throughput."""

    distributions: Sequence[str] = ()
    """Whose versions are reported."""
    settings: str = ""
    """What is not the default, for people."""
    drain = 10_000
    """Tasks of a drain: some seconds of work."""
    many = 50_000
    chunk = 1_000
    """Tasks of one bulk call."""
    cannot: dict[str, str] = {}  # noqa: RUF012
    """Scenario to reason."""
    waiting = ""
    """SQL: how many tasks are there to be run."""
    idle = ""
    """SQL: whether nothing is unfinished. $1, where it is used, is how many tasks there are."""
    finished = ""
    """SQL: how many tasks are recorded as done. Empty: the peer keeps no record."""
    ring = ""
    """SQL that is sent when the workers are released. Empty: they find the tasks themselves."""

    async def install(self, url: str) -> None:
        """Make the tables in an empty database."""

    async def open(self, url: str, *, results: bool) -> None:
        """Become a producer. `results`: somebody will wait for results."""

    async def one(self, number: int) -> None:
        """Enqueue one task, and return when it is committed."""

    async def bulk(self, numbers: range) -> None:
        """Enqueue many, in the peer's own way."""

    async def trip(self, number: int) -> Any:
        """Enqueue one task, and return when its outcome is known: the result, or None."""

    async def prepare(self, url: str, *, results: bool) -> None:
        """Become a worker: all but taking tasks."""

    async def work(self) -> None:
        """Take tasks from now on. Returns soon."""

    async def stop(self) -> None:
        """Finish what was begun."""


class Background:
    """A worker's own loop, which runs until it is told to end."""

    def __init__(self, loop: Coroutine[Any, Any, Any]) -> None:
        self._task = asyncio.ensure_future(loop)
        self._task.add_done_callback(self._ended)
        self._expected = False

    def _ended(self, task: asyncio.Future[Any]) -> None:
        if not self._expected and not task.cancelled() and task.exception() is not None:
            traceback.print_exception(task.exception())

    async def end(self, request: Callable[[], Any] | None = None) -> None:
        """Ask it to end, or cancel it where there is no way to ask."""
        self._expected = True
        if request is None:
            self._task.cancel()
        else:
            request()
        await asyncio.wait([self._task])


def main(peer: Peer) -> None:
    """Answer until stdin ends."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    # What the peer prints must not end up between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    uvloop.run(_serve(peer, say))
    answers.flush()
    os._exit(0)  # some peers leave threads behind


async def _serve(peer: Peer, say: Callable[[dict[str, Any]], None]) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    answering = Answers(peer, say)
    while line := await reader.readline():
        request = json.loads(line)
        try:
            say({"answer": await getattr(answering, request.pop("do"))(**request)})
        except Exception as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines()
            said = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
            say({"error": said})


class Answers:
    """What a driver can be asked for: its methods, by name."""

    def __init__(self, peer: Peer, say: Callable[[dict[str, Any]], None]) -> None:
        self._peer = peer
        self._say = say
        self._progress: asyncio.Task[None] | None = None

    async def hello(self) -> dict[str, Any]:
        """What the peer is."""
        peer = self._peer
        names = ("settings", "drain", "many", "chunk", "cannot", "waiting", "idle", "finished",
                 "ring")  # fmt: skip
        return {
            **{name: getattr(peer, name) for name in names},
            "versions": {name: version(name) for name in peer.distributions},
            "python": ".".join(str(part) for part in sys.version_info[:3]),
        }

    async def install(self, url: str) -> None:
        """Make the tables."""
        await self._peer.install(url)

    async def open(self, url: str, results: bool) -> None:
        """Become a producer."""
        await self._peer.open(url, results=results)

    async def fill(self, count: int) -> float:
        """Enqueue the numbers from 0 on in bulk; the seconds that it took."""
        peer = self._peer
        began = time.perf_counter()
        for start in range(0, count, peer.chunk):
            await peer.bulk(range(start, min(count, start + peer.chunk)))
        return time.perf_counter() - began

    async def singly(self, count: int) -> float:
        """Enqueue one after the other; the seconds that it took. One more goes before the rest."""
        await self._peer.one(-1)
        began = time.perf_counter()
        for number in range(count):
            await self._peer.one(number)
        return time.perf_counter() - began

    async def paced(self, count: int, pause: float, warm_up: int) -> list[int]:
        """Enqueue one every so often; when each call began. Negative numbers warm up before."""
        called = []
        next_at = time.monotonic()
        for number in range(-warm_up, count):
            next_at += pause
            await asyncio.sleep(next_at - time.monotonic())
            if number >= 0:
                called.append(time.monotonic_ns())
            await self._peer.one(number)
        return called

    async def trips(self, count: int, pause: float, seconds: float) -> list[float]:
        """Enqueue and wait, again and again, but no longer than so; milliseconds of each."""
        for _ in range(2):
            await asyncio.wait_for(self._peer.trip(0), 30)
        taken: list[float] = []
        until = time.monotonic() + seconds
        while len(taken) < count and time.monotonic() < until:
            number = len(taken)
            began = time.monotonic_ns()
            result = await asyncio.wait_for(self._peer.trip(number), 30)
            taken.append((time.monotonic_ns() - began) / 1e6)
            if result not in (None, number):
                raise RuntimeError(f"Task {number} returned {result}.")
            await asyncio.sleep(pause)
        return taken

    async def prepare(self, url: str, results: bool, stamps: bool) -> None:
        """Become a worker, held."""
        LEDGER.stamps = stamps
        await self._peer.prepare(url, results=results)

    async def work(self) -> None:
        """The gate opens."""
        self._progress = asyncio.ensure_future(self._tell())
        await self._peer.work()

    async def _tell(self) -> None:
        told = 0
        while True:
            await asyncio.sleep(PROGRESS_EVERY)
            if (ran := len(LEDGER.numbers)) != told:
                told = ran
                self._say({"ran": told})

    async def stop(self) -> dict[str, Any]:
        """Stop working; what ran."""
        if self._progress is not None:
            self._progress.cancel()
        stopping = asyncio.ensure_future(self._peer.stop())
        _, late = await asyncio.wait([stopping], timeout=STOP_LIMIT)
        if not late:
            with contextlib.suppress(asyncio.CancelledError):
                stopping.result()
        return {
            "numbers": LEDGER.numbers,
            "times": LEDGER.times,
            "began": LEDGER.began,
            "stopped": not late,
        }
