"""docs/limits.md: its blocks are one module, whose fragments run against a real worker."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from commands import Background, environment
from helpers import eventually
from pages import Block, blocks

from fastedgy.app import running
from fastedgy.config import Settings

PAGE = "docs/limits.md"
MODULE = "limits_shop"


def is_fragment(block: Block) -> bool:
    """Whether a block is what stands in a route or a script, with `tasks` at hand."""
    return "tasks.task(" in block.code


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """The blocks that declare something, as a module of a project's."""
    code = [block.code for block in blocks(PAGE, "python") if not is_fragment(block)]
    (tmp_path / f"{MODULE}.py").write_text("\n\n".join(code))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module(MODULE)
    del sys.modules[MODULE]


async def test_its_examples_run(
    shop: types.ModuleType, tmp_path: Path, database_url: str, connection: asyncpg.Connection
) -> None:
    fragments = [block for block in blocks(PAGE, "python") if is_fragment(block)]
    assert len(fragments) >= 3
    command = f"fastedgy queue start --app {MODULE}:app --workers 1"
    with Background(command, tmp_path, environment(DATABASE_URL=database_url)) as pool:
        settings = Settings(database_url=database_url)
        async with running(shop.app, settings=settings) as tasks:
            pool.wait_for("worker ready")
            names: dict[str, Any] = vars(shop) | {"tasks": tasks}
            async with tasks.__route__():
                for block in fragments:
                    exec(compile(block.code, f"{PAGE}, line {block.line}", "exec"), names)
                tasks.add_tasks(shop.resize, [(number,) for number in range(8)])
                tasks.add_task(shop.sync_customer, 1)
                tasks.add_task(shop.call_partner, 1)
                tasks.add_task(shop.fetch, "ann")
                tasks.add_task(shop.charge, 1)
                first, second = (tasks.add_task(shop.build_report, 7) for _ in range(2))
            assert first.id == second.id
            await shop.night()

            async def all_done() -> None:
                rows = await connection.fetch(
                    "SELECT name, state, args FROM queued_tasks WHERE state <> 'done'"
                )
                # What is put off to ten seconds after the last change.
                assert [(row["state"], row["args"]) for row in rows] == [("scheduled", "[2]")]

            await eventually(all_done)
    settings_of = await connection.fetch(
        "SELECT name, paused, max_running, rate, changed_by FROM queued_task_queues ORDER BY name"
    )
    assert [tuple(row) for row in settings_of] == [
        ("mail", False, 20, 50.0, "ann"),
        ("reports", False, None, None, "ann"),
    ]
