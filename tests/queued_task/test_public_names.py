"""What `fastedgy.queued_task` offers, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fastedgy.queued_task as room


def test_every_public_name_is_there() -> None:
    assert sorted(room.__all__, key=str.lower) == sorted(set(room.__all__), key=str.lower)
    for name in set(room.__all__) - {"QueuedTaskRef"}:
        assert getattr(room, name) is not None
    from fastedgy.models.queued_task import QueuedTaskState

    assert room.QueuedTaskState is QueuedTaskState
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        room.nonsense  # noqa: B018


def test_importing_it_needs_neither_the_database_nor_the_web() -> None:
    code = (
        "import sys, fastedgy.queued_task, fastedgy.queued_task.functions;"
        "print([n for n in ('fastapi', 'edgy', 'asyncpg', 'sqlalchemy') if n in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (run.stdout.strip(), run.stderr) == ("[]", "")
