"""Workers tell the table what they have counted."""

from __future__ import annotations

import signal

import asyncpg
import shop_tasks
from crew import Crew, Hire
from helpers import eventually
from rows import TABLES, new, write

from fastedgy.store import history
from fastedgy.store.rollups import Tally


async def counted(connection: asyncpg.Connection) -> dict[str, Tally]:
    """All-time counts by the last part of the name."""
    found = await history.totals(connection, TABLES)
    return {each.name.rpartition(".")[2]: each.tally for each in found}


async def test_every_end_is_counted_when_the_worker_has_drained(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        refs = staff.tasks.add_tasks(shop_tasks.mark, [(number,) for number in range(300)])
        third = staff.tasks.add_task(shop_tasks.third_time)
        bad = staff.tasks.add_task(shop_tasks.fail, "value error")
        await staff.tasks.flush()
        await third.wait(timeout=30)
        for ref in (*refs, bad):

            async def ended(ref: object = ref) -> None:
                assert await ref.get_state() in ("done", "failed")  # type: ignore[attr-defined]

            await eventually(ended)

    tallies = await counted(connection)

    assert (tallies["mark"].done, tallies["mark"].failed) == (300, 0)
    assert sum(tallies["mark"].runs) == sum(tallies["mark"].waits) == 300
    assert (tallies["third_time"].done, tallies["third_time"].retried) == (1, 2)
    assert (tallies["fail"].done, tallies["fail"].failed) == (0, 1)


async def test_counts_are_there_within_seconds_and_stay_when_the_worker_is_killed(
    crew: Crew, connection: asyncpg.Connection
) -> None:
    process = await crew.start()
    calls = [new(name="mark", function="shop_tasks:mark", args=f"[{n}]") for n in range(20)]
    await write(connection, *calls, channel="queue_new_task")

    async def told() -> None:
        assert (await counted(connection))["mark"].done == 20

    async def listed() -> None:
        assert "mark" in await counted(connection)

    await eventually(listed)
    await eventually(told)
    process.tell(signal.SIGKILL)
    await process.ended()
    await told()
