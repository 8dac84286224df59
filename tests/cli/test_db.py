"""`fastedgy db`, as people and scripts run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers import database_on, drop_database
from project import own_models

from fastedgy.cli import main
from fastedgy.database_url import parse_url
from fastedgy.embedded import server
from fastedgy.migrate import NEEDED_REVISION

APP = """
from fastapi import FastAPI
from fastedgy.models.queued_task import BaseQueuedTask
from fastedgy.orm import Model, fields

app = FastAPI()

class Book(Model):
    title = fields.CharField(max_length=100)
    class Meta:
        tablename = "books"

class Job(BaseQueuedTask):
    tenant = fields.CharField(max_length=50, null=True)
    class Meta:
        tablename = "jobs"
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to start the commands in."""
    monkeypatch.chdir(tmp_path)
    with own_models():
        yield tmp_path


def db(*arguments: str, url: str | None = None) -> Result:
    """Run a command in this process, as in a pipe."""
    env = {"DATABASE_URL": url} if url else {}
    return CliRunner().invoke(main, ["db", *arguments], env=env)


def answer(*arguments: str, url: str | None = None) -> object:
    """The JSON that a command prints."""
    result = db(*arguments, "--json", url=url)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


SHIPPED = ["fastedgy_0001", NEEDED_REVISION]
APPLIED = f"Applied {', '.join(SHIPPED)}.\n"


def error(*arguments: str, url: str | None = None) -> str:
    """The one line that a command fails with."""
    result = db(*arguments, url=url)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("DATABASE_URL is")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def in_a_process(folder: Path, url: str, *arguments: str) -> str:
    """Run a command in a process of its own, which may import an application."""
    done = subprocess.run(
        [sys.executable, "-m", "fastedgy", "db", *arguments],
        cwd=folder,
        env=os.environ | {"DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_database_is_migrated_looked_at_and_taken_down(empty_database_url: str) -> None:
    url = empty_database_url
    waiting = db("status", url=url)
    said = f"2 revisions to apply: {', '.join(SHIPPED)}. Run `fastedgy db migrate`."
    assert said in waiting.stdout
    assert db("status", "--check", url=url).exit_code == 1

    assert db("migrate", url=url).stdout == APPLIED
    again = db("migrate", url=url)
    assert again.stdout == "Nothing to apply: the database is up to date.\n"
    assert f"Up to date, at {NEEDED_REVISION}." in db("status", "--check", url=url).stdout

    assert db("downgrade", "-1", "--yes", url=url).stdout == f"Undid {NEEDED_REVISION}.\n"
    assert db("downgrade", "base", "--yes", url=url).stdout == f"Undid {SHIPPED[0]}.\n"
    assert db("downgrade", "base", "--yes", url=url).stdout == "Nothing to undo.\n"


def test_each_command_answers_in_json(empty_database_url: str) -> None:
    url = empty_database_url
    assert answer("createdb", url=url) == {"database": parse_url(url).name, "created": False}
    assert answer("migrate", url=url) == {"applied": SHIPPED}
    found = answer("status", url=url)
    assert isinstance(found, dict)
    assert found["migrations"] == {
        "current": [NEEDED_REVISION], "heads": [NEEDED_REVISION], "pending": [], "up_to_date": True
    }  # fmt: skip
    assert found["server"]["running"] is True
    assert answer("downgrade", "base", "--yes", url=url) == {"undone": SHIPPED[::-1]}


def test_going_back_asks_first(database_url: str) -> None:
    refused = db("downgrade", "base", url=database_url)
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert f"Up to date, at {NEEDED_REVISION}." in db("status", url=database_url).stdout


def test_an_unknown_revision_is_one_line(database_url: str) -> None:
    assert "'nowhere'" in error("migrate", "nowhere", url=database_url)


def test_a_database_is_created_when_it_is_missing(server_url: str) -> None:
    url = database_on(server_url, "fastedgy_test_created_by_command")
    drop_database(server_url, url)
    try:
        assert "`fastedgy db createdb` creates it" in error("migrate", url=url)
        assert "Created fastedgy_test_created_by_command" in db("createdb", url=url).stdout
        assert "is there already" in db("createdb", url=url).stdout
    finally:
        drop_database(server_url, url)


def test_a_server_that_is_not_there_is_one_line_without_the_password() -> None:
    for command in (["status"], ["migrate"], ["createdb"]):
        line = error(*command, url="postgresql://ada:secret@127.0.0.1:1/shop")
        assert "127.0.0.1:1" in line
        assert "secret" not in line


def test_a_projects_models_are_migrated_with_the_queues(
    project: Path, empty_database_url: str
) -> None:
    (project / "main.py").write_text(APP)
    url = empty_database_url

    in_a_process(project, url, "migrate")
    wrote = in_a_process(project, url, "makemigrations", "-m", "books and jobs")
    [file] = (project / "migrations" / "versions").glob("*.py")
    assert wrote.startswith(f"Wrote migrations/versions/{file.name}.")
    assert "'books'" in file.read_text()
    assert "'tenant'" in file.read_text()

    applied = json.loads(in_a_process(project, url, "migrate", "--json"))
    assert len(applied["applied"]) == 1
    assert json.loads(in_a_process(project, url, "makemigrations", "-m", "x", "--json")) == {
        "path": None
    }
    assert json.loads(in_a_process(project, url, "status", "--json"))["migrations"]["up_to_date"]


def test_an_application_that_cannot_be_imported_stops_a_migration(
    project: Path, empty_database_url: str
) -> None:
    (project / "main.py").write_text("import nothing_like_that\n")
    assert "nothing_like_that" in error("migrate", url=empty_database_url)
    assert db("migrate", "--no-app", url=empty_database_url).exit_code == 0


def test_making_migrations_needs_the_application(database_url: str) -> None:
    assert "main.py" in error("makemigrations", "-m", "x", url=database_url)


@pytest.fixture
def embedded_is_stopped(project: Path) -> Iterator[None]:
    yield
    server(project / ".fastedgy").stop()


@pytest.mark.usefixtures("embedded_is_stopped")
def test_the_embedded_server_is_started_by_need_and_stopped_by_command() -> None:
    assert "does not run" in db("status").stdout
    assert answer("status")["server"]["running"] is False
    assert db("status", "--check").exit_code == 1
    assert answer("stop") == {"stopped": False}

    migrated = db("migrate")
    assert migrated.stdout == APPLIED
    assert "embedded Postgres" in migrated.stderr
    assert db("status").stdout.startswith("Embedded PostgreSQL ")
    assert answer("start") == {"url": answer("status")["server"]["url"]}

    assert db("stop").stdout.startswith("Stopped the embedded Postgres")
    assert "does not run" in db("status").stdout
