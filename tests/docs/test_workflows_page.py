"""docs/workflows.md: its programs run on real workers."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path

import pytest
from commands import Background, environment
from helpers import create_database, drop_database
from pages import blocks

from fastedgy.queued_task import remove_middleware

PAGE = "docs/workflows.md"
PROGRAMS = {
    "Data flow: a task as an argument of another": "shop_data",
    "Chains": "shop_chains",
    "Fan-out and fan-in: groups": "shop_groups",
    "Conditional flows: a task that returns a task": "shop_conditions",
    "Middleware": "shop_middleware",
    "Durable steps": "shop_steps",
    "Sagas": "shop_sagas",
    "Circuit breaker": "shop_breaker",
    "Effects that happen once": "shop_keys",
}
COMMAND = "fastedgy queue start --app all_shops:app --workers 1"


def test_the_programs_do_what_they_say(
    server_url: str, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = {block.heading: block.code for block in blocks(PAGE, "python")}
    for heading, module in PROGRAMS.items():
        (tmp_path / f"{module}.py").write_text(code[heading])
    modules = list(PROGRAMS.values())
    imports = "".join(f"import {module}\n" for module in modules)
    (tmp_path / "all_shops.py").write_text(f"{imports}\napp = {modules[0]}.app\n")
    url = create_database(server_url, template)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        with Background(COMMAND, tmp_path, environment(DATABASE_URL=url)) as pool:
            pool.wait_for("worker ready")
            for module in modules:
                asyncio.run(importlib.import_module(module).main())
    finally:
        if "shop_middleware" in sys.modules:
            remove_middleware(sys.modules["shop_middleware"].timing)
        for module in [*modules, "all_shops"]:
            sys.modules.pop(module, None)
        drop_database(server_url, url)
