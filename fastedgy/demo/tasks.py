"""The tasks of the example: an index of Python's own standard library.

    index_library ──► index_module, one for each source file ──► write_report

Each arrow is a `parent=`: what it points to starts when everything before it is done.
"""

from __future__ import annotations

import ast
import os
import sysconfig
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastedgy.dependencies import Inject
from fastedgy.models.queued_task import QueuedTask
from fastedgy.queued_task import get_current_task, getLogger, set_context, task
from fastedgy.queued_tasks import QueuedTasks

QUEUE = "demo"
LIBRARY = Path(sysconfig.get_path("stdlib"))
NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test"}

# Python's parser fails now and then when two threads use it at once (gh-106905).
one_at_a_time = threading.Lock()

logger = getLogger("demo")


@dataclass
class Module:
    """What is in one source file."""

    name: str
    lines: int = 0
    functions: int = 0
    classes: int = 0
    imports: list[str] = field(default_factory=list)


@task(queue=QUEUE)
def index_library(tasks: QueuedTasks = Inject(QueuedTasks)) -> int:
    """List the source files, and add a task for each of them and one for the report.

    All of these are written with one statement, when this function has returned.
    """
    files = source_files()
    logger.info("found %d source files in %s", len(files), LIBRARY)
    set_context("files", len(files))

    this = get_current_task()
    assert this is not None  # it is None outside of tasks only
    modules = tasks.add_tasks(index_module, [(file,) for file in files], parent=this.id)
    tasks.add_task(write_report, parent=modules)
    return len(files)


@task(queue=QUEUE)
def index_module(file: str) -> Module:
    """Parse one source file. Not `async`, so it runs in a thread of its worker process."""
    source = Path(file).read_bytes()
    module = Module(name_of(file), lines=source.count(b"\n"))
    try:
        with one_at_a_time:
            tree = ast.parse(source)
    except SyntaxError as error:
        logger.warning("%s is no Python of this version: %s", module.name, error)
        return module

    imported: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                module.functions += 1
            case ast.ClassDef():
                module.classes += 1
            case ast.Import(names=names):
                imported.update(alias.name.split(".")[0] for alias in names)
            case ast.ImportFrom(module=str(name), level=0):
                imported.add(name.split(".")[0])
    module.imports = sorted(imported)

    set_context("module", module.name)
    set_context("found.functions", module.functions)
    set_context("found.classes", module.classes)
    logger.info("parsed %d lines of %s", module.lines, module.name)
    return module


@task(queue=QUEUE)
async def write_report() -> dict[str, Any]:
    """Add up what the parents of this task have found, and write it to a file."""
    this = get_current_task()
    assert this is not None
    row = await QueuedTask.query.get(id=this.id)
    modules = [Module(**parent.result) for parent in await row.parents()]
    set_context("modules", len(modules))

    report = summary(modules)
    report["file"] = str(Path(tempfile.mkdtemp(prefix="fastedgy-demo-")) / "report.md")
    Path(report["file"]).write_text(as_markdown(report), encoding="utf-8")
    logger.info("wrote %s", report["file"])
    return report


def source_files() -> list[str]:
    """The library's own source files, without its tests."""
    found = []
    for folder, folders, names in os.walk(LIBRARY):
        folders[:] = sorted(set(folders) - NOT_LIBRARY)  # where to walk on
        found += [os.path.join(folder, name) for name in sorted(names) if name.endswith(".py")]
    return found


def name_of(file: str) -> str:
    """The name that a source file is imported by: `json.decoder`, or `json` for its `__init__`."""
    parts = Path(file).relative_to(LIBRARY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def summary(modules: list[Module]) -> dict[str, Any]:
    """The totals, the ten biggest modules, and the ten that most modules import."""
    biggest = sorted(modules, key=lambda module: module.lines, reverse=True)[:10]
    importers = Counter(name for module in modules for name in module.imports)
    return {
        "library": str(LIBRARY),
        "modules": len(modules),
        "lines": sum(module.lines for module in modules),
        "functions": sum(module.functions for module in modules),
        "classes": sum(module.classes for module in modules),
        "biggest": [{"module": module.name, "lines": module.lines} for module in biggest],
        "most_imported": [
            {"module": name, "importers": number} for name, number in importers.most_common(10)
        ],
    }


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    biggest = "\n".join(f"| {row['module']} | {row['lines']:,} |" for row in report["biggest"])
    imported = "\n".join(
        f"| {row['module']} | {row['importers']:,} |" for row in report["most_imported"]
    )
    return f"""\
# Python's standard library

{report["modules"]:,} modules in `{report["library"]}`: {report["lines"]:,} lines,
{report["functions"]:,} functions and {report["classes"]:,} classes.

## The biggest modules

| module | lines |
| --- | ---: |
{biggest}

## Imported by the most modules

| module | importers |
| --- | ---: |
{imported}
"""
