"""Which functions a worker runs: those that the application offers, and none that a row made up."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import FunctionNotFound, FunctionRefused, InvalidFunction, InvalidOption
from fastedgy.queued_task.callables import TaskFunction, describe
from fastedgy.queued_task.encoding import clean
from fastedgy.queued_task.options import options_of

logger = logging.getLogger("queued_task")

_packages: tuple[str, ...] = ()
_folders: tuple[Path, ...] = ()
_resolved: dict[str, TaskFunction] = {}
_resolved_for: QueuedTaskConfig | None = None
# Modules that raised when they were imported: not tried again for every one of their tasks.
_broken: dict[str, str] = {}


def offer(roots: Iterable[str | os.PathLike[str]]) -> None:
    """Say where the application's own code lives, replacing what was said before.

    A name (`"shop"`, `"shop.tasks"`) is a module with all that is below it; a path is a folder,
    whose modules count as the application's own unless they are installed packages.
    """
    global _packages, _folders
    packages: list[str] = []
    folders: list[Path] = []
    for root in roots:
        if isinstance(root, str) and os.sep not in root and root not in ("", "."):
            packages.append(root)
        else:
            folders.append(Path(root).resolve())
    _packages, _folders = tuple(packages), tuple(folders)
    _resolved.clear()
    _broken.clear()


def resolve(path: str, config: QueuedTaskConfig) -> TaskFunction:
    """The function that a row names, if the application offers it. One dict lookup when known.

    Offered is what is decorated with `@task`, and every public function of the modules in
    `config.task_modules` or, without those, of the application's own code. Nothing else is even
    imported.

    Raises FunctionNotFound when this release does not have it (another one may), FunctionRefused
    when it may not run here.
    """
    global _resolved_for
    if config is not _resolved_for:
        _resolved.clear()
        _resolved_for = config
    function = _resolved.get(path)
    if function is None:
        function = _resolved[path] = _resolve(path, config)
    return function


def decorated() -> list[TaskFunction]:
    """The functions with `@task` of the application's own modules, as far as they are imported.

    In the order of their paths.
    """
    found: dict[str, TaskFunction] = {}
    for name, module in list(sys.modules.items()):
        if not _is_own(name) or _is_stdlib(name):
            continue
        for value in list(vars(module).values()):
            if getattr(value, "__module__", None) == name and options_of(value) is not None:
                function = describe(value)
                found[function.path] = function
    return [found[path] for path in sorted(found)]


def _resolve(path: str, config: QueuedTaskConfig) -> TaskFunction:
    module_name, _, qualname = path.partition(":") if isinstance(path, str) else ("", "", "")
    parts = qualname.split(".")
    if not all(part.isidentifier() for part in (*module_name.split("."), *parts)):
        raise FunctionRefused(f"{_shown(path)} is not the name of a function.")
    if "__main__" in module_name.split("."):
        raise FunctionRefused(f"{_shown(path)}: a script's own functions cannot be tasks.")
    module = _module(module_name, path, config)
    found: Any = module
    for index, part in enumerate(parts):
        if index and not isinstance(found, type):
            raise FunctionRefused(f"{_shown(path)} does not lead to a function through classes.")
        try:
            found = getattr(found, part)
        except AttributeError:
            raise FunctionNotFound(
                f"{_shown(path)}: this release has the module {module_name}, but no {qualname} in "
                "it. The task waits for a worker that has; `fastedgy queue cancel` ends the wait."
            ) from None
    try:
        function = describe(found)
    except (InvalidFunction, InvalidOption) as error:
        raise FunctionRefused(f"{_shown(path)} cannot run as a task: {error}") from None
    if options_of(found) is None:
        _permit(function.path, path, config)
    return function


def _permit(own_path: str, path: str, config: QueuedTaskConfig) -> None:
    """Refuse an undecorated function unless it is a public one of the application's own."""
    module_name, _, qualname = own_path.partition(":")
    if any(part.startswith("_") for part in qualname.split(".")):
        raise FunctionRefused(
            f"{_shown(path)} is private. Decorate it with @task if it is meant to be a task."
        )
    if config.task_modules:
        permitted = _is_below(module_name, config.task_modules)
    else:
        permitted = _is_own(module_name)
    if not permitted or _is_stdlib(module_name):
        raise FunctionRefused(
            f"{_shown(path)} is not offered as a task. Decorate it with @task, or add its package "
            "to QUEUE_TASK_MODULES."
        )


def _module(name: str, path: str, config: QueuedTaskConfig) -> Any:
    """The module of that name: one that is imported already, or one that may be."""
    module = sys.modules.get(name)
    if module is not None:
        return module
    _check_importable(name, path, config)
    if name in _broken:
        raise FunctionNotFound(_broken[name])
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and _is_below(name, [error.name]):
            raise FunctionNotFound(
                f"{_shown(path)}: this release has no module {error.name}. The task waits for a "
                "worker that has; `fastedgy queue cancel` ends the wait."
            ) from None
        raise FunctionNotFound(_remember(name, path, error)) from error
    except (Exception, SystemExit) as error:
        raise FunctionNotFound(_remember(name, path, error)) from error


def _remember(name: str, path: str, error: BaseException) -> str:
    reason = clean(
        f"{_shown(path)}: importing {name} failed with {type(error).__name__}: {error}", 1000
    )
    logger.error("%s", reason, exc_info=error)
    _broken[name] = reason
    return reason


def _check_importable(name: str, path: str, config: QueuedTaskConfig) -> None:
    """Importing runs code: allow it for the application's modules, and for our own, only."""
    top = name.split(".")[0]
    if top == "fastedgy" or _is_below(name, config.task_modules) or _is_below(name, _packages):
        return
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise FunctionNotFound(
            f"{_shown(path)}: this release has no module {top}. The task waits for a worker that "
            "has; `fastedgy queue cancel` ends the wait."
        )
    places = [spec.origin, *(spec.submodule_search_locations or ())]
    if not any(_is_own_file(place) for place in places):
        raise FunctionRefused(
            f"{_shown(path)}: the module {top} is none of the application's. Import it there, or "
            "add it to QUEUE_TASK_MODULES."
        )


def _is_below(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _is_own(module_name: str) -> bool:
    if _is_below(module_name, _packages):
        return True
    return _is_own_file(getattr(sys.modules.get(module_name), "__file__", None))


def _is_own_file(file: str | None) -> bool:
    """Whether a file lies in one of the offered folders, and not in a virtual environment there."""
    if not file or not _folders:
        return False
    place = Path(file).resolve()
    if any(part in ("site-packages", "dist-packages") for part in place.parts):
        return False
    if any(place.is_relative_to(folder) for folder in _installed()):
        return False
    return any(place.is_relative_to(folder) for folder in _folders)


def _is_stdlib(module_name: str) -> bool:
    """Whether a module is one of Python's own (and not one of the same name that hides it)."""
    if module_name.split(".")[0] not in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(module_name), "__file__", None)
    if file is None:
        return True
    return any(Path(file).resolve().is_relative_to(folder) for folder in _installed())


def _installed() -> set[Path]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return {Path(sysconfig.get_path(name)).resolve() for name in names}


def _shown(path: object) -> str:
    return clean(repr(path), 200)
