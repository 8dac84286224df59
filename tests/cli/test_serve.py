"""`fastedgy serve` as a process: what it serves, how it ends, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import wait_until

from fastedgy.cli.serve import Pool, listen, pool_command, stopped_at_the_end
from fastedgy.errors import ConfigurationError

MAIN = """
from contextlib import asynccontextmanager
from fastapi import Request
from fastedgy import FastEdgy
from fastedgy.dependencies import Inject
from fastedgy.queued_tasks import QueuedTasks

@asynccontextmanager
async def lifespan(app):
    yield {"greeting": "hello"}
    print("closed", flush=True)

app = FastEdgy(lifespan=lifespan)

def double(number: int) -> int:
    return 2 * number

@app.get("/")
async def read(request: Request) -> str:
    return request.state.greeting

@app.get("/double/{number}")
async def doubled(number: int, tasks: QueuedTasks = Inject(QueuedTasks)) -> str:
    return str(tasks.add_task(double, number).id)

@app.get("/state/{id}")
async def state(id: str, tasks: QueuedTasks = Inject(QueuedTasks)) -> str:
    return await tasks.ref(id).get_state()
"""


class Serving:
    """A process of `fastedgy serve`, whose output goes to files, so that nothing waits for us."""

    def __init__(self, project: Path, environment: dict[str, str], *arguments: str) -> None:
        self._files = project / "stdout", project / "stderr"
        with self._files[0].open("w") as out, self._files[1].open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fastedgy", "serve", *arguments],
                cwd=project,
                env={**os.environ, **environment},
                stdout=out,
                stderr=err,
            )

    @property
    def out(self) -> str:
        return self._files[0].read_text()

    @property
    def err(self) -> str:
        return self._files[1].read_text()

    def says(self, words: str) -> None:
        assert words in self.err

    def end(self, number: signal.Signals | None = None) -> int:
        """Wait for the end, after a signal if one is given; the exit code."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def error(self) -> str:
        """The one line that it fails with."""
        assert self.end() == 1, self.err
        assert self.out == ""
        [line] = self.err.splitlines()
        return line


Start = Callable[..., Serving]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "main.py").write_text(MAIN)
    return tmp_path


@pytest.fixture
def start(project: Path, database_url: str) -> Iterator[Start]:
    """Starts `fastedgy serve` in the project; at the end it is gone."""
    started: list[Serving] = []

    def start(*arguments: str, **environment: str) -> Serving:
        started.append(Serving(project, {"DATABASE_URL": database_url, **environment}, *arguments))
        return started[-1]

    yield start
    for serving in started:
        if serving.process.poll() is None:
            serving.end(signal.SIGTERM)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str = "/") -> Any:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
            return json.load(response)
    except OSError as error:
        raise AssertionError(error) from error


def test_it_serves_and_ends_well_on_sigterm(start: Start, port: int) -> None:
    serving = start("--port", str(port))
    assert wait_until(lambda: get(port)) == "hello"

    assert serving.end(signal.SIGTERM) == 0
    assert "closed" in serving.out
    assert f"Serving at http://127.0.0.1:{port}" in serving.err
    assert "Traceback" not in serving.err


def test_with_workers_tasks_are_done_and_ctrl_c_ends_both(start: Start, port: int) -> None:
    serving = start("--port", str(port), "--workers", "1")
    id = wait_until(lambda: get(port, "/double/4"))

    def done() -> None:
        assert get(port, f"/state/{id}") == "done"

    wait_until(done)

    assert serving.end(signal.SIGINT) == 0
    assert "supervisor stopped" in serving.err
    assert "Traceback" not in serving.err


def test_without_http_it_is_the_pool_of_workers(start: Start) -> None:
    serving = start("--no-http", "--workers", "1", LOG_FORMAT="json")
    wait_until(lambda: serving.says("worker ready"))

    assert serving.end(signal.SIGTERM) == 0


def test_with_reload_a_changed_file_is_served_anew(start: Start, port: int, project: Path) -> None:
    start("--port", str(port), "--reload")
    assert wait_until(lambda: get(port)) == "hello"

    (project / "main.py").write_text(MAIN.replace("hello", "good morning"))

    def changed() -> None:
        assert get(port) == "good morning"

    wait_until(changed)


def test_a_database_that_is_away_is_one_line(start: Start, port: int) -> None:
    serving = start("--port", str(port), DATABASE_URL="postgresql://u:secret@127.0.0.1:1/none")

    line = serving.error()
    assert line.startswith("Error: The database none at 127.0.0.1:1 ")
    assert "connection refused" in line
    assert "secret" not in line


def test_missing_tables_are_one_line(start: Start, port: int, empty_database_url: str) -> None:
    serving = start("--port", str(port), DATABASE_URL=empty_database_url)

    assert serving.error().startswith("Error: The queue's tables are not in this database.")


def test_a_port_in_use_is_one_line(start: Start, port: int) -> None:
    with listen("127.0.0.1", port):
        line = start("--port", str(port)).error()

    assert line.startswith(f"Error: Cannot listen at 127.0.0.1 port {port}: Address already in use")


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--app", "nowhere:app"], {}, "there is no module nowhere"),
        (["--app", "main:double"], {}, "missing a required argument: 'number'"),
        (["--host", "no.such.host.invalid"], {}, "Cannot listen at no.such.host.invalid port"),
        (["--no-http", "--workers", "0"], {}, "leaves nothing to do"),
        ([], {"QUEUE_LEASE": "1"}, "QUEUE_LEASE"),
        ([], {"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
    ],
)
def test_nonsense_is_one_line(
    start: Start, port: int, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    assert message in start("--port", str(port), *arguments, **environment).error()


def test_a_fault_in_the_users_lifespan_shows_its_traceback(
    start: Start, port: int, project: Path
) -> None:
    (project / "main.py").write_text(MAIN.replace("    yield {", "    1 / 0\n    yield {"))
    serving = start("--port", str(port))

    assert serving.end() == 3
    assert "ZeroDivisionError" in serving.err
    assert "Started server process" in serving.err
    assert "Application startup failed" in serving.err


def test_the_command_of_the_pool_names_the_application() -> None:
    assert pool_command("main:app", 2, reload=True)[1:] == [
        "-m", "fastedgy", "queue", "start", "--app", "main:app", "--workers", "2", "--reload",
    ]  # fmt: skip


class FakeServer:
    should_exit = False


def test_a_pool_that_ends_by_itself_ends_the_server_with_an_error() -> None:
    pool = Pool([sys.executable, "-c", "raise SystemExit(7)"], patience=10)
    server = FakeServer()

    def ended() -> None:
        assert server.should_exit

    def serve() -> None:
        with stopped_at_the_end(pool) as started:
            started(server)  # type: ignore[arg-type]
            wait_until(ended)

    with pytest.raises(ConfigurationError, match=r"ended by themselves \(exit code 7\)"):
        serve()


def test_a_pool_that_was_told_to_end_leaves_the_server_running(
    capfd: pytest.CaptureFixture[str],
) -> None:
    pool = Pool([sys.executable, "-c", ""], patience=10)
    server = FakeServer()

    def said() -> None:
        assert "The server goes on without them." in capfd.readouterr().err

    with stopped_at_the_end(pool) as started:
        started(server)  # type: ignore[arg-type]
        wait_until(said)
        assert not server.should_exit


def test_a_pool_that_does_not_end_in_time_is_killed(capfd: pytest.CaptureFixture[str]) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('ready', flush=True); time.sleep(100)"
    )
    pool = Pool([sys.executable, "-c", stubborn], patience=0.2)
    with stopped_at_the_end(pool) as started:
        started(None)
        wait_until(lambda: said(capfd, "ready"))

    assert pool.process is not None
    assert pool.process.returncode == -signal.SIGKILL


def said(capfd: pytest.CaptureFixture[str], word: str) -> None:
    assert word in capfd.readouterr().out
