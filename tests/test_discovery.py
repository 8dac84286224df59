"""Finding the application, and what is said when it cannot be found."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from fastedgy.discovery import app_packages, find_app
from fastedgy.errors import AppNotFound, ConfigurationError

APP = "from fastapi import FastAPI\napp = FastAPI(title={!r})\n"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a file of a project whose folder is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(name: str, text: str = "") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("place", ["main.py", "app.py", "app/main.py", "api.py"])
def test_the_usual_places_are_looked_at(write: Write, place: str) -> None:
    write(place, APP.format(place))

    assert find_app().title == place


def test_main_goes_before_the_other_places(write: Write) -> None:
    for place in ("api.py", "main.py", "app.py"):
        write(place, APP.format(place))

    assert find_app(None).title == find_app("").title == "main.py"


@pytest.mark.parametrize(
    "spec", ["shop.web:app", "shop.web", "shop/web.py", "shop/web.py:app", "shop.web:Box.app"]
)
def test_a_module_an_attribute_or_a_file_names_the_application(write: Write, spec: str) -> None:
    write("shop/__init__.py")
    write("shop/web.py", APP.format("shop") + "class Box:\n    app = app\n")

    assert find_app(spec).title == "shop"


def test_an_absolute_file_in_the_folder_works(write: Write) -> None:
    assert find_app(str(write("main.py", APP.format("x")))).title == "x"


def test_the_only_application_of_a_module_needs_no_name(write: Write) -> None:
    write("main.py", "from fastapi import FastAPI\napi = FastAPI(title='api')\n")

    assert find_app().title == "api"


@pytest.mark.parametrize("spec", ["main:create_app", "main:create_app()"])
def test_a_factory_is_called(write: Write, spec: str) -> None:
    write("main.py", "from fastapi import FastAPI\ndef create_app(): return FastAPI(title='made')")

    assert find_app(spec).title == "made"


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        (None, None, r"There is no application here: none of main.py.*--app"),
        (None, "shop:app", r"'shop:app' cannot be imported: there is no module shop in"),
        (None, "shop.web:app", r"there is no module shop in"),
        (None, "not a name", "names no application"),
        (None, "../main.py", "outside of the working directory"),
        ("", "main:app", "main has no app"),
        ("", None, "The module main has no `app`"),
        (
            "import nowhere_at_all",
            None,
            r"ModuleNotFoundError: No module named 'nowhere_at_all' at ",
        ),
        ("x = 1 / 0", None, r"ZeroDivisionError: division by zero at .*main.py:1\. "),
        ("def (", None, r"SyntaxError: .* at .*main.py:1"),
        ("raise SystemExit(4)", None, "SystemExit: 4"),
        ("app = 3", "main:app", "is no FastAPI object, but a int"),
        ("def create(x): ...", "main:create", "cannot be made: .*missing a required argument: 'x'"),
        ("def create(): return 3", "main:create", "is no FastAPI object, but a int"),
        ("async def create(): ...", "main:create", "is no FastAPI object, but a coroutine"),
        ("def create(): raise KeyError('x')", "main:create", "cannot be made: KeyError: 'x'"),
        (APP.format("a") + "b = FastAPI()", "main:c", "has no c. Its FastAPI objects: app, b."),
    ],
)
def test_an_application_that_is_not_there_is_told_in_one_sentence(
    write: Write, text: str | None, spec: str | None, message: str
) -> None:
    if text is not None:
        write("main.py", text)

    with pytest.raises(AppNotFound, match=message) as caught:
        find_app(spec)
    assert "\n" not in str(caught.value)


def test_wrong_settings_in_the_applications_module_speak_for_themselves(write: Write) -> None:
    write(
        "main.py",
        "from fastedgy.config import QueuedTaskConfig\nQueuedTaskConfig(max_workers='many')",
    )

    with pytest.raises(ConfigurationError, match="QUEUE_MAX_WORKERS"):
        find_app()


def test_the_own_code_of_a_project_is_in_its_folder(write: Write, tmp_path: Path) -> None:
    write("app/main.py", APP.format("x"))

    assert app_packages(find_app()) == [tmp_path.resolve()]


def test_the_own_code_of_a_package_is_beside_it(write: Write, tmp_path: Path) -> None:
    write("src/shop/__init__.py")
    write("src/shop/web.py", APP.format("x"))
    sys.path.insert(0, str(tmp_path / "src"))

    assert app_packages(find_app("shop.web")) == [tmp_path.resolve() / "src"]


def test_the_own_code_of_an_installed_package_is_that_package(write: Write, tmp_path: Path) -> None:
    write("venv/site-packages/shop/__init__.py", APP.format("x"))
    sys.path.insert(0, str(tmp_path / "venv/site-packages"))

    assert app_packages(find_app("shop")) == ["shop"]


def test_routes_tell_where_the_code_of_an_application_is(write: Write) -> None:
    app = FastAPI()

    @app.get("/")
    async def read() -> None: ...

    assert app_packages(app) == [Path(__file__).resolve().parent]


def test_nothing_of_python_itself_is_own_code(write: Write) -> None:
    app = FastAPI()
    app.get("/")(sysconfig.get_path)

    assert app_packages(app) == []
