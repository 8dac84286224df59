"""A supervisor under test, and the fake workers that it starts."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from stage import Stage


@pytest.fixture
async def stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Stage]:
    monkeypatch.setenv("FAKE_WORKERS", str(tmp_path))
    caplog.set_level(logging.DEBUG, logger="fastedgy.supervisor")
    stage = Stage(tmp_path, caplog)
    yield stage
    await stage.close()


@pytest.fixture
def start_order(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What the workers that are started from now on do first."""
    return lambda order: monkeypatch.setenv("FAKE_START", order)
