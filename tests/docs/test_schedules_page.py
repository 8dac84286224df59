"""docs/schedules.md: its blocks are one application; its lines, commands and SQL work on it."""

from __future__ import annotations

import ast
import importlib
import inspect
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest
from click.testing import CliRunner
from helpers import run
from pages import Block, blocks

from fastedgy.app import running
from fastedgy.cli import main
from fastedgy.config import Settings
from fastedgy.dependencies import get_service
from fastedgy.scheduler import Scheduler, declared

PAGE = "docs/schedules.md"
MODULE = "schedules_page"


def is_lines(block: Block) -> bool:
    return block.code.startswith("await ")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """What the page declares, as a module of a project's."""
    monkeypatch.setattr(declared, "_declared", {})
    code = [block.code for block in blocks(PAGE, "python") if not is_lines(block)]
    (tmp_path / f"{MODULE}.py").write_text("\n\n".join(code))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module(MODULE)
    del sys.modules[MODULE]


async def test_everything_on_the_page_works(
    site: types.ModuleType, database_url: str, connection: asyncpg.Connection
) -> None:
    async with running(site.app, settings=Settings(database_url=database_url)):
        scheduler = get_service(Scheduler)
        found = {each.name: each for each in await scheduler.list()}
        assert set(found) == {f"{MODULE}.backup", "sync shops", "full sync", f"{MODULE}.celebrate"}
        assert found[f"{MODULE}.celebrate"].misfire_grace is None
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(site.app), base_url="http://test"
        ) as client:
            made = (await client.post("/shops/7/report")).json()
            assert made["name"] == "report 7"
            assert (await client.post("/schedules/report 7/pause")).json() == "paused"

        for block in filter(is_lines, blocks(PAGE, "python")):
            names = {"scheduler": scheduler}
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            result = eval(compile(block.code, PAGE, "exec", flags), names)
            if inspect.isawaitable(result):
                await result
            assert len(names["times"]) == 3  # type: ignore[arg-type]
            assert [each.action for each in names["entries"]] == [  # type: ignore[attr-defined]
                "schedule.run", "schedule.reschedule", "schedule.resume", "schedule.pause",
                "schedule.declare",
            ]  # fmt: skip
        for block in blocks(PAGE, "sql"):
            for statement in block.code.split(";\n"):
                if statement.strip():
                    await connection.fetch(statement)
        assert await connection.fetchval("SELECT schedule FROM queued_tasks") == "sync shops"


def test_its_commands_work(
    site: types.ModuleType, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start_once() -> None:
        async with running(site.app, settings=Settings(database_url=database_url)):
            pass

    run(start_once())
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("FASTEDGY_APP", f"{MODULE}:app")
    printed = ""
    [commands] = blocks(PAGE, "console")
    for line in commands.code.splitlines():
        program, *words = shlex.split(line)
        assert program == "fastedgy"
        result = CliRunner().invoke(main, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        printed += result.stdout
    assert "cron 30 6 * * mon-fri (UTC)" in printed
    assert "Removed full sync." in printed
