"""Commands in this process, on the database of the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fastedgy.cli import main

Run = Callable[..., Result]


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without an application."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fastedgy(database_url: str, empty_folder: None) -> Run:
    """Run a command on this test's database, in a folder without an application."""

    def invoke(*words: str, code: int | None = 0, **options: Any) -> Result:
        result = CliRunner().invoke(main, words, env={"DATABASE_URL": database_url}, **options)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert code is None or result.exit_code == code, result.output
        return result

    return invoke
