"""docs/configuration.md lists exactly the settings there are.

`python tests/docs/test_configuration.py` writes the tables of the page anew.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, page
from pydantic import AliasChoices
from pydantic_core import PydanticUndefined

from fastedgy.config import QueuedTaskConfig, Settings, _Checked
from fastedgy.errors import ConfigurationError

PAGE = "docs/configuration.md"
CLASSES: tuple[type[_Checked], ...] = (Settings, QueuedTaskConfig)
UNITS = {"Seconds": "s", "Days": "days", "Bytes": "bytes", "Megabytes": "MB"}
SAMPLES: dict[str, Any] = {
    "app": "main:app", "notify_channel": "bells", "log_level": "debug", "admin_prefix": "/tasks",
}  # fmt: skip


def variables(settings: type[_Checked], field: str) -> list[str]:
    """The environment variables that a field is read from, the documented one first."""
    alias = settings.model_fields[field].validation_alias
    if isinstance(alias, AliasChoices):
        return [str(name) for name in alias.choices if str(name) != field]
    return [settings.variable(field)]


def shown_default(settings: type[_Checked], field: str) -> str:
    """What the page says of a default."""
    info = settings.model_fields[field]
    if field == "max_workers":
        return "the number of CPUs"
    default = info.get_default(call_default_factory=True)
    assert default is not PydanticUndefined
    if default is None or default == []:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def unit(description: str) -> str:
    """The unit of a field, which its description begins with."""
    first = description.split()[0]
    return UNITS.get(first, "")


def table(settings: type[_Checked]) -> str:
    """The page's table of a settings class."""
    rows = ["| variable | field | default | unit | meaning |", "| --- | --- | --- | --- | --- |"]
    for field, info in settings.model_fields.items():
        description = " ".join((info.description or "").split())
        rows.append(
            f"| `{variables(settings, field)[0]}` | `{field}` | {shown_default(settings, field)} "
            f"| {unit(description)} | {description} |"
        )
    return "\n".join(rows)


def with_tables(text: str) -> str:
    """The page with the tables as they should be."""
    for settings in CLASSES:
        begin, end = f"<!-- {settings.__name__}: begin -->", f"<!-- {settings.__name__}: end -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        assert tail, f"{PAGE} lacks {begin} … {end}"
        text = f"{head}{begin}\n\n{table(settings)}\n\n{end}{tail}"
    return text


def test_the_page_lists_exactly_the_settings() -> None:
    assert page(PAGE) == with_tables(page(PAGE)), "run python tests/docs/test_configuration.py"


def test_every_setting_is_explained() -> None:
    for settings in CLASSES:
        for field, info in settings.model_fields.items():
            assert info.description, f"{settings.__name__}.{field} has no description"


@pytest.mark.parametrize(
    ("settings", "field"),
    [(settings, field) for settings in CLASSES for field in settings.model_fields],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_variable_sets_its_field(
    settings: type[_Checked], field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = _another_value(settings, field)
    for variable in variables(settings, field):
        monkeypatch.setenv(variable, _typed(value))
        assert getattr(settings(), field) == value
        monkeypatch.delenv(variable)


def test_every_variable_that_the_pages_name_exists() -> None:
    known = {
        name for cls in CLASSES for field in cls.model_fields for name in variables(cls, field)
    }
    unknown = {}
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        named = set(re.findall(r"\bQUEUE_[A-Z_]+[A-Z]\b", path.read_text(encoding="utf-8")))
        if path.name != "parity.md" and named - known:
            unknown[path.name] = named - known
    assert unknown == {}


def test_examples_of_nonsense_say_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_LEASE", "10")

    with pytest.raises(ConfigurationError) as raised:
        QueuedTaskConfig()

    assert str(raised.value) in " ".join(page(PAGE).split())


def _another_value(settings: type[_Checked], field: str) -> Any:
    """A value that is not the default, and goes with the defaults of the others."""
    if field in SAMPLES:
        return SAMPLES[field]
    default = settings.model_fields[field].get_default(call_default_factory=True)
    if field == "min_workers":
        return 1
    if field == "retention_failed_days":
        return 60.0
    if field == "heartbeat":
        return 4.0
    if field == "log_format":
        return "json"
    if isinstance(default, bool):
        return not default
    if isinstance(default, list):
        return ["one", "two"]
    if isinstance(default, int | float):
        return default + 1
    return "postgresql://db/shop" if field == "database_url" else "elsewhere"


def _typed(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    for name in list(os.environ):
        if name.startswith("QUEUE_"):
            del os.environ[name]
    place = Path(ROOT / PAGE)
    place.write_text(with_tables(place.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"Wrote {place}\n")
