"""The processes that `fastedgy demo` starts: other commands of `fastedgy`, and requests to them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastedgy.cli.context import one_line
from fastedgy.errors import FastEdgyError

PATIENCE = 10.0  # seconds for an orderly end, and again for a hurried one, before it is forced


def environment(url: str) -> dict[str, str]:
    """The environment of the processes: ours, and what keeps them from an existing queue's tasks.

    Any worker takes over the tasks of silent workers and prunes old tasks, whatever their queue. An
    application may have set longer times for that in its code, so these never do.
    """
    return {
        **os.environ,
        "DATABASE_URL": url,
        "QUEUE_LEASE": "86400",
        "QUEUE_RETENTION_DAYS": "36500",
        "LOG_FORMAT": "text",
        "LOG_LEVEL": "info",
    }


class Process:
    """A command of `fastedgy` that runs beside us and writes to a file.

    It has a session of its own, so that Ctrl-C in the terminal reaches us only.
    """

    def __init__(self, name: str, words: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "fastedgy", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
            )
        self.pid = self._popen.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        self._popen.send_signal(number)

    async def ended(self, *, within: float) -> None:
        """Return when it has ended, or when so many seconds have passed."""
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._popen.wait, within)

    def last_words(self) -> str:
        """The error that it ended with, as far as it said one."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("Error: ")]
        return one_line((errors or lines or ["it said nothing"])[-1].removeprefix("Error: "))


class Processes:
    """All that the demo has started."""

    def __init__(self, folder: Path, env: Mapping[str, str], *, say: Callable[[str], None]) -> None:
        """`folder` takes what they write, `say` what is to be said of their end."""
        self._folder = folder
        self._env = env
        self._say = say
        self._all: list[Process] = []

    def start(self, name: str, *words: str) -> Process:
        """Start `fastedgy WORDS`. `name` is what errors call it."""
        process = Process(name, words, self._folder / f"{name}.log", self._env)
        self._all.append(process)
        return process

    def check(self) -> None:
        """Raise FastEdgyError if one of them has ended by itself."""
        for process in self._all:
            if not process.runs:
                raise FastEdgyError(f"The {process.name} ended: {process.last_words()}")

    async def stop(self) -> None:
        """End them all: in order, else in a hurry, else by force."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            left = [process for process in self._all if process.runs]
            for process in left:
                process.signal(number)
            await asyncio.gather(*(process.ended(within=PATIENCE) for process in left))
        for process in self._all:
            if process.runs:
                self._say(f"The {process.name} does not end: process {process.pid}.")

    def kill(self) -> None:
        """End them by force. Workers end with their supervisor."""
        for process in self._all:
            process.signal(signal.SIGKILL)


async def ask(url: str, *, method: str = "GET") -> Any:
    """The JSON that a server on this machine answers. Raises FastEdgyError when it does not."""
    return await asyncio.to_thread(_ask, url, method)


def _ask(url: str, method: str) -> Any:
    # Not through a proxy: the server is here.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, method=method), timeout=30) as response:
            return json.load(response)
    except (OSError, ValueError) as error:
        with suppress(AttributeError):
            error.close()  # type: ignore[union-attr] # an answer that tells of an error
        raise FastEdgyError(f"{method} {url} failed: {one_line(error)}.") from error
