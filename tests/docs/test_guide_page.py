"""docs/guide.md: its blocks are one application, whose fragments run against real workers."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import types
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Background, environment
from pages import Block, blocks
from project import own_models

from fastedgy.app import running
from fastedgy.config import Settings
from fastedgy.dependencies import get_service
from fastedgy.orm import Database
from fastedgy.queued_task import clear_all_hooks
from fastedgy.queued_tasks import QueuedTasks

PAGE = "docs/guide.md"
MODULE = "guide_shop"
APART = ("Your own columns", "Testing")


def is_fragment(block: Block) -> bool:
    """Whether a block is what stands in a route or a script, with `tasks` at hand."""
    try:
        compile(block.code, "", "exec")
    except SyntaxError:  # a bare await
        return True
    body = ast.parse(block.code).body
    return any(isinstance(node, ast.Expr) and "tasks." in ast.unparse(node) for node in body)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """The blocks that declare something, as a module of a project's."""
    code = [block.code for block in blocks(PAGE, "python")
            if not is_fragment(block) and block.heading not in APART]  # fmt: skip
    (tmp_path / f"{MODULE}.py").write_text("\n\n".join(code))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module(MODULE)
    del sys.modules[MODULE]
    clear_all_hooks()


@pytest.fixture
async def tasks(
    shop: types.ModuleType, tmp_path: Path, database_url: str
) -> AsyncIterator[QueuedTasks]:
    """The application of the page, running here and in a worker process."""
    env = environment(DATABASE_URL=database_url)
    command = f"fastedgy queue start --app {MODULE}:app --workers 1"
    with Background(command, tmp_path, env) as pool:
        settings = Settings(database_url=database_url)
        async with running(shop.app, settings=settings) as service:
            pool.wait_for("worker ready")
            yield service


async def test_its_fragments_do_what_they_say(tasks: QueuedTasks, shop: types.ModuleType) -> None:
    fragments = [block for block in blocks(PAGE, "python") if is_fragment(block)]
    assert len(fragments) >= 10
    names: dict[str, Any] = vars(shop) | {"tasks": tasks}
    for block in fragments:
        code = compile(
            block.code, f"{PAGE}, line {block.line}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        )
        async with tasks.__route__():  # as in a route
            answer = eval(code, names)
            if inspect.isawaitable(answer):
                await answer


async def test_a_route_writes_its_tasks_with_its_rows(
    tasks: QueuedTasks, shop: types.ModuleType
) -> None:
    database = get_service(Database)
    await database.execute(shop.CREATE_ORDERS)

    async def subjects() -> list[Any]:
        rows = await database.fetch_all(
            "SELECT args->>1 FROM queued_tasks WHERE args->>0 = 'shop@example.com'"
        )
        return [row[0] for row in rows]

    await shop.create_order(1, database, tasks)
    assert await subjects() == ["Order 1"]

    with pytest.raises(Exception, match="duplicate key"):
        await shop.create_order(1, database, tasks)
    assert await subjects() == ["Order 1"]


async def test_its_tests_pass(shop: types.ModuleType) -> None:
    names = dict(vars(shop))
    for block in blocks(PAGE, "python"):
        if block.heading == "Testing":
            exec(block.code, names)
    await names["test_notify_adds_a_task"]()
    await names["test_process_dataset"]()


def test_its_own_columns_are_allowed() -> None:
    [block] = [block for block in blocks(PAGE, "python") if block.heading == "Your own columns"]
    with own_models():
        exec(block.code, {"__name__": MODULE})
