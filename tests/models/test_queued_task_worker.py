from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest


def worker(**values: object) -> object:
    from fastedgy.models.queued_task_worker import QueuedTaskWorker

    given = {"id": uuid4(), "server_name": "a", "pid": 1, "concurrency": 10, "version": "1"}
    return QueuedTaskWorker(**given | values)


@pytest.mark.parametrize(
    ("state", "seconds", "alive"),
    [
        ("running", 1, True),
        ("draining", 1, True),
        ("running", 31, False),
        ("stopped", 1, False),
        ("lost", 1, False),
    ],
)
def test_a_worker_is_alive_while_it_runs_and_beats(state: str, seconds: int, alive: bool) -> None:
    beat = datetime.now(UTC) - timedelta(seconds=seconds)
    assert worker(state=state, last_heartbeat=beat).is_alive is alive


def test_idle_slots_are_those_that_are_not_busy() -> None:
    assert worker(busy=3).idle == 7


async def test_a_worker_row_keeps_its_queues_and_counters(connected_models: None) -> None:
    from fastedgy.models.queued_task_worker import QueuedTaskWorker

    made = worker(queues=["mail", "default"], counters={"done": 3})
    await made.save()
    found = await QueuedTaskWorker.query.get(id=made.id)
    assert list(found.queues) == ["mail", "default"]
    assert found.counters == {"done": 3}
    assert found.state == "running"
    assert found.is_alive
