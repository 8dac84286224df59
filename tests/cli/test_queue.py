"""`fastedgy queue …` against real tables: what people see, what scripts get, what goes wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import pytest
from click.testing import CliRunner, Result
from helpers import run
from rich.console import Console
from rows import count_runs

from fastedgy.cli import options, output, root, tables, task_page
from fastedgy.cli.root import main
from fastedgy.config import QueuedTaskConfig
from fastedgy.database import connect
from fastedgy.store.counts import StateCounts
from fastedgy.store.details import Family, TaskDetails
from fastedgy.store.find import STATES, TaskRow

NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
ENDED = {"done", "failed", "cancelled"}
LISTED = {"id", "name", "state", "queue", "priority", "attempt", "date_enqueued", "date_started",
          "date_ended"}  # fmt: skip

Run = Callable[..., Result]
pytestmark = pytest.mark.usefixtures("empty_folder")


class Rows:
    """Writes rows as the engine would have left them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._tails = count(0xABC0_0000_0000)

    def execute(self, statement: str, *values: Any) -> None:
        async def write() -> None:
            connection = await connect(self.url)
            try:
                await connection.execute(statement, *values)
            finally:
                await connection.close()

        run(write())

    def insert(self, table: str, row: dict[str, Any]) -> None:
        names, places = ", ".join(row), ", ".join(f"${n}" for n in range(1, len(row) + 1))
        self.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", *row.values())

    def task(self, state: str = "enqueued", *, age: float = 0, **columns: Any) -> UUID:
        made = datetime.now(UTC) - timedelta(seconds=age)
        stamp = int(made.timestamp() * 1000) << 80
        row: dict[str, Any] = {
            "id": UUID(int=stamp | (7 << 76) | (2 << 62) | next(self._tails)),
            "state": state,
            "name": "send_email",
            "function": "app.mail:send_email",
            "date_created": made,
        }
        if state in {"enqueued", "doing"} | ENDED:
            row["date_enqueued"] = made
        if state in {"doing"} | ENDED:
            row |= {"date_started": made, "worker_id": UUID(int=1), "attempt": 1, "run": 1}
        if state in ENDED:
            row["date_ended"] = made + timedelta(seconds=0.5)
        if state == "scheduled":
            row["date_due"] = made + timedelta(hours=1)
        if state == "waiting":
            row["waiting_on"] = 1
        row |= columns
        self.insert("queued_tasks", row)
        task: UUID = row["id"]
        return task

    def link(self, parent: UUID, *children: UUID) -> None:
        for child in children:
            self.insert("queued_task_links", {"parent_id": parent, "child_id": child})
        self.execute("UPDATE queued_tasks SET has_children = true WHERE id = $1", parent)

    def worker(self, number: int = 1, *, silent: float = 0, **columns: Any) -> None:
        beat = datetime.now(UTC) - timedelta(seconds=silent)
        row = {"id": UUID(int=number), "server_name": "web-3", "pid": 1700 + number,
               "concurrency": 10, "version": "1", "last_heartbeat": beat}  # fmt: skip
        self.insert("queued_task_workers", row | columns)

    def count(self, *seconds: float, name: str = "send_email", failed: int = 0) -> None:
        async def write() -> None:
            connection = await connect(self.url)
            try:
                await count_runs(connection, *seconds, name=name, failed=failed)
            finally:
                await connection.close()

        run(write())

    def log(self, task: UUID, seq: int, message: str, **columns: Any) -> None:
        row = {"task_id": task, "run": 1, "seq": seq, "level": "info", "logger": "app.mail",
               "message": message, "logged_at": datetime.now(UTC)}  # fmt: skip
        self.insert("queued_task_logs", row | columns)


@pytest.fixture
def rows(database_url: str) -> Rows:
    return Rows(database_url)


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


# -- The command itself ----------------------------------------------------------------------------


def shell(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, its output a pipe."""
    return subprocess.run(
        [sys.executable, "-m", "fastedgy", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


def test_the_version_is_printed_without_importing_rich_or_fastapi() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fastedgy", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.startswith("fastedgy ")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"rich", "rich.console", "fastapi", "edgy", "asyncpg", "pydantic"}


def test_the_help_names_the_groups_that_are_there() -> None:
    result = CliRunner().invoke(main, ["--help"])

    assert result.exit_code == 0
    assert "Run workers, and see and steer the tasks." in result.output


def test_a_missing_group_breaks_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = root.Shipped("fastedgy.cli.no_such_module", "Not there.")
    monkeypatch.setitem(root.SHIPPED, "serve", missing)

    assert "Not there." not in CliRunner().invoke(main, ["--help"]).output
    assert CliRunner().invoke(main, ["serve"]).exit_code == 2
    assert CliRunner().invoke(main, ["queue", "--help"]).exit_code == 0


def test_a_mistyped_command_is_told_what_was_meant() -> None:
    assert "Did you mean 'queue'?" in CliRunner().invoke(main, ["queu"]).stderr
    assert "Did you mean 'servers'?" in CliRunner().invoke(main, ["queue", "server"]).stderr


def test_an_env_file_fills_in_what_the_environment_lacks(
    fastedgy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUE_LEASE", "60")  # restored after the test, as is the next
    monkeypatch.setenv("QUEUE_HEARTBEAT", "5")
    monkeypatch.delenv("QUEUE_HEARTBEAT")
    path = tmp_path / "my.env"
    path.write_text("QUEUE_HEARTBEAT=50\nQUEUE_LEASE=1000\n")

    result = fastedgy("--env-file", str(path), "queue", "status", code=1)

    assert "QUEUE_LEASE (60 s) must be at least three times QUEUE_HEARTBEAT (50 s)" in result.stderr
    assert fastedgy("--env-file", "no.env", "queue", "status", code=2)


def test_a_project_adds_commands_sync_and_async() -> None:
    from fastedgy.cli import CliContext, argument, command, group, pass_cli_context

    @command()
    @argument("name")
    @pass_cli_context
    async def greet(context: CliContext, name: str) -> None:
        click.echo(f"hello {name}, retries {context.config.max_retries}")

    @group()
    def reports() -> None:
        """Reports of this project."""

    @reports.command()
    async def daily() -> None:
        """Write today's."""
        click.echo("written")

    try:
        assert CliRunner().invoke(main, ["greet", "ann"]).output == "hello ann, retries 3\n"
        assert CliRunner().invoke(main, ["reports", "daily"]).output == "written\n"
        assert "Reports of this project." in CliRunner().invoke(main, ["--help"]).output
    finally:
        main.commands.pop("greet")
        main.commands.pop("reports")


def test_commands_of_the_application_are_found_by_importing_it(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        "from fastapi import FastAPI\n"
        "from fastedgy.cli import command, console\n"
        "app = FastAPI()\n"
        "print('imported')\n"
        "@command()\n"
        "def hello():\n"
        "    console.print('hello')\n"
    )

    done = shell("hello")

    assert (done.returncode, done.stdout) == (0, "hello\n")


def test_a_command_runs_within_the_lifespan_of_the_application(rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        "from fastedgy.app import FastEdgy\n"
        "from fastedgy.cli import CliContext, command, pass_cli_context\n"
        "from fastedgy.queued_tasks import QueuedTasks\n"
        "app = FastEdgy()\n"
        "@command()\n"
        "@pass_cli_context\n"
        "async def check(context: CliContext):\n"
        "    async with context.lifespan() as running:\n"
        "        print(running is app, context.has(QueuedTasks), context.has(str))\n"
        "        print(type(context.get(QueuedTasks)).__name__)\n"
    )

    done = shell("check", DATABASE_URL=rows.url)

    assert (done.returncode, done.stdout, done.stderr) == (
        0, "True True False\nQueuedTasks\n", "",
    )  # fmt: skip


def test_the_queue_can_be_seen_without_an_application_that_is_broken(
    rows: Rows, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text("print('here')\nimport no_such_module\n")

    seen = shell("queue", "list", "--json", DATABASE_URL=rows.url)
    unknown = shell("hello")

    assert (seen.returncode, json.loads(seen.stdout)) == (0, [])
    assert "Going on without the application" in seen.stderr
    assert unknown.returncode == 2
    assert unknown.stderr.count("Going on without the application") == 1


def test_rich_is_at_hand_for_a_projects_commands(capsys: pytest.CaptureFixture[str]) -> None:
    from fastedgy.cli import Panel, Table, console

    table = Table("Name")
    table.add_row("ann")
    console.print(table)

    assert "ann" in capsys.readouterr().out
    assert Panel("x").renderable == "x"


# -- What goes wrong -------------------------------------------------------------------------------


def test_a_database_that_is_down_is_one_line_without_the_password(tmp_path: Path) -> None:
    done = shell("queue", "status", DATABASE_URL="postgresql://ann:geheim@127.0.0.1:1/shop")

    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: ")
    assert "127.0.0.1:1" in done.stderr
    assert "geheim" not in done.stderr


def test_missing_migrations_name_the_command_that_applies_them(empty_database_url: str) -> None:
    for words in (["status"], ["list"], ["clear", "--yes"], ["show", "123456"]):
        result = CliRunner().invoke(
            main, ["queue", *words], env={"DATABASE_URL": empty_database_url}
        )
        assert result.exit_code == 1
        assert "fastedgy db migrate" in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"DATABASE_URL": "mysql://localhost/shop"}, "mysql"),
        ({"QUEUE_MAX_RETRIES": "many"}, "QUEUE_MAX_RETRIES='many' makes no sense"),
        ({"DATABASE_POOL_SIZE": "0"}, "DATABASE_POOL_SIZE='0' makes no sense"),
        ({"QUEUE_LEASE": "1"}, "QUEUE_LEASE (1 s)"),
    ],
)
def test_bad_values_of_the_environment_are_one_line(
    fastedgy: Run, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], says: str
) -> None:
    result = CliRunner().invoke(
        main, ["queue", "status"], env={"DATABASE_URL": "postgresql://127.0.0.1:1/x", **environment}
    )

    assert result.exit_code == 1
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--state", "lost"],
        ["list", "--limit", "0"],
        ["list", "--since", "soon"],
        ["prune", "--older-than", "long"],
        ["start", "--workers", "0"],
        ["start", "--concurrency", "many"],
        ["start", "--queues", ","],
        ["start", "--log-format", "xml"],
        ["show"],
        ["cancel"],
        ["retry", "abcd", "--name", "x"],
        ["nonsense"],
    ],
)
def test_nonsense_options_are_usage_errors(fastedgy: Run, words: list[str]) -> None:
    result = fastedgy("queue", *words, code=2)

    assert "Error: " in result.stderr


def test_an_unknown_task_is_an_error_of_one_line(fastedgy: Run) -> None:
    for words in (["show", "abcd1234"], ["logs", "abcd1234"], ["tree", "zz"], ["cancel", "abcd"],
                  ["retry", "abcd"], ["list", "--before", "abcd"]):  # fmt: skip
        result = fastedgy("queue", *words, code=1)
        assert result.stderr.startswith("Error: No task has the id")
        assert len(result.stderr.splitlines()) == 1


# -- status, stats, servers ------------------------------------------------------------------------


def test_status_shows_the_figures_and_what_to_do_when_no_worker_runs(
    fastedgy: Run, rows: Rows
) -> None:
    for _ in range(3):
        rows.task()

    text = fastedgy("queue", "status").stdout

    figures = dict(line.rsplit(maxsplit=1) for line in text.splitlines() if line[:1].isupper())
    assert figures["Pending Tasks"] == "3"
    assert figures["Active Servers"] == "0"
    assert figures["Total Workers"].startswith("0/")
    assert figures["Active Workers"] == figures["Idle Workers"] == "0"
    assert "3 tasks wait and no worker runs. Start some: fastedgy queue start" in text
    assert "\x1b" not in text


def test_status_counts_living_workers_and_shows_what_went_wrong_behind(
    fastedgy: Run, rows: Rows
) -> None:
    rows.worker(1, counters='{"claimed": 9, "fenced": 2, "deaf_listeners": 1}')
    rows.worker(2, queues=["mail"])
    rows.worker(3, server_name="web-4", silent=900)
    rows.task("doing")
    rows.task(queue="mail")

    text = fastedgy("queue", "status").stdout

    assert "Total Workers   2/" in text
    assert "Active Workers  1" in text
    assert "Idle Workers    1" in text
    assert "Busy Slots      1/20" in text
    assert "1 worker gave no sign of life" in text
    assert "outcomes dropped, since the task was taken over      2" in text
    assert "deaf listeners" in text
    assert "claimed" not in text


def test_status_as_json_has_the_documented_shape(fastedgy: Run, rows: Rows) -> None:
    rows.worker()
    rows.task(queue="mail", age=5)
    rows.task("doing")

    rows.execute("INSERT INTO queued_task_queues (name, paused) VALUES ('bulk', true)")

    status = parsed(fastedgy("queue", "status", "--json"))

    assert set(status) == {"sentence", "level", "reasons", "states", "queues", "paused", "workers"}
    assert (status["level"], status["sentence"]) == (
        "degraded", "Queue bulk is paused; nothing waits there.",
    )  # fmt: skip
    assert (status["reasons"], status["paused"]) == ([status["sentence"]], ["bulk"])
    assert status["states"] == {state: int(state in ("enqueued", "doing")) for state in STATES}
    assert status["queues"]["mail"]["depth"] == 1
    assert 5 <= status["queues"]["mail"]["oldest_due_seconds"] < 60
    assert status["workers"] == {"servers": 1, "processes": 1, "slots": 10, "busy": 1}


def test_stats_as_json_have_the_documented_shape(fastedgy: Run, rows: Rows) -> None:
    rows.task("done")
    rows.task("failed", name="other")

    rows.count(0.5)
    rows.count(name="other", failed=1)

    stats = parsed(fastedgy("queue", "stats", "--json"))

    assert set(stats) == {"states", "last_hour", "names"}
    assert stats["last_hour"] == {"done": 1, "failed": 1}
    assert [(each["name"], each["done"], each["failed"]) for each in stats["names"]] == [
        ("other", 0, 1), ("send_email", 1, 0)
    ]  # fmt: skip
    assert set(stats["names"][1]) == {
        "name", "done", "failed", "duration_ms_p50", "duration_ms_p95"
    }  # fmt: skip
    assert stats["names"][1]["duration_ms_p50"] == pytest.approx(500, rel=0.2)
    assert stats["names"][0]["duration_ms_p95"] is None


def test_stats_for_people_have_a_total_and_the_names(fastedgy: Run, rows: Rows) -> None:
    rows.task("done")
    rows.task("waiting")
    rows.count(0.5)

    text = fastedgy("queue", "stats").stdout

    assert "total" in text
    assert "Last hour: 1 done, 0 failed" in text
    assert "send_email" in text
    assert re.search(r"send_email +1 +0 +[45]\d\d ms +[45]\d\d ms", text), text


def test_servers_are_listed_with_their_processes(fastedgy: Run, rows: Rows) -> None:
    assert "No worker runs" in fastedgy("queue", "servers").stdout
    assert parsed(fastedgy("queue", "servers", "--json")) == []
    rows.worker(1)
    rows.worker(2, state="draining")
    rows.worker(3, server_name="web-4", silent=900)
    rows.task("doing")

    text = fastedgy("queue", "servers", "-p").stdout
    listed = parsed(fastedgy("queue", "servers", "--json"))

    assert text.splitlines()[0].split("  ")[0] == "Server"
    assert "pid 1702" in text
    assert [(row["server"], row["status"]) for row in listed] == [
        ("web-3", "running"),
        ("web-4", "silent"),
    ]
    assert (listed[0]["workers"], listed[0]["active"], listed[0]["idle"]) == (2, 1, 1)
    assert [process["pid"] for process in listed[0]["processes"]] == [1701, 1702]


# -- list ------------------------------------------------------------------------------------------


def test_list_as_json_has_the_documented_keys(fastedgy: Run, rows: Rows) -> None:
    assert parsed(fastedgy("queue", "list", "--json")) == []
    task = rows.task("done")

    [listed] = parsed(fastedgy("queue", "list", "--json"))

    assert set(listed) == LISTED
    assert listed["id"] == str(task)
    assert datetime.fromisoformat(listed["date_ended"]).tzinfo is not None


def test_list_filters_and_pages(fastedgy: Run, rows: Rows) -> None:
    ids = [str(rows.task("failed", age=100 - n, queue="mail")) for n in range(3)]
    rows.task("done", queue="mail")
    rows.task("failed", name="other", queue="mail")
    rows.task("failed", age=9000, queue="mail")
    words = ("queue", "list", "--state", "failed", "--name", "send_*", "--queue", "mail",
             "--since", "1h", "--limit", "2")  # fmt: skip

    first = fastedgy(*words)
    second = parsed(fastedgy(*words, "--json", "--before", ids[1]))

    assert ids[2] in first.stdout
    assert ids[1] in first.stdout
    assert f"There are more: --before {ids[1]}" in first.stderr
    assert [task["id"] for task in second] == ids[:1]


def test_a_listing_in_a_pipe_is_neither_wrapped_nor_coloured(rows: Rows) -> None:
    name = "a_very_long_name." * 20
    task = rows.task(name=name)

    done = shell("queue", "list", DATABASE_URL=rows.url, COLUMNS="40")

    assert done.returncode == 0
    [line] = [line for line in done.stdout.splitlines() if str(task) in line]
    assert name in line
    assert "\x1b" not in done.stdout


def test_control_characters_of_a_row_do_not_reach_the_terminal(fastedgy: Run, rows: Rows) -> None:
    task = rows.task("failed", name="evil\x1b[31m\nname", error_type="E", error_message="a\x1b]0;b")
    rows.log(task, 1, "clear\x1b[2J [bold]not markup[/bold]\nsecond line")

    for words in (["list"], ["show", str(task)], ["logs", str(task)], ["tree", str(task)]):
        text = fastedgy("queue", *words).stdout
        assert "\x1b" not in text
    text = fastedgy("queue", "logs", str(task)).stdout
    assert "clear\\x1b[2J [bold]not markup[/bold]\n    second line" in text


# -- show, logs, tree ------------------------------------------------------------------------------


def test_show_tells_all_about_a_task(fastedgy: Run, rows: Rows) -> None:
    rows.worker()
    parent = rows.task("done", age=20, name="parent_task")
    task = rows.task(
        "doing",
        age=10,
        args='["ann@example.org"]',
        kwargs='{"subject": "Welcome"}',
        context='{"progress": 63, "stage": "saving"}',
        attempt=2,
        history=json.dumps(
            [{"run": 1, "attempt": 1, "what": "retry", "started": "2025-06-01T12:00:00+00:00",
              "ended": "2025-06-01T12:00:30+00:00", "error_type": "TimeoutError",
              "error_message": "too slow"}]
        ),
    )  # fmt: skip
    rows.link(parent, task)
    rows.log(task, 1, "connected")

    text = fastedgy("queue", "show", str(task)[-12:]).stdout

    assert 'send_email("ann@example.org", subject="Welcome")  doing · attempt 2 of 4' in text
    assert "worker web-3/1701" in text
    assert "] 63 %  stage: saving" in text
    assert "retry (TimeoutError: too slow)  +30.0 s" in text
    assert "connected" in text
    assert "parent_task" in text
    assert str(task) in text


def test_show_as_json_is_the_whole_row(fastedgy: Run, rows: Rows) -> None:
    task = rows.task("failed", error_type="ValueError", error_message="no", args="[1]")

    shown = parsed(fastedgy("queue", "show", str(task)[:13], "--json"))

    assert set(shown) >= LISTED
    assert shown["args"] == [1]
    assert (shown["error_type"], shown["error_message"]) == ("ValueError", "no")


def test_logs_of_a_task_come_in_order(fastedgy: Run, rows: Rows) -> None:
    task = rows.task("done")
    assert "has no log lines; it is done" in fastedgy("queue", "logs", str(task)).stderr
    for seq in (2, 1, 3):
        rows.log(task, seq, f"line {seq}", info='{"rows": 7}')

    text = fastedgy("queue", "logs", str(task)).stdout
    listed = parsed(fastedgy("queue", "logs", str(task), "--json"))

    assert text.index("line 1") < text.index("line 2") < text.index("line 3")
    assert '{"rows": 7}' in text
    assert [log["seq"] for log in listed] == [1, 2, 3]
    assert set(listed[0]) == {"run", "seq", "logged_at", "level", "logger", "message", "info"}


def test_logs_are_followed_until_the_task_ends(rows: Rows) -> None:
    task = rows.task("doing")
    rows.log(task, 1, "first")
    process = subprocess.Popen(
        [sys.executable, "-m", "fastedgy", "queue", "logs", str(task), "-f", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "DATABASE_URL": rows.url},
    )
    assert process.stdout is not None
    with process:
        assert json.loads(process.stdout.readline())["message"] == "first"
        rows.log(task, 2, "second")
        assert json.loads(process.stdout.readline())["message"] == "second"
        rows.log(task, 3, "last")
        rows.execute("UPDATE queued_tasks SET state = 'done', date_ended = now()")
        assert json.loads(process.stdout.readline())["message"] == "last"
        rest, says = process.communicate(timeout=30)

    assert rest == ""
    assert f"Task {task} is done." in says
    assert process.returncode == 0


def test_the_tree_of_a_task_marks_it(fastedgy: Run, rows: Rows) -> None:
    top, left, right, bottom = [rows.task("done", name=name) for name in ("a", "b", "c", "d")]
    rows.link(top, left, right)
    rows.link(left, bottom)
    rows.link(right, bottom)

    text = fastedgy("queue", "tree", str(left)).stdout
    listed = parsed(fastedgy("queue", "tree", str(top), "--json"))

    assert f"done b {left} ← this one" in text
    assert [task["name"] for task in listed] == ["a", "b", "c", "d"]
    assert listed[3]["parents"] == [str(left), str(right)]
    assert listed[0]["children"] == [str(left), str(right)]
    assert set(listed[0]) == LISTED | {"parents", "children"}


# -- cancel, retry, clear, prune -------------------------------------------------------------------


def states_of(fastedgy: Run) -> dict[str, int]:
    counted: dict[str, int] = parsed(fastedgy("queue", "status", "--json"))["states"]
    return {state: number for state, number in counted.items() if number}


def test_cancel_ends_what_waits_and_asks_what_runs(fastedgy: Run, rows: Rows) -> None:
    rows.worker()
    waits, runs, ended = rows.task(), rows.task("doing"), rows.task("done")

    result = fastedgy("queue", "cancel", str(waits), str(runs), "--reason", "not needed")
    refused = fastedgy("queue", "cancel", str(ended), "--json", code=1)

    assert f"Cancelled {waits}" in result.stdout
    assert f"Asked the worker of {runs} to stop it" in result.stdout
    assert parsed(refused) == [{"id": str(ended), "state": "done", "cancelled": False}]
    assert f"Task {ended} has ended already: it is done." in refused.stderr
    assert "not needed" in fastedgy("queue", "show", str(waits)).stdout


def test_retry_runs_the_same_row_again_and_prints_its_id(fastedgy: Run, rows: Rows) -> None:
    failed, done = rows.task("failed"), rows.task("done")

    result = fastedgy("queue", "retry", str(failed))
    refused = fastedgy("queue", "retry", str(done), code=1)

    assert result.stdout == f"{failed}\n"
    assert "only failed and cancelled tasks can be retried" in refused.stderr
    assert states_of(fastedgy) == {"enqueued": 1, "done": 1}


def test_retry_without_an_id_retries_the_failed_after_asking(
    fastedgy: Run, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    for queue in ("mail", "mail", "bulk"):
        rows.task("failed", queue=queue)
    monkeypatch.setattr("fastedgy.cli.queue_actions._CHUNK", 1)

    assert "--yes" in fastedgy("queue", "retry", code=2).stderr
    monkeypatch.setattr(options, "is_terminal", lambda: True)
    declined = fastedgy("queue", "retry", input="n\n", code=1)
    assert "Retry 3 failed tasks?" in declined.stderr
    assert states_of(fastedgy) == {"failed": 3}
    assert "Retried 2 tasks." in fastedgy("queue", "retry", "--queues", "mail", input="y\n").stdout
    assert parsed(fastedgy("queue", "retry", "--yes", "--json")) == {"failed": 1, "retried": 1}
    assert states_of(fastedgy) == {"enqueued": 3}
    assert "Retried 0 tasks." in fastedgy("queue", "retry").stdout


def test_clear_deletes_what_has_not_started_after_asking(
    fastedgy: Run, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.worker()
    for state in STATES:
        rows.task(state)
    rows.task(queue="mail")

    assert "--yes" in fastedgy("queue", "clear", code=2).stderr
    assert parsed(fastedgy("queue", "clear", "--queues", "mail", "--yes", "--json")) == {
        "deleted": 1
    }
    monkeypatch.setattr(options, "is_terminal", lambda: True)
    result = fastedgy("queue", "clear", input="y\n")

    assert "Delete 3 tasks that have not started?" in result.stderr
    assert "Deleted 3 tasks." in result.stdout
    assert states_of(fastedgy) == {"doing": 1, "done": 1, "failed": 1, "cancelled": 1}


def test_long_work_shows_how_far_it_is_on_a_terminal_only(
    fastedgy: Run, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.task("done", age=40 * 86_400)
    rows.task("failed")
    assert fastedgy("queue", "prune").stderr == ""
    rows.task("done", age=40 * 86_400)
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal

    assert "Deleting" in fastedgy("queue", "prune", "--json").stderr
    assert "1 of 1" in fastedgy("queue", "retry", "--yes").stderr


def test_prune_keeps_what_the_settings_keep(
    fastedgy: Run, rows: Rows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUEUE_RETENTION_FAILED_DAYS", "365")
    monkeypatch.setenv("QUEUE_ARCHIVE_DIR", str(tmp_path / "old"))
    for state in ("done", "failed", "cancelled"):
        rows.task(state, age=40 * 86_400)

    answer = fastedgy("queue", "prune").stdout
    assert "Deleted 1 task that ended more than 30 d" in answer
    assert "365 d" in answer
    assert list((tmp_path / "old").iterdir())
    assert states_of(fastedgy) == {"failed": 1, "cancelled": 1}
    assert parsed(fastedgy("queue", "prune", "--state", "done", "--json")) == {"deleted": 0}
    spared = fastedgy("queue", "prune", "--older-than", "30d", "--state", "failed", "--json")
    assert parsed(spared) == {"deleted": 1}


def test_prune_deletes_what_ended_long_ago(fastedgy: Run, rows: Rows) -> None:
    for age in (40, 10, 1):
        rows.task("done", age=age * 86_400)

    assert "Deleted 1 task that" in fastedgy("queue", "prune").stdout
    assert parsed(fastedgy("queue", "prune", "--older-than", "5d", "--json")) == {"deleted": 1}
    assert states_of(fastedgy) == {"done": 1}


# -- start -----------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What the supervisor was started with; it ends at once with 7."""
    calls: list[Any] = []

    def run_(options: Any, settings: Any, config: Any) -> int:
        calls.append((options, settings, config))
        return 7

    monkeypatch.setattr("fastedgy.supervisor.run", run_)
    return calls


def test_start_hands_its_options_to_the_supervisor_and_ends_with_its_code(
    fastedgy: Run, started: list[Any]
) -> None:
    fastedgy("queue", "start", "--app", "shop:app", "-w", "4", "--min-workers", "1",
             "--concurrency", "20", "--queues", "mail, bulk", "--reload", "--log-format", "json",
             code=7)  # fmt: skip

    [(given, _, config)] = started
    assert (given.app, given.workers, given.min_workers, given.concurrency) == (
        "shop:app",
        4,
        1,
        20,
    )
    assert tuple(given.queues) == ("mail", "bulk")
    assert (given.reload, given.log_format, given.log_level) == (True, "json", "info")
    assert config.max_workers == 4


def test_start_without_options_follows_the_environment(
    fastedgy: Run, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUE_MAX_WORKERS", "5")
    monkeypatch.setenv("QUEUE_QUEUES", "mail")
    fastedgy("queue", "start", code=7)
    fastedgy("queue", "start", "--workers=3", code=7)

    assert [given.workers for given, _, _ in started] == [5, 3]
    assert tuple(started[0][0].queues) == ("mail",)
    assert started[0][0].concurrency == QueuedTaskConfig().concurrency


def test_more_workers_kept_than_there_are_is_refused(fastedgy: Run, started: list[Any]) -> None:
    result = fastedgy("queue", "start", "--workers", "2", "--min-workers", "3", code=1)

    assert "must not be above" in result.stderr
    assert started == []


# -- Pure functions --------------------------------------------------------------------------------


def drawn(*renderables: Any) -> str:
    console = Console(width=200, no_color=True, highlight=False)
    with console.capture() as capture:
        for renderable in renderables:
            console.print(renderable)
    return capture.get()


def test_the_status_says_the_most_serious_first_and_then_the_rest(
    fastedgy: Run, rows: Rows
) -> None:
    rows.worker(queues=["default"])
    rows.task(queue="mail")
    rows.execute(
        "INSERT INTO queued_task_breakers (name, state, error) VALUES ('pay', 'open', 'no route')"
    )

    lines = fastedgy("queue", "status").stdout.splitlines()

    assert lines[0].startswith("Queue mail has no worker; 1 task waits.")
    assert lines[1].startswith("Also: Breaker pay is open, so its tasks wait;")


def test_a_table_of_states_has_each_in_its_colour() -> None:
    numbers = dict.fromkeys(STATES, 0) | {"done": 1_204_000, "failed": 7}
    counts = StateCounts(numbers, frozenset({"done"}))

    text = drawn(tables.state_table(counts, total=True))

    assert "~1,204,000" in text
    assert "~1,204,007" in text
    assert "~7" not in text
    assert {str(output.state_text(state).style) for state in STATES} == set(
        output.STATE_STYLES.values()
    )


def row(state: str = "done", number: int = 1, **changes: Any) -> TaskRow:
    values: dict[str, Any] = {
        "id": UUID(int=(int(NOW.timestamp() * 1000) << 80) | number), "name": f"t{number}",
        "state": state, "queue": "default", "priority": 0, "attempt": 1, "date_enqueued": NOW,
        "date_started": NOW, "date_ended": NOW + timedelta(seconds=2),
    }  # fmt: skip
    return TaskRow(**(values | changes))


def test_a_table_of_tasks_shows_age_and_duration_and_short_ids_where_asked() -> None:
    waiting = row("waiting", 2, date_enqueued=None, date_started=None, date_ended=None)
    later = NOW + timedelta(minutes=2)

    text = drawn(tables.task_table([row(), waiting], now=later, whole_ids=False))

    assert text.count("2.0 s") == 1
    assert text.count("2 min") == 2
    assert "  000000000001" in text
    assert str(row().id) not in text


def test_a_task_that_was_retried_and_has_not_run_since_took_no_time() -> None:
    again = row("cancelled", date_enqueued=NOW + timedelta(hours=1))

    assert tables.took(again, now=NOW) is None
    assert tables.took(row("doing", date_ended=None), now=NOW + timedelta(seconds=3)) == 3.0


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(None, "-"), (-1, "0 ms"), (0.0034, "3 ms"), (0.9999, "1.0 s"), (3.25, "3.2 s"),
     (59.97, "1 min"), (250, "4 min 10 s"), (7500, "2 h 5 min"), (273_600, "3 d 4 h")],
)  # fmt: skip
def test_durations_have_the_unit_that_fits(seconds: float | None, says: str) -> None:
    assert output.duration(seconds) == says


@pytest.mark.parametrize(
    ("text", "span"),
    [("90s", timedelta(seconds=90)), ("1h30m", timedelta(minutes=90)), ("2 d", timedelta(2)),
     ("1.5h", timedelta(minutes=90)), ("5", None), ("", None), ("h", None), ("1y", None),
     ("9" * 400 + "w", None)],
)  # fmt: skip
def test_spans_are_read_as_people_write_them(text: str, span: timedelta | None) -> None:
    assert options.parse_span(text) == span


def test_moments_are_spans_ago_days_or_times() -> None:
    two_hours_ago = options.moment("2h")
    assert timedelta(hours=2) <= datetime.now(UTC) - two_hours_ago < timedelta(hours=3)
    assert options.moment("2025-06-01T12:00+00:00") == NOW
    assert options.moment("2025-01-31").astimezone().day == 31
    assert (
        timedelta(0) < options.moment("today") - options.moment("yesterday") <= timedelta(hours=25)
    )
    with pytest.raises(click.BadParameter):
        options.moment("soon")


def details_of(state: str, **changes: Any) -> TaskDetails:
    values: dict[str, Any] = dict.fromkeys(TaskDetails.__slots__)
    values |= {
        "id": UUID(int=1), "name": "send", "state": state, "queue": "mail", "priority": 0,
        "attempt": 1, "date_created": NOW, "date_enqueued": NOW, "function": "m:send", "args": [],
        "kwargs": {}, "context": {}, "run": 1, "max_retries": 3, "losses": 0, "alone": False,
        "waiting_on": 0, "on_parent_failure": "cancel", "history": [], "parents": [],
        "parent_count": 0, "children": [], "children_by_state": {}, "steps": [],
    }  # fmt: skip
    return TaskDetails(**(values | changes))


def test_the_page_of_a_task_stands_odd_rows() -> None:
    odd = details_of(
        "failed", args={"x": 1}, kwargs=[2], context=[3], history=[{"ended": "never"}, 7],
        result="x" * 10_000, error_traceback="a\nb", error_type="E", children=[row()],
        children_by_state={"done": 5}, parents=[row(number=2)], parent_count=3,
        date_started=NOW, date_ended=NOW,
    )  # fmt: skip

    text = drawn(*task_page.task_page(odd, [], [], now=NOW))

    assert "more characters" in text
    assert "… 2 more parents" in text
    assert "… of 5 children: 5 done" in text


@pytest.mark.parametrize("context", [{}, [], {"progress": "half"}, {"progress": True}, None])
def test_there_is_no_bar_without_a_progress(context: Any) -> None:
    assert task_page.progress(context) is None


def test_a_progress_beyond_its_ends_is_kept_within() -> None:
    over, under = task_page.progress({"progress": 250}), task_page.progress({"progress": -3.5})

    assert over is not None
    assert under is not None
    assert "100 %" in over.plain
    assert "] 0 %" in under.plain


def test_a_large_family_is_drawn_in_part_with_the_marked_one() -> None:
    tasks = [row(number=n) for n in range(1, 103)]
    top, *others = tasks
    bottom = others.pop()
    links = [(top.id, task.id) for task in others] + [(task.id, bottom.id) for task in others]

    text = drawn(task_page.family_tree(Family(tasks, links, truncated=True), others[70].id))

    assert text.count("(see above)") == 20
    assert text.count("← this one") == 1
    assert "79 others: 79 done" in text
    assert "too large" in text


def test_a_deep_family_and_a_circle_are_drawn() -> None:
    chain = [row(number=n) for n in range(1, 1500)]
    links = [(one.id, two.id) for one, two in pairwise(chain)]
    tree = task_page.family_tree(Family(chain, links, truncated=False), chain[3].id)
    a, b = chain[:2]
    circle = task_page.family_tree(Family([a, b], [(a.id, b.id), (b.id, a.id)], False), b.id)

    assert tree.children
    assert "(see above)" in drawn(circle)
