"""`run`: exit codes, what is printed, signals to a real supervisor process, and its death."""

from __future__ import annotations

import json
import logging
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import wait_until
from stage import COMMAND, FAKE_WORKER

from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.logs import CommandHandler
from fastedgy.supervisor import SupervisorOptions, run

OPTIONS = SupervisorOptions(workers=2, concurrency=2)
NOBODY = "postgresql://postgres@127.0.0.1:1/nowhere"


@pytest.fixture(autouse=True)
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAKE_WORKERS", str(tmp_path))
    return tmp_path


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in [one for one in root.handlers if isinstance(one, CommandHandler)]:
        root.removeHandler(handler)


@pytest.mark.usefixtures("logging_restored")
class TestStart:
    def test_without_a_database_it_says_so_in_one_line(
        self, capsys: pytest.CaptureFixture[str], fakes: Path
    ) -> None:
        code = run(OPTIONS, Settings(database_url=NOBODY), QueuedTaskConfig(), command=COMMAND)
        assert code == 1
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("Error: ")
        assert "127.0.0.1" in line
        assert list(fakes.iterdir()) == [], "no worker was started"

    def test_a_worker_that_refuses_is_quoted_in_one_line(
        self,
        server_url: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("FAKE_START", "refuse No app in main.py. Use --app.")
        code = run(OPTIONS, Settings(database_url=server_url), QueuedTaskConfig(), command=COMMAND)
        assert code == 1
        assert capsys.readouterr().err == "Error: No app in main.py. Use --app.\n"

    def test_with_json_logs_the_reason_is_json_too(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = SupervisorOptions(workers=1, concurrency=1, log_format="json")
        assert run(options, Settings(database_url=NOBODY), QueuedTaskConfig()) == 1
        line = json.loads(capsys.readouterr().err)
        assert (line["level"], line["logger"]) == ("error", "fastedgy.supervisor")


class SupervisorProcess:
    """`supervise_fakes.py` as a process, and its fake workers."""

    def __init__(self, url: str, fakes: Path, stdin: int = subprocess.DEVNULL) -> None:
        self.fakes = fakes
        self.errors = fakes / "stderr"
        script = FAKE_WORKER.with_name("supervise_fakes.py")
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(script), url, "2"],
                stdin=stdin,
                stderr=errors,
                start_new_session=True,
            )

    def events(self, message: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.errors.read_text().splitlines()]
        return [line for line in lines if line["message"] == message]

    def workers(self) -> list[int]:
        """The pids of two ready workers, once they are."""

        def check() -> list[int]:
            ready = self.events("worker ready")
            assert len(ready) == 2, self.errors.read_text()
            return [int(line["pid"]) for line in ready]

        return wait_until(check)

    def diaries(self, pids: list[int]) -> list[str]:
        return [(self.fakes / f"{pid}.diary").read_text().splitlines()[-1] for pid in pids]


@pytest.fixture
def processes() -> Iterator[list[SupervisorProcess]]:
    started: list[SupervisorProcess] = []
    yield started
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()


class TestProcess:
    def test_it_exits_with_zero_after_a_drain(
        self, database_url: str, fakes: Path, processes: list[SupervisorProcess]
    ) -> None:
        one = SupervisorProcess(database_url, fakes)
        processes.append(one)
        pids = one.workers()
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(timeout=30) == 0
        assert one.diaries(pids) == ["SIGTERM", "SIGTERM"]
        assert len(one.events("supervisor stopped")) == 1
        assert one.events("end of worker not reported") == []

    def test_its_workers_notice_when_it_is_killed(
        self, server_url: str, fakes: Path, processes: list[SupervisorProcess]
    ) -> None:
        one = SupervisorProcess(server_url, fakes)
        processes.append(one)
        pids = one.workers()
        one.process.kill()

        def gone() -> None:
            assert one.diaries(pids) == ["supervisor is gone"] * 2

        wait_until(gone)

    def test_a_closed_terminal_drains_it_instead_of_renewing_the_workers(
        self, database_url: str, fakes: Path, processes: list[SupervisorProcess]
    ) -> None:
        terminal, inside = pty.openpty()
        try:
            one = SupervisorProcess(database_url, fakes, stdin=inside)
        finally:
            os.close(inside)
        processes.append(one)
        pids = one.workers()
        os.close(terminal)
        one.process.send_signal(signal.SIGHUP)
        assert one.process.wait(timeout=30) == 0
        assert one.diaries(pids) == ["SIGTERM", "SIGTERM"]
