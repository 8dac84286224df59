"""A worker that an operator asks to drain: it ends what it runs, takes no more, and ends."""

from __future__ import annotations

import asyncpg
import pytest
import shop_tasks
from crew import Hire, reaches
from helpers import PATIENCE, eventually
from rows import CHANNELS, TABLES, new, write

from fastedgy.store import drains
from fastedgy.store.notify import SILENT


@pytest.mark.parametrize(
    ("heard", "beats"),
    [(True, {"heartbeat": 4 * PATIENCE, "lease": 20 * PATIENCE}),
     (False, {"heartbeat": 0.3, "lease": 15})],
    ids=["by a notification", "by the beat, when that is lost"],
)  # fmt: skip
async def test_it_ends_what_it_runs_and_takes_no_more(
    hire: Hire, connection: asyncpg.Connection, heard: bool, beats: dict[str, float]
) -> None:
    async with hire(drain_timeout=PATIENCE, **beats) as staff:
        running = await staff.tasks.add_task(shop_tasks.hold).get_task_id()
        await eventually(lambda: _assert(("hold", "began") in shop_tasks.seen))

        await drains.ask(
            connection, TABLES, workers=[staff.worker.id], supervisors=[], actor="ann",
            channels=CHANNELS if heard else SILENT,
        )  # fmt: skip
        await eventually(lambda: _assert(staff.worker._stop.is_set()))
        late = new(function="shop_tasks:greet", args='["you"]')
        await write(connection, late, channel=CHANNELS.tasks)
        shop_tasks.gates["hold"].set()

        assert await staff.ended() == 0
        row = await reaches(connection, running, "done")
        assert (row["run"], row["attempt"]) == (1, 1), "it was not interrupted"
        await reaches(connection, late.id, "enqueued")
        reason = await connection.fetchval(
            "SELECT exit_reason FROM queued_task_workers WHERE id = $1", staff.worker.id
        )
        assert reason == "ann asked for it"


def _assert(holds: bool) -> None:
    assert holds
