"""Finding the application, as uvicorn and `fastapi dev` do, and where its own code is."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeGuard
from weakref import WeakKeyDictionary

from fastedgy.errors import AppNotFound, FastEdgyError

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger("fastedgy.discovery")

PLACES = ("main.py", "app.py", "app/main.py", "api.py")

_found_in: WeakKeyDictionary[FastAPI, str] = WeakKeyDictionary()


def find_app(spec: str | None = None) -> FastAPI:
    """The application that `spec` names: `main:app`, `shop.main`, `main:create_app`, `main.py`.

    Without an attribute it is `app`, or the only FastAPI object in the module. Without a spec the
    module is the first that is there of main.py, app.py, app/main.py and api.py. A function without
    parameters is called. The working directory is put on `sys.path`, as Python itself would.

    Raises AppNotFound in one sentence, with the exception of the application's module as its cause.
    """
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    spec = (spec or "").strip() or _default_spec()
    name, _, attribute = _split(spec)
    module = _import(name, spec)
    app = _called(_attribute(module, attribute.removesuffix("()"), spec), spec)
    _found_in[app] = name
    return app


def app_packages(app: FastAPI) -> list[str | Path]:
    """Where the application's own code is: folders, or the package's name if it is installed.

    The folder is the one that its top module or package is imported from. That of the module in
    which `app` was found, and those in which its routes are written, count.
    """
    modules = [_found_in.get(app), *_modules_with(app)]
    modules += [
        getattr(getattr(route, "endpoint", None), "__module__", None) for route in app.routes
    ]
    roots: dict[str | Path, None] = {}
    for name in modules:
        top = (name or "").partition(".")[0]
        if top and top not in ("fastapi", "starlette", "fastedgy"):
            root = _root(top)
            if root is not None:
                roots[root] = None
    return list(roots)


def _default_spec() -> str:
    for place in PLACES:
        if Path(place).is_file():
            return place
    raise AppNotFound(
        f"There is no application here: none of {', '.join(PLACES)} is in {Path.cwd()}. Go to the "
        "project's folder, or name it with --app module:attribute or FASTEDGY_APP."
    )


def _split(spec: str) -> tuple[str, str, str]:
    """Module, colon, attribute. The module may be given as a file."""
    place, colon, attribute = spec.partition(":")
    if place.endswith(".py") or os.sep in place:
        path = Path(place)
        if path.is_absolute() and path.is_relative_to(Path.cwd()):
            path = path.relative_to(Path.cwd())
        if path.is_absolute() or ".." in path.parts:
            raise AppNotFound(
                f"The application {spec!r} is outside of the working directory. Go to its folder "
                "and name it from there, like main:app."
            )
        place = ".".join(path.with_suffix("").parts)
    if not all(part.isidentifier() for part in place.split(".")):
        raise AppNotFound(f"{spec!r} names no application. Write it like main:app.")
    return place, colon, attribute


def _import(name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except FastEdgyError:
        raise  # says what is wrong with its settings by itself
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise AppNotFound(
                f"The application {spec!r} cannot be imported: there is no module {error.name} in "
                f"{Path.cwd()} or among the installed packages."
            ) from error
        raise _broken(error, name, spec) from error
    except (Exception, SystemExit) as error:
        raise _broken(error, name, spec) from error


def _broken(error: BaseException, name: str, spec: str) -> AppNotFound:
    logger.debug("Importing %s failed", name, exc_info=error)
    text, where = str(error), ""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename[0] != "<"]
    own = [each for each in frames if Path(each.filename).is_relative_to(Path.cwd())]
    if isinstance(error, SyntaxError) and error.filename:
        text, where = error.msg, f" at {error.filename}:{error.lineno}"
    elif own:
        where = f" at {own[-1].filename}:{own[-1].lineno}"
    reason = f"{type(error).__name__}: {text}".rstrip(": .")
    return AppNotFound(
        f"The application {spec!r} cannot be imported: {reason}{where}. "
        f'`{Path(sys.executable).name} -c "import {name}"` shows the whole traceback.'
    )


def _attribute(module: ModuleType, attribute: str, spec: str) -> Any:
    if attribute:
        found: Any = module
        for part in attribute.split("."):
            try:
                found = getattr(found, part)
            except AttributeError:
                raise AppNotFound(
                    f"The application {spec!r} cannot be found: {module.__name__} has no "
                    f"{attribute}.{_hint(module)}"
                ) from None
        return found
    app = getattr(module, "app", None)
    if _is_app(app):
        return app
    apps = {id(each): each for each in vars(module).values() if _is_app(each)}
    if len(apps) == 1:
        return apps.popitem()[1]
    raise AppNotFound(
        f"The module {module.__name__} has no `app`.{_hint(module)} Name it with --app "
        f"{module.__name__}:attribute or FASTEDGY_APP."
    )


def _hint(module: ModuleType) -> str:
    apps = [name for name, each in vars(module).items() if _is_app(each)]
    return f" Its FastAPI objects: {', '.join(apps)}." if apps else ""


def _called(found: Any, spec: str) -> FastAPI:
    """The application itself, or what a factory returns."""
    if _is_app(found):
        return found
    if inspect.isroutine(found):
        try:
            inspect.signature(found).bind()
        except TypeError as error:
            raise AppNotFound(
                f"The application {spec!r} cannot be made: the function has {error}. A factory "
                "is called without arguments."
            ) from None
        try:
            found = found()
        except FastEdgyError:
            raise
        except Exception as error:
            raise AppNotFound(
                f"The application {spec!r} cannot be made: {type(error).__name__}: {error}."
            ) from error
        if _is_app(found):
            return found
        if inspect.iscoroutine(found):
            found.close()
    raise AppNotFound(
        f"The application {spec!r} is no FastAPI object, but a {type(found).__name__}. Name the "
        "FastAPI (or FastEdgy) object itself, or a function that returns it."
    )


def _is_app(found: object) -> TypeGuard[FastAPI]:
    # It takes 0.3 s to import, which commands where there is no application need not wait for.
    from fastapi import FastAPI

    return isinstance(found, FastAPI)


def _modules_with(app: FastAPI) -> list[str]:
    """The modules that have the application as an attribute (uvicorn imported it, or a test)."""
    found = []
    for name, module in list(sys.modules.items()):
        names = vars(module) if isinstance(module, ModuleType) else {}
        if any(each is app for each in list(names.values())):
            found.append(name)
    return found


def _root(top: str) -> str | Path | None:
    """The folder that a top-level module is imported from; its name if it is an installed one."""
    module = sys.modules.get(top)
    if top == "__main__":
        file = getattr(module, "__file__", None)
        return Path(file).resolve().parent if file else Path.cwd()
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    place = next((Path(each).resolve() for each in places if each), None)
    if place is None:
        return None
    if _installed(place):
        return top
    if place.is_relative_to(sysconfig.get_path("stdlib")):
        return None
    return place.parent.parent if place.name == "__init__.py" else place.parent


def _installed(place: Path) -> bool:
    return any(part in ("site-packages", "dist-packages") for part in place.parts)
