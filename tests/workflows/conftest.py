"""Workflows run on workers in this process, and on processes that are killed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SITE = HERE / "site"
WORKERS = HERE.parent / "worker"
for folder in (SITE, WORKERS, WORKERS / "site", HERE.parent / "faults"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

import flow_tasks  # noqa: E402
import step_tasks  # noqa: E402
from crew import Hire  # noqa: E402
from supervised import Supervised  # noqa: E402

from fastedgy.worker import heartbeat  # noqa: E402


@pytest.fixture
def database_url(queue_url: str) -> str:
    return queue_url


@pytest.fixture(autouse=True)
def nothing_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of an earlier test is left in the tasks' module, and workers here end quickly."""
    monkeypatch.setattr(heartbeat, "TICK", 0.1)
    for kept in (step_tasks.noted, step_tasks.flows, step_tasks.gates,
                 step_tasks.faults, flow_tasks.gates):  # fmt: skip
        kept.clear()


@pytest.fixture
def hire(database_url: str) -> Hire:
    """Start a worker in this process: `async with hire(...) as staff`."""
    return Hire(database_url)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Where the tasks of other processes note what they do."""
    path = tmp_path / "ledger"
    path.touch()
    return path


@pytest.fixture
def supervise(database_url: str, ledger: Path) -> Iterator[Callable[..., Supervised]]:
    """Start supervisors; they are killed at the end, with their workers."""
    if not Path("/proc/self/task").exists():
        pytest.skip("finds the workers in /proc")
    started: list[Supervised] = []

    def start(**given: Any) -> Supervised:
        environment = {"LEDGER": str(ledger)}
        started.append(
            Supervised(database_url, SITE, app="durable_app:app", environment=environment, **given)
        )
        return started[-1]

    yield start
    for supervised in started:
        supervised.close()
