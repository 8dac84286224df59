"""`fastedgy schedule`: what people do with a timetable."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers import run

from fastedgy.app import running
from fastedgy.cli import main
from fastedgy.config import Settings
from fastedgy.dependencies import get_service
from fastedgy.scheduler import Schedule, Scheduler

Call = Callable[..., Result]


@pytest.fixture
def cli(queue_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Run `fastedgy schedule …` against the shared database."""
    monkeypatch.setenv("DATABASE_URL", queue_url)
    monkeypatch.chdir(tmp_path)

    def call(*words: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, ["schedule", *words], catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return call


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


async def work(number: int = 0) -> int:
    return number


@pytest.fixture
def nightly(queue_url: str) -> Schedule:
    """A schedule of every night."""

    async def add() -> Schedule:
        async with running(settings=Settings(database_url=queue_url)):
            return await get_service(Scheduler).add(
                work, cron="30 2 * * *", timezone="Europe/Paris", name="nightly", args=(7,)
            )

    return run(add())


def test_without_schedules_the_list_says_where_they_come_from(cli: Call) -> None:
    assert "@scheduled" in cli("list").stdout
    assert parsed(cli("list", "--json")) == []


def test_the_list_says_what_runs_when(cli: Call, nightly: Schedule) -> None:
    [line] = [line for line in cli("list").stdout.splitlines() if "nightly" in line]
    assert "active" in line
    assert "cron 30 2 * * * (Europe/Paris)" in line
    assert " in " in line
    [row] = parsed(cli("list", "--json"))
    assert (row["name"], row["state"], row["cron"]) == ("nightly", "active", "30 2 * * *")
    assert nightly.next_due is not None
    assert row["next_due"] == nightly.next_due.isoformat()


def test_one_is_shown_with_its_next_times_and_its_history(cli: Call, nightly: Schedule) -> None:
    cli("pause", "nightly")
    shown = cli("show", "nightly").stdout
    assert "State         paused" in shown
    assert shown.count(" 02:30:00 CE") == 5 + ("Last due" in shown)
    assert "schedule.pause  by " in shown
    assert "(cli)" in shown
    told = parsed(cli("show", "nightly", "--json"))
    assert set(told) == {"schedule", "next", "history"}
    assert told["history"][0]["action"] == "schedule.pause"
    assert told["schedule"]["args"] == [7]


def test_pausing_and_resuming_say_what_follows(cli: Call, nightly: Schedule) -> None:
    assert cli("pause", "nightly").stdout == "Paused nightly.\n"
    assert parsed(cli("pause", "nightly", "--json"))["state"] == "paused"
    assert cli("resume", "nightly").stdout.startswith("Resumed nightly: next at ")
    assert parsed(cli("resume", "nightly", "--json"))["state"] == "active"


def test_the_next_times_are_printed_line_by_line(cli: Call, nightly: Schedule) -> None:
    lines = cli("next", "nightly", "-n", "3").stdout.splitlines()
    assert len(lines) == 3
    assert all("02:30:00 CE" in line for line in lines)
    first, second = map(datetime.fromisoformat, parsed(cli("next", "nightly", "-n", "2", "--json")))
    assert first == nightly.next_due
    assert timedelta(hours=22) < second - first < timedelta(hours=26)


def test_running_prints_the_id_of_the_task(cli: Call, nightly: Schedule) -> None:
    id = cli("run", "nightly").stdout.strip()
    told = parsed(cli("run", "nightly", "--json"))
    assert told["name"] == "nightly"
    result = CliRunner().invoke(main, ["queue", "list", "--json"])
    assert {row["id"] for row in json.loads(result.stdout)} == {id, told["task"]}


def test_removing_asks(cli: Call, nightly: Schedule) -> None:
    assert "--yes" in cli("remove", "nightly", code=2).output
    assert cli("remove", "nightly", "--yes").stdout == "Removed nightly.\n"
    assert parsed(cli("list", "--all", "--json")) == []


@pytest.mark.parametrize("command", ["show", "pause", "resume", "run", "next", "remove"])
def test_a_name_that_nobody_has_is_one_line(cli: Call, command: str) -> None:
    words = ["--yes"] if command == "remove" else []
    result = cli(command, "nobody", *words, code=1)
    assert result.stderr.startswith("Error: No schedule has the name 'nobody'.")
    assert len(result.stderr.splitlines()) == 1
