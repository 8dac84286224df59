"""`fastedgy demo` as a process: what it does and says, how it is interrupted, what it leaves."""

from __future__ import annotations

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from helpers import run, wait_until

from fastedgy.cli.demo_page import command_name, measure
from fastedgy.database import connect
from fastedgy.demo import tasks as example
from fastedgy.embedded import server
from fastedgy.embedded.probe import is_running
from fastedgy.queued_task import TaskContext
from fastedgy.store.find import TaskRow

WORDS = [
    "tasks", "done", "failed", "seconds", "tasks_per_second", "pickup_ms_p50", "pickup_ms_p95",
    "report",
]  # fmt: skip


class Demo:
    """A process of `fastedgy demo`, whose output goes to files, so that nothing waits for us."""

    def __init__(self, folder: Path, url: str | None, *words: str) -> None:
        self.url = url
        self._files = folder / "stdout", folder / "stderr"
        given = {"DATABASE_URL": url} if url else {}
        with self._files[0].open("w") as out, self._files[1].open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fastedgy", "demo", *words],
                cwd=folder,
                env={**os.environ, "TMPDIR": str(folder), **given},
                stdout=out,
                stderr=err,
            )

    @property
    def out(self) -> str:
        return self._files[0].read_text()

    @property
    def err(self) -> str:
        return self._files[1].read_text()

    def end(self, number: signal.Signals | None = None) -> int:
        """Wait for the end, after a signal if one is given; the exit code."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(timeout=100)

    def error(self) -> str:
        """The one line that it fails with."""
        assert self.end() == 1
        assert self.out == ""
        [line] = self.err.splitlines()
        return line

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """What a statement finds in the database of the demo."""

        async def fetch() -> list[Any]:
            assert self.url is not None
            connection = await connect(self.url)
            try:
                return list(await connection.fetch(statement, *values))
            finally:
                await connection.close()

        return run(fetch())

    def pids(self) -> set[int]:
        """The process itself, and all that descend from it."""
        children: dict[int, list[int]] = {}
        listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True)
        for line in listed.stdout.splitlines():
            pid, parent = map(int, line.split())
            children.setdefault(parent, []).append(pid)
        found, todo = set(), [self.process.pid]
        while todo:
            found.add(pid := todo.pop())
            todo += children.get(pid, [])
        return found

    def tasks_are(self, state: str, least: int) -> None:
        """Check that so many tasks of the demo are in a state."""
        [row] = self.rows(
            "SELECT count(*) AS tasks FROM queued_tasks WHERE queue = 'demo' AND state = $1", state
        )
        assert row["tasks"] >= least


def all_ended(pids: set[int]) -> None:
    assert [pid for pid in pids if is_running(pid)] == []


Start = Callable[..., Demo]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a demo. What the test has not ended is killed after it."""
    started: list[Demo] = []

    def begin(url: str | None, *words: str) -> Demo:
        started.append(Demo(tmp_path, url, *words))
        return started[-1]

    yield begin
    for demo in started:
        for pid in demo.pids() if demo.process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
        demo.process.wait()


# -- The whole of it -------------------------------------------------------------------------------

STRANGERS = """
INSERT INTO queued_tasks (id, name, function, queue, state, worker_id, date_started, date_enqueued,
                          date_created, date_ended)
VALUES ('00000000-0000-7000-8000-000000000001', 'mail', 'shop:mail', 'default', 'enqueued',
        NULL, NULL, now() - interval '1 day', now() - interval '1 day', NULL),
       ('00000000-0000-7000-8000-000000000002', 'mail', 'shop:mail', 'mail', 'doing',
        '00000000-0000-7000-8000-000000000009', now() - interval '1 hour', now(), now(), NULL),
       ('00000000-0000-7000-8000-000000000003', 'mail', 'shop:mail', 'mail', 'done',
        NULL, now() - interval '1 year', now() - interval '1 year', now() - interval '1 year',
        now() - interval '1 year')
"""
SLOW_WORKER = """
INSERT INTO queued_task_workers (id, server_name, pid, concurrency, version, last_heartbeat)
VALUES ('00000000-0000-7000-8000-000000000009', 'elsewhere', 1, 1, '1', now() - interval '10 min')
"""
LOOK_AT_STRANGERS = "SELECT * FROM queued_tasks WHERE name = 'mail' ORDER BY id"


def test_every_task_is_done_though_a_worker_is_killed_in_the_middle(
    start: Start, database_url: str, tmp_path: Path
) -> None:
    demo = start(database_url, "--json")
    demo.rows(STRANGERS)
    demo.rows(SLOW_WORKER)
    strangers = demo.rows(LOOK_AT_STRANGERS)

    wait_until(lambda: demo.tasks_are("done", 20))
    pids = demo.pids()
    victim, held = wait_until(lambda: stopped_at_work(demo))
    assert victim in pids
    os.kill(victim, signal.SIGKILL)

    assert demo.end() == 0, demo.err
    result = json.loads(demo.out)
    assert list(result) == WORDS
    assert result["failed"] == 0
    assert result["done"] == result["tasks"] == result["report"]["modules"] + 2 > 300
    assert 0 < result["seconds"] < 100
    assert result["tasks_per_second"] == pytest.approx(result["done"] / result["seconds"], rel=0.01)
    assert 0 < result["pickup_ms_p50"] <= result["pickup_ms_p95"]
    assert result["report"]["lines"] > 100_000

    [lost] = demo.rows("SELECT * FROM queued_task_workers WHERE pid = $1", victim)
    assert lost["state"] == "lost"
    again = demo.rows("SELECT run FROM queued_tasks WHERE id = ANY ($1) ORDER BY run DESC", held)
    assert again[0]["run"] > 1
    # What else is in the database is as it was; and nothing is left behind but the report.
    assert demo.rows(LOOK_AT_STRANGERS) == strangers
    all_ended(pids)
    report = Path(result["report"]["file"])
    assert "Python's standard library" in report.read_text()
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [report.parent]


def stopped_at_work(demo: Demo) -> tuple[int, list[UUID]]:
    """Freeze a worker while it has tasks; its pid, and their ids."""
    busy = demo.rows(
        "SELECT id, pid FROM queued_task_workers WHERE queues = '{demo}' AND id IN"
        " (SELECT worker_id FROM queued_tasks WHERE state = 'doing')"
    )
    assert busy
    worker = busy[0]
    os.kill(worker["pid"], signal.SIGSTOP)
    for _ in range(2):  # what was under way when it was frozen is over at the second look
        held = demo.rows(
            "SELECT id FROM queued_tasks WHERE state = 'doing' AND worker_id = $1", worker["id"]
        )
    if not held:
        os.kill(worker["pid"], signal.SIGCONT)
    assert held
    return worker["pid"], [task["id"] for task in held]


def test_with_keep_everything_goes_on_and_the_last_lines_say_how_to_use_and_stop_it(
    start: Start, empty_database_url: str, tmp_path: Path
) -> None:
    demo = start(empty_database_url, "--keep")
    assert demo.end() == 0, demo.err
    assert demo.err == ""
    for line in ("All well: ", "Most imported", "The report: ", "done  ", "Pick-up     p50 "):
        assert line in demo.out
    lines = [line.strip() for line in demo.out.splitlines()]
    [stop] = [line.split()[-2:] for line in lines if line.startswith("Stop them:")]
    pids = {int(pid) for pid in stop}
    try:
        assert all(is_running(pid) for pid in pids)
        [curl] = [line.split()[-1] for line in lines if line.startswith("curl -X POST")]
        with urllib.request.urlopen(urllib.request.Request(curl, method="POST")) as response:
            assert response.status == 202
            task = json.load(response)["task"]

        def is_picked_up() -> None:
            with urllib.request.urlopen(f"{curl}/{task}") as response:
                assert json.load(response)["context"] == {"files": len(example.source_files())}

        wait_until(is_picked_up)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
    wait_until(lambda: all_ended(pids))


def test_a_signal_stops_all_that_was_started_and_leaves_no_task_to_run(
    start: Start, database_url: str
) -> None:
    demo = start(database_url)
    wait_until(lambda: demo.tasks_are("done", 5))
    pids = demo.pids()
    assert len(pids) >= 5  # the demo, the server, the supervisor and two workers
    assert demo.end(signal.SIGINT) == 128 + signal.SIGINT
    assert demo.err == "Stopped.\n"
    all_ended(pids)
    states = {row["state"] for row in demo.rows("SELECT DISTINCT state FROM queued_tasks")}
    assert states == {"done", "cancelled"}


def test_without_a_database_url_the_embedded_server_is_of_the_folder_and_ends_with_the_demo(
    start: Start, tmp_path: Path
) -> None:
    embedded = server(tmp_path / ".fastedgy")
    demo = start(None)
    wait_until(lambda: "Server" in demo.out or _fail(demo.err))
    pids = demo.pids()
    assert embedded.status().running
    assert demo.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert demo.out.startswith(f"Database  embedded Postgres in {tmp_path}")
    all_ended(pids)
    assert not embedded.status().running


def _fail(text: str) -> None:
    raise AssertionError(text)


# -- What goes wrong -------------------------------------------------------------------------------


def test_a_port_in_use_is_one_line(start: Start, database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = start(database_url, "--port", str(port)).error()
    assert line.startswith(f"Error: Cannot listen at 127.0.0.1 port {port}: Address already in use")


def test_a_database_that_is_not_there_is_one_line(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    line = start(f"postgresql://me:secret@127.0.0.1:{port}/shop").error()
    assert "is not reachable: connection refused" in line
    assert "secret" not in line


def test_a_setting_that_makes_no_sense_is_one_line(
    start: Start, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUE_HEARTBEAT", "often")
    assert "QUEUE_HEARTBEAT='often' makes no sense" in start(database_url).error()


def test_a_database_with_tables_of_other_names_is_left_alone(
    start: Start, database_url: str
) -> None:
    demo = start(database_url, "--json")
    os.kill(demo.process.pid, signal.SIGSTOP)
    demo.rows("ALTER TABLE queued_tasks RENAME TO jobs")
    os.kill(demo.process.pid, signal.SIGCONT)
    line = demo.error()
    assert line.startswith("Error: The demo cannot use this database: The table 'queued_tasks'")


# -- Its parts -------------------------------------------------------------------------------------


def test_a_module_is_counted_and_what_is_found_is_in_its_context() -> None:
    with TaskContext() as run:
        module = example.index_module(ast.__file__)
    assert module.name == "ast"
    assert module.lines > 500
    assert module.functions > 50
    assert module.classes > 5
    assert {"sys", "enum"} < set(module.imports)
    assert run.context["module"] == "ast"


def test_a_file_that_cannot_be_parsed_is_logged_and_costs_the_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "LIBRARY", tmp_path)
    (tmp_path / "old.py").write_text("print 'hello'\n")
    with TaskContext() as run:
        module = example.index_module(str(tmp_path / "old.py"))
    assert module == example.Module("old", lines=1)
    assert len(run.logs) == 1


def test_tests_and_installed_packages_are_no_part_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "LIBRARY", tmp_path)
    for name in ("json/__init__.py", "site-packages/a.py", "json/tests/b.py", "ast.py", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [example.name_of(file) for file in example.source_files()] == ["ast", "json"]


def test_the_report_adds_up_and_ranks() -> None:
    modules = [
        example.Module("a", 10, 1, 1, ["os"]),
        example.Module("b", 30, 2, 0, ["os", "sys"]),
    ]
    report = example.summary(modules)
    assert (report["modules"], report["lines"], report["functions"]) == (2, 40, 3)
    assert report["biggest"][0] == {"module": "b", "lines": 30}
    assert report["most_imported"][0] == {"module": "os", "importers": 2}
    assert "| b | 30 |" in example.as_markdown(report)


def row(number: int, state: str = "done", *, pickup: float | None = 1.0) -> TaskRow:
    begun = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
    started = None if pickup is None else begun + timedelta(seconds=pickup)
    ended = None if started is None else started + timedelta(seconds=1)
    return TaskRow(UUID(int=number), "t", state, "demo", 0, 1, begun, started, ended)


def test_the_numbers_are_those_of_the_rows() -> None:
    tasks = [row(number, pickup=number / 100) for number in range(1, 101)]
    measured = measure([*tasks, row(101, "cancelled", pickup=None)], None).as_json()
    assert measured["tasks"] == 101
    assert measured["done"] == 100
    assert measured["failed"] == 0
    assert measured["seconds"] == 2.0
    assert measured["tasks_per_second"] == 50.0
    assert measured["pickup_ms_p50"] == pytest.approx(500, abs=10)
    assert measured["pickup_ms_p95"] == pytest.approx(950, abs=10)


def test_a_run_without_any_start_has_no_latency() -> None:
    measured = measure([row(1, "failed", pickup=None)], None).as_json()
    assert (measured["failed"], measured["pickup_ms_p50"], measured["tasks_per_second"]) == (
        1,
        None,
        0,
    )


def test_the_command_to_go_on_with_is_the_one_that_was_typed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", [".venv/bin/fastedgy"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command_name() == ".venv/bin/fastedgy"
    (tmp_path / "fastedgy").touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "fastedgy")])
    assert command_name() == "fastedgy"
    monkeypatch.setattr(sys, "argv", ["/somewhere/fastedgy/__main__.py"])
    assert command_name() == f"{sys.executable} -m fastedgy"
