"""The examples of docs/api.md run."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi import FastAPI
from panels import API, READ, WRITE, Panel

from fastedgy.queued_task import task

PAGE = Path(__file__).parents[3] / "docs" / "api.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)


@pytest.mark.parametrize("code", BLOCKS[:2])
def test_the_ways_to_mount_it_run(code: str) -> None:
    names: dict[str, Any] = {}
    exec(code, names)

    app = names["app"]
    assert isinstance(app, FastAPI)
    assert any(path.endswith("/api/tasks") for path in app.openapi()["paths"])


async def test_the_client_runs(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    main = ModuleType("main")

    async def greet(name: str) -> str:
        return f"hello {name}"

    greet.__module__, greet.__qualname__ = "main", "greet"
    main.__dict__["greet"] = task(greet)
    monkeypatch.setitem(sys.modules, "main", main)
    printed = io.StringIO()
    async with panel.served() as site:
        names = {"API": site + API, "WRITE": WRITE}
        with contextlib.redirect_stdout(printed):
            await asyncio.to_thread(exec, BLOCKS[2], names)

    [task_id] = [item["id"] for item in (await panel.get("/tasks"))["items"]]
    explained, previewed, changed = printed.getvalue().splitlines()
    assert names["id"] == task_id
    assert explained
    assert previewed
    assert changed == "0"


def test_every_path_of_the_page_exists(panel: Panel) -> None:
    paths = {path.removeprefix(API) for path in panel.app.openapi()["paths"]}
    named = re.findall(r"`(?:GET|POST|PUT|PATCH|DELETE) (/[^\s`?…]+)", PAGE.read_text())

    assert len(named) > 15
    assert {path for path in named if path not in paths} == set()
    assert READ not in PAGE.read_text()
