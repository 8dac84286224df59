"""Which functions a row may name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import FunctionNotFound, FunctionRefused
from fastedgy.queued_task.functions import describe, offer, resolve

SHOP = """
import os
import subprocess
from subprocess import run
from os import system
from fastedgy.queued_task import task

def send(): ...
def _private(): ...
class Mail:
    @staticmethod
    def send(): ...
    @staticmethod
    def _hidden(): ...
    def method(self): ...
def numbers():
    yield 1
nested = (lambda: lambda: None)()
@task
def _decorated(): ...
"""

CONFIG = QueuedTaskConfig()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Write modules into a folder on sys.path: `project(shop="…")`, `project({"a/b.py": "…"})`."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(files: dict[str, str] | None = None, **modules: str) -> Path:
        for name, text in {**(files or {}), **{f"{k}.py": v for k, v in modules.items()}}.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        importlib.invalidate_caches()
        return tmp_path

    yield write
    offer([])
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_public_function_of_the_applications_own_code_runs(
    project: Callable[..., Path],
) -> None:
    folder = project(shop_c=SHOP)
    for roots in ([folder], [str(folder)], ["shop_c"]):
        offer(roots)
        assert resolve("shop_c:send", CONFIG).path == "shop_c:send"
        assert resolve("shop_c:send", CONFIG) is resolve("shop_c:send", CONFIG)
    assert resolve("shop_c:Mail.send", CONFIG).path == "shop_c:Mail.send"
    assert resolve("shop_c:send", CONFIG) is describe(sys.modules["shop_c"].send)


def test_a_module_is_imported_when_its_first_task_comes(project: Callable[..., Path]) -> None:
    offer([project({"pkg_c/__init__.py": "", "pkg_c/deep/jobs.py": "async def go(): ..."})])
    assert resolve("pkg_c.deep.jobs:go", CONFIG).is_async


def test_a_decorated_function_runs_wherever_it_was_imported_from(
    project: Callable[..., Path],
) -> None:
    project(plugin_c=SHOP)
    importlib.import_module("plugin_c")
    offer([])
    assert resolve("plugin_c:_decorated", CONFIG).path == "plugin_c:_decorated"
    with pytest.raises(FunctionRefused, match=r"not offered as a task\. Decorate it with @task"):
        resolve("plugin_c:send", CONFIG)


@pytest.mark.parametrize(
    "path",
    [
        "os:system",
        "subprocess:run",
        "builtins:eval",
        "builtins:exec",
        "posix:system",
        "shutil:rmtree",
        "this:d",
        "antigravity:geohash",
        "pip:main",
        "pytest:main",
        "shop_c:system",
        "shop_c:run",
        "shop_c:os.system",
        "shop_c:subprocess.run",
        "shop_c:Mail",
        "shop_c:Mail.method",
        "shop_c:Mail._hidden",
        "shop_c:Mail.__init_subclass__",
        "shop_c:_private",
        "shop_c:numbers",
        "shop_c:nested",
        "shop_c:send.__globals__",
        "shop_c:send.__code__.co_code",
        "shop_c:__builtins__",
        "fastedgy.__main__:main",
        "fastedgy.queued_task.hooks:clear_all_hooks",
        "__main__:main",
        "shop_c",
        "shop_c:",
        ":send",
        "shop_c:send()",
        "shop_c:send:send",
        "shop_c;os:system",
        "../shop_c:send",
        "shop_c..x:send",
        "shop_c:a b",
        "",
        "\x00:\ud800",
        "shop_c:<lambda>",
        "x" * 100_000,
    ],
)
def test_what_a_forged_row_names_is_refused(path: str, project: Callable[..., Path]) -> None:
    offer([project(shop_c=SHOP)])
    importlib.import_module("shop_c")
    with pytest.raises(FunctionRefused) as caught:
        resolve(path, CONFIG)
    assert len(str(caught.value)) < 1000
    str(caught.value).encode()
    assert "this" not in sys.modules
    assert "antigravity" not in sys.modules


def test_a_path_that_is_no_text_is_refused() -> None:
    with pytest.raises(FunctionRefused):
        resolve(None, CONFIG)  # type: ignore[arg-type]


def test_a_module_of_others_is_not_even_imported(
    project: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    project(stranger_c="raise SystemExit('ran')")
    offer([tmp_path_factory.mktemp("elsewhere")])
    with pytest.raises(FunctionRefused, match="is none of the application's"):
        resolve("stranger_c:go", CONFIG)


def test_packages_installed_below_the_project_are_not_its_own(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project({".venv/lib/site-packages/installed_c.py": "def go(): ..."})
    monkeypatch.syspath_prepend(folder / ".venv/lib/site-packages")
    offer([folder])
    with pytest.raises(FunctionRefused):
        resolve("installed_c:go", CONFIG)
    assert "installed_c" not in sys.modules
    config = QueuedTaskConfig(task_modules=["installed_c"])
    assert resolve("installed_c:go", config).path == "installed_c:go"


def test_task_modules_take_the_place_of_the_applications_code(
    project: Callable[..., Path],
) -> None:
    offer([project(shop_c=SHOP, jobs_c="def go(): ...")])
    config = QueuedTaskConfig(task_modules=["jobs_c"])
    assert resolve("jobs_c:go", config).path == "jobs_c:go"
    assert resolve("shop_c:_decorated", config).path == "shop_c:_decorated"
    with pytest.raises(FunctionRefused):
        resolve("shop_c:send", config)
    assert resolve("shop_c:send", CONFIG)


def test_the_standard_library_cannot_be_offered() -> None:
    for path in ("shutil:rmtree", "os:system"):
        with pytest.raises(FunctionRefused):
            resolve(path, QueuedTaskConfig(task_modules=["shutil", "os"]))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("shop_c:removed", "no removed in it"),
        ("shop_c:Mail.removed", "no Mail.removed in it"),
        ("pkg_c.removed:send", "no module pkg_c.removed"),
        ("new_c.jobs:send", "no module new_c"),
        ("new_c:send", "no module new_c"),
    ],
)
def test_what_another_release_may_have_is_not_found(
    path: str, reason: str, project: Callable[..., Path]
) -> None:
    offer([project({"pkg_c/__init__.py": ""}, shop_c=SHOP)])
    with pytest.raises(FunctionNotFound, match=reason):
        resolve(path, CONFIG)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import not_installed_c", "ModuleNotFoundError: No module named 'not_installed_c'"),
        ("1 / 0", "ZeroDivisionError"),
        ("def (", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_module_that_cannot_be_imported_is_tried_once(
    text: str, reason: str, project: Callable[..., Path]
) -> None:
    folder = project(broken_c=f"import builtins\nbuiltins.tries_c += 1\n{text}")
    import builtins

    builtins.tries_c = 0  # type: ignore[attr-defined]
    try:
        offer([folder])
        for _ in range(3):
            with pytest.raises(FunctionNotFound, match=reason):
                resolve("broken_c:go", CONFIG)
        assert builtins.tries_c == ("(" not in text or "exit" in text)  # type: ignore[attr-defined]
    finally:
        del builtins.tries_c  # type: ignore[attr-defined]


def test_a_function_that_moved_is_found_under_its_old_name(project: Callable[..., Path]) -> None:
    offer([project(old_c="from new_home_c import go", new_home_c="def go(): ...")])
    assert resolve("old_c:go", CONFIG).path == "new_home_c:go"
