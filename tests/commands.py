"""Commands as people run them: `fastedgy …` in a folder, as processes of their own."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from helpers import PATIENCE, wait_until


def environment(**variables: str) -> dict[str, str]:
    """A clean environment in which `fastedgy` and `python` are those that run this test."""
    found = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    found["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    found["PYTHONUNBUFFERED"] = "1"
    return found | variables


def shell(script: str, cwd: Path, env: Mapping[str, str], within: float = PATIENCE) -> str:
    """Run lines of a shell to their end and return what they print. Fails with their errors."""
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=cwd,
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=within,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def free_port() -> int:
    """A TCP port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Background:
    """A command that runs until the block ends, and then is stopped as Ctrl-C would."""

    def __init__(self, command: str, cwd: Path, env: Mapping[str, str]) -> None:
        self.command = command
        self._output = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                shlex.split(command),
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )
        except OSError:
            self._output.close()
            raise

    def output(self) -> str:
        """All that it has printed so far."""
        return os.pread(self._output.fileno(), 10_000_000, 0).decode(errors="replace")

    def wait_for(self, text: str, within: float = PATIENCE, *, times: int = 1) -> None:
        """Wait until it has printed this text, so many times. Fails when it ends before."""

        def printed() -> None:
            output = self.output()
            enough = output.count(text) >= times
            if not enough and self._process.poll() is not None:
                raise RuntimeError(f"{self.command} ended:\n{output}")
            assert enough, f"{self.command} did not say {text!r}:\n{output}"

        wait_until(printed, within)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def stop(self, within: float = PATIENCE) -> int:
        """Ask it to end, wait for that, and return its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            raise AssertionError(f"{self.command} did not end:\n{self.output()}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            self._output.close()
