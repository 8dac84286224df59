"""docs/from-celery-and-taskiq.md: our side is one application, which does on real workers what
it says."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from commands import Background, environment
from pages import Block, blocks

from fastedgy.app import running
from fastedgy.config import Settings
from fastedgy.dependencies import get_service
from fastedgy.queued_task import remove_middleware
from fastedgy.scheduler import Scheduler, declared

PAGE = "docs/from-celery-and-taskiq.md"
MODULE = "moved_shop"
COMMAND = f"fastedgy queue start --app {MODULE}:app --workers 1"


def is_fragment(block: Block) -> bool:
    """Whether it is what stands in a route or a script."""
    try:
        compile(block.code, "", "exec")
    except SyntaxError:  # a bare await
        return True
    return False


async def test_our_side_does_what_it_says(
    tmp_path: Path,
    database_url: str,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(declared, "_declared", {})
    code = [block.code for block in blocks(PAGE, "python") if not is_fragment(block)]
    (tmp_path / f"{MODULE}.py").write_text("\n\n".join(code))
    monkeypatch.syspath_prepend(str(tmp_path))
    shop = importlib.import_module(MODULE)
    fragments = [block for block in blocks(PAGE, "python") if is_fragment(block)]
    assert len(fragments) >= 9
    try:
        with Background(COMMAND, tmp_path, environment(DATABASE_URL=database_url)) as pool:
            async with running(shop.app, settings=Settings(database_url=database_url)) as tasks:
                pool.wait_for("worker ready")
                names: dict[str, Any] = vars(shop) | {"tasks": tasks}
                names["scheduler"] = get_service(Scheduler)
                for block in fragments:
                    name = f"{PAGE}, line {block.line}"
                    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
                    async with tasks.__route__():  # as in a route
                        answer = eval(compile(block.code, name, "exec", flags), names)
                        if inspect.isawaitable(answer):
                            await answer
        for block in blocks(PAGE, "sql"):
            assert await connection.fetch(block.code)
    finally:
        del sys.modules[MODULE]
        remove_middleware(shop.told)


def test_each_example_has_their_side_too() -> None:
    theirs = {block.heading for block in blocks(PAGE, "py")}
    ours = {block.heading for block in blocks(PAGE, "python")}
    assert theirs == ours
    assert len(ours) >= 10
