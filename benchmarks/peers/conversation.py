"""Our side of the conversation with a peer's driver (drivers/wire.py is the other)."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import PeerPackage

ANSWER_LIMIT = 120.0
"""Seconds for an answer, where the question does not say otherwise."""
END_LIMIT = 5.0
LINE = 64 * 2**20
"""The longest answer: the numbers of all tasks that ran."""
TAIL = 1_500


class PeerFailed(Exception):
    """A peer could not do what was asked of it: the reason, in one line."""


@dataclass(slots=True)
class PeerQueue:
    """A peer that can be measured: what its driver says of it."""

    package: PeerPackage
    python: Path
    facts: dict[str, Any] = field(default_factory=dict)
    template: str = ""

    @property
    def version(self) -> str:
        """Of the peer itself."""
        return str(next(iter(self.facts["versions"].values())))


class Driver:
    """A running driver."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())
        self.ran = 0
        """How many bodies have begun there, as of some milliseconds ago."""

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            if "ran" in said:
                self.ran = said["ran"]
            else:
                self._answers.put_nowait(said)
        self._answers.put_nowait({"error": f"its process ended. {self._tail()}"})

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace")[-TAIL:].strip().splitlines()
        return lines[-1] if lines else "It said nothing"

    def check(self) -> None:
        """Raise PeerFailed when it has ended."""
        if self._process.returncode is not None:
            raise PeerFailed(f"its process ended: {self._process.returncode}. {self._tail()}")

    def send(self, do: str, **parameters: Any) -> None:
        """Ask for something, without waiting for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **parameters}).encode() + b"\n")

    async def answer(self, do: str, within: float = ANSWER_LIMIT) -> Any:
        """The answer to what was asked first and is not answered yet. Raises PeerFailed."""
        try:
            said = await asyncio.wait_for(self._answers.get(), within)
        except TimeoutError:
            raise PeerFailed(f"`{do}` did not end within {within:g} s") from None
        if "error" in said:
            raise PeerFailed(f"`{do}`: {said['error']}")
        return said["answer"]

    async def ask(self, do: str, within: float = ANSWER_LIMIT, **parameters: Any) -> Any:
        """Ask, and wait for the answer. Raises PeerFailed."""
        self.send(do, **parameters)
        return await self.answer(do, within)

    async def end(self) -> None:
        """Its stdin ends, and so should it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), END_LIMIT)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await asyncio.wait([self._reading], timeout=END_LIMIT)
        self._reading.cancel()


@asynccontextmanager
async def driver(peer: PeerQueue) -> AsyncIterator[Driver]:
    """A process of the peer's, gone at the end."""
    handle, name = tempfile.mkstemp(prefix=f"benchmarks-{peer.package.name}-", suffix=".log")
    log = Path(name)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        process = await asyncio.create_subprocess_exec(
            str(peer.python), str(peer.package.driver), stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=handle, limit=LINE, env=environ,
            cwd=tempfile.gettempdir(),
        )  # fmt: skip
        running = Driver(process, log)
        try:
            yield running
        finally:
            await asyncio.shield(running.end())
    finally:
        os.close(handle)
        log.unlink(missing_ok=True)
