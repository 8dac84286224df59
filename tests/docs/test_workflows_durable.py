"""docs/workflows.md: its programs with steps, sagas, breakers and keys run on real workers."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path

import pytest
from commands import Background, environment
from helpers import create_database, drop_database
from pages import blocks

PAGE = "docs/workflows.md"
HEADINGS = {
    "Durable steps": "shop_steps",
    "Sagas": "shop_sagas",
    "Circuit breaker": "shop_breaker",
    "Effects that happen once": "shop_keys",
}
COMMAND = "fastedgy queue start --app all_shops:app --workers 1"


def test_the_programs_do_what_they_say(
    server_url: str, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = {block.heading: block.code for block in blocks(PAGE, "python")}
    for heading, module in HEADINGS.items():
        (tmp_path / f"{module}.py").write_text(programs[heading])
    modules = list(HEADINGS.values())
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
        for module in [*modules, "all_shops"]:
            sys.modules.pop(module, None)
        drop_database(server_url, url)
