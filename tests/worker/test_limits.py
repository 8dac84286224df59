"""Limits, rates, turns and paused queues, on real workers."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import asyncpg
import limit_tasks
import pytest
from crew import Crew, Hire, Staff, reaches
from helpers import PATIENCE, eventually
from rows import CHANNELS, TABLES, change, count, new, read, write

from fastedgy.database import connect
from fastedgy.store import gates, queues, recovery
from fastedgy.store.newtask import NewTask
from fastedgy.store.notify import lanes_payload


@pytest.fixture(autouse=True)
def clean_limits() -> None:
    for book in (limit_tasks.running, limit_tasks.most, limit_tasks.starts, limit_tasks.started):
        book.clear()
    limit_tasks.doors.clear()


def gated(name: str, **columns: Any) -> NewTask:
    """A task of `limit_tasks` with its gate, as its producer would write it."""
    path = f"limit_tasks.{name}"
    return new(function=f"limit_tasks:{name}", name=path, gate=path, limit=1, **columns)


async def all_done(connection: asyncpg.Connection) -> None:
    async def check() -> None:
        assert await count(connection, "state NOT IN ('done', 'failed', 'cancelled')") == 0

    await eventually(check)


async def test_no_more_tasks_of_a_key_run_at_once_than_its_limit(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        async with staff.tasks as tasks:
            tasks.add_tasks(limit_tasks.bill, [(f"c{n % 4}",) for n in range(40)])
        await all_done(connection)

    assert dict(limit_tasks.most) == {f"c{n}": 2 for n in range(4)}


async def test_a_task_that_is_locked_at_the_moment_of_its_claim_is_claimed_when_it_is_not(
    hire: Hire, connection: asyncpg.Connection, database_url: str
) -> None:
    """Whoever waits for it, or adds a child, holds its row for a moment."""
    task = gated("alone")
    other = await connect(database_url)
    async with hire(fallback_polling_interval=3600):
        await write(connection, task)
        async with other.transaction():
            await other.execute(f"SELECT FROM {TABLES.tasks} FOR NO KEY UPDATE")
            bell = lanes_payload((), None, {("default", "limit_tasks.alone", 0)})
            await connection.execute("SELECT pg_notify($1, $2)", CHANNELS.tasks, bell)
            await asyncio.sleep(0.3)  # the absence of something has no sign
            assert await count(connection, "state = 'enqueued'") == 1
        await reaches(connection, task.id, "done")
    await other.close()


async def test_a_limit_without_a_key_counts_all_tasks_of_the_name(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        async with staff.tasks as tasks:
            tasks.add_tasks(limit_tasks.alone, [() for _ in range(12)])
        await all_done(connection)

    assert limit_tasks.most["alone"] == 1
    assert len(limit_tasks.started) == 12


async def test_the_place_of_a_task_that_ends_is_filled_at_once(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        began = time.monotonic()
        async with staff.tasks as tasks:
            tasks.add_tasks(limit_tasks.alone, [(0.0,) for _ in range(30)])
        await all_done(connection)

    assert time.monotonic() - began < 15  # a look a second would take half a minute


async def test_tasks_of_one_call_can_have_limits_too(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        async with staff.tasks as tasks:
            maker = tasks.task(limit=3, per="name:{name}")
            maker.add_tasks(limit_tasks.plain, [("x", 0.02) for _ in range(15)])
        await all_done(connection)

    assert limit_tasks.most["x"] == 3


async def test_a_rate_spreads_the_starts(hire: Hire, connection: asyncpg.Connection) -> None:
    async with hire() as staff:
        async with staff.tasks as tasks:
            tasks.add_tasks(limit_tasks.ping, [() for _ in range(45)])
        await all_done(connection)

    took = limit_tasks.starts[-1] - limit_tasks.starts[0]
    # 20 a second, of which a quarter of a second may come at once at the beginning.
    assert 1.7 < took < 10


async def test_keys_take_turns(hire: Hire, connection: asyncpg.Connection) -> None:
    async with hire(concurrency=2) as staff:
        async with staff.tasks as tasks:
            maker = tasks.task(limit=50, per="{name}")
            maker.add_tasks(limit_tasks.plain, [("greedy", 0.005) for _ in range(400)])
        await eventually(lambda: _is_true(len(limit_tasks.started) > 20))
        async with staff.tasks as tasks:
            modest = tasks.task(limit=50, per="{name}").add_task(limit_tasks.plain, "modest")
        await modest.wait(30)
        assert len(limit_tasks.started) < 300


def _is_true(fact: bool) -> None:
    assert fact


async def test_a_retry_goes_through_the_gate_again(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        refs = [staff.tasks.add_task(limit_tasks.stumble) for _ in range(3)]
        assert [await ref.wait(30) for ref in refs] == [2, 2, 2]

    assert limit_tasks.most["stumble"] == 1


async def test_scheduled_tasks_and_children_go_through_their_gates(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        later = staff.tasks.task(delay=0.2).add_task(limit_tasks.alone)
        child = staff.tasks.add_task(limit_tasks.alone, parent=later)
        await child.wait(30)
        await child.get_state()

    assert limit_tasks.most["alone"] == 1


async def test_a_task_that_was_retried_by_hand_is_run(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        ref = await staff.tasks.add_task(limit_tasks.alone)
        await ref.wait(30)
        assert ref.id is not None
        await change(connection, ref.id, state="failed")
        await ref.retry()
        await reaches(connection, ref.id, "done")


async def test_plain_tasks_are_not_held_up_by_a_gate_that_is_full(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        async with staff.tasks as tasks:
            tasks.task(limit=1).add_tasks(limit_tasks.wait_at_door, [("held",) for _ in range(3)])
        await eventually(lambda: _is_true("held" in limit_tasks.started))
        await staff.tasks.add_task(limit_tasks.plain).wait(30)
        assert limit_tasks.started == ["held", "plain"]
        limit_tasks.doors["held"].set()


async def test_an_operator_may_say_another_limit(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    await gates.set_gate_limits(connection, TABLES, "limit_tasks.alone", max_running=4, rate=None)
    async with hire() as staff:
        async with staff.tasks as tasks:
            tasks.add_tasks(limit_tasks.alone, [(0.03,) for _ in range(20)])
        await all_done(connection)

    assert limit_tasks.most["alone"] == 4


async def test_two_limits_of_one_gate_hold_for_each_task(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        async with staff.tasks as tasks:
            for limit, name in ((1, "one"), (3, "three")) * 6:
                tasks.task(limit=limit, per="shared").add_task(limit_tasks.plain, name, 0.01)
        await all_done(connection)

    assert limit_tasks.most["one"] == 1
    assert limit_tasks.most["three"] <= 3


# Queues


async def pause(connection: asyncpg.Connection, name: str) -> None:
    await queues.pause(connection, TABLES, name, actor="test", channels=CHANNELS)


async def resume(connection: asyncpg.Connection, name: str) -> None:
    await queues.resume(connection, TABLES, name, actor="test", channels=CHANNELS)


async def knows(staff: Staff, **rules: set[str]) -> None:
    """Wait until the worker has heard of the settings."""

    def check() -> None:
        known = staff.worker.parts.fetcher._gates.rules
        assert {"paused": set(known.paused), "limited": set(known.limited)} == {
            "paused": set(), "limited": set(), **rules
        }  # fmt: skip

    await eventually(check)


@pytest.mark.parametrize("gated", [False, True])
async def test_a_paused_queue_starts_nothing_until_it_is_resumed(
    hire: Hire, connection: asyncpg.Connection, *, gated: bool
) -> None:
    options = {"limit": 5} if gated else {}
    async with hire() as staff:
        await pause(connection, "mail")
        await knows(staff, paused={"mail"})
        held = await staff.tasks.task(queue="mail", **options).add_task(limit_tasks.plain, "mail")
        await staff.tasks.task(**options).add_task(limit_tasks.plain, "other").wait(30)
        assert await held.get_state() == "enqueued"
        await resume(connection, "mail")
        await held.wait(30)


async def test_a_worker_that_starts_later_obeys_the_pause(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    await pause(connection, "mail")
    async with hire() as staff:
        held = await staff.tasks.task(queue="mail").add_task(limit_tasks.plain, "mail")
        await staff.tasks.add_task(limit_tasks.plain).wait(30)
        assert await held.get_state() == "enqueued"


async def test_without_notifications_a_pause_is_obeyed_within_a_second(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire(use_postgresql_notify=False, polling_interval=0.2) as staff:
        await staff.tasks.task(queue="mail").add_task(limit_tasks.plain).wait(30)
        await queues.pause(connection, TABLES, "mail", actor="test")
        await knows(staff, paused={"mail"})
        held = await staff.tasks.task(queue="mail").add_task(limit_tasks.plain)
        await staff.tasks.add_task(limit_tasks.plain).wait(30)
        assert await held.get_state() == "enqueued"


async def test_what_was_claimed_ahead_of_a_paused_queue_goes_back(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire(concurrency=1) as staff:
        staff.claims_ahead()
        async with staff.tasks as tasks:
            tasks.task(queue="mail").add_tasks(limit_tasks.wait_at_door, [("x",)] * 4)
        await eventually(lambda: _is_true(staff.worker.parts.executor.queued == 3))
        await pause(connection, "mail")

        async def check() -> None:
            assert await count(connection, "state = 'enqueued'") == 3

        await eventually(check)
        assert await count(connection, "state = 'enqueued' AND attempt = 0") == 3
        limit_tasks.doors["x"].set()


async def test_a_limited_queue_runs_no_more_at_once(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    await queues.set_limits(
        connection, TABLES, "mail", max_running=3, rate=None, actor="test", channels=CHANNELS
    )
    async with hire() as staff:
        async with staff.tasks as tasks:
            tasks.task(queue="mail").add_tasks(limit_tasks.plain, [("mail", 0.01)] * 20)
            tasks.task(queue="mail", limit=10).add_tasks(limit_tasks.plain, [("mail", 0.01)] * 20)
            tasks.task(queue="other").add_tasks(limit_tasks.plain, [("other", 0.3)] * 10)
        await all_done(connection)

    assert limit_tasks.most["mail"] == 3
    assert limit_tasks.most["other"] == 10


async def test_limits_of_a_queue_change_while_workers_run(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async def limit(number: int | None) -> None:
        await queues.set_limits(
            connection, TABLES, "mail", max_running=number, rate=None, actor="test",
            channels=CHANNELS,
        )  # fmt: skip

    async with hire() as staff:
        await limit(1)
        await knows(staff, limited={"mail"})
        async with staff.tasks as tasks:
            tasks.task(queue="mail").add_tasks(limit_tasks.wait_at_door, [("mail",)] * 8)
        await eventually(lambda: _is_true(limit_tasks.running["mail"] == 1))
        await limit(4)
        await eventually(lambda: _is_true(limit_tasks.running["mail"] == 4))
        limit_tasks.doors["mail"].set()
        await limit(None)
        await knows(staff)
        await all_done(connection)


async def test_a_queue_may_have_a_rate(hire: Hire, connection: asyncpg.Connection) -> None:
    await queues.set_limits(
        connection, TABLES, "mail", max_running=None, rate=20.0, actor="test", channels=CHANNELS
    )
    async with hire() as staff:
        async with staff.tasks as tasks:
            tasks.task(queue="mail").add_tasks(limit_tasks.plain, [()] * 30)
        await all_done(connection)

    assert 1.0 < limit_tasks.starts[-1] - limit_tasks.starts[0] < 4


# Breakers


async def breaker(connection: asyncpg.Connection, state: str) -> None:
    await connection.execute(
        f"INSERT INTO {TABLES.breakers} (name, state, opened_at) VALUES ('payments', $1,"
        " clock_timestamp()) ON CONFLICT (name) DO UPDATE SET state = excluded.state",
        state,
    )


async def test_an_open_breaker_keeps_its_tasks_in_the_line(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    await breaker(connection, "open")
    async with hire() as staff:
        held = await staff.tasks.add_task(limit_tasks.pay)
        await staff.tasks.add_task(limit_tasks.plain).wait(30)
        assert held.id is not None
        row = await read(connection, held.id)
        assert (row["state"], row["attempt"]) == ("enqueued", 0)
        await breaker(connection, "closed")
        await held.wait(3)


# Crashes


async def test_places_of_a_killed_worker_are_free_again(
    crew: Crew, connection: asyncpg.Connection
) -> None:
    first = await crew.start(concurrency=4)
    one, two = [gated("alone", args=f"[{seconds}]") for seconds in (30, 0)]
    await write(connection, one, channel=CHANNELS.tasks)
    await reaches(connection, one.id, "doing")
    await crew.start(concurrency=4)
    await write(connection, two, channel=CHANNELS.tasks)
    first.tell(signal.SIGKILL)
    await first.ended()
    assert (await read(connection, two.id))["state"] == "enqueued"
    await recovery.report_lost(
        connection, TABLES, worker_id=first.worker_id, exit_reason="killed", started=[one.id],
        max_losses=1, channels=CHANNELS,
    )  # fmt: skip
    await reaches(connection, two.id, "done")


async def test_a_suspect_waits_for_a_place_at_its_gate(
    hire: Hire, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastedgy.worker.worker.SOLO_IDLE", PATIENCE)  # no supervisor sends another
    async with hire() as staff:
        blocker = await staff.tasks.add_task(limit_tasks.alone, 2.0)
        assert blocker.id is not None
        await reaches(connection, blocker.id, "doing")
        task = gated("alone")
        await write(connection, task)
        suspect = task.id
        await change(connection, suspect, alone=True)
        async with hire(solo=True):
            await reaches(connection, suspect, "done")
        await blocker.wait(30)

    assert limit_tasks.most["alone"] == 1


async def test_several_workers_count_together(
    crew: Crew, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    book = tmp_path / "ledger"
    book.touch()
    await asyncio.gather(*(crew.start(concurrency=10) for _ in range(2)))
    tasks = [
        new(function="limit_tasks:enter_in_ledger", gate=f"ledger:{number % 2}", limit=3,
            args=f'["{book}", {number % 2}, 0.03]')
        for number in range(60)
    ]  # fmt: skip
    await write(connection, *tasks, channel=CHANNELS.tasks)
    await all_done(connection)

    lines = [line.split() for line in book.read_text().splitlines()]
    running = {"0": 0, "1": 0}
    most = dict(running)
    for sign, _, key, _ in sorted(lines, key=lambda line: float(line[1])):
        running[key] += 1 if sign == "+" else -1
        most[key] = max(most[key], running[key])
    assert most == {"0": 3, "1": 3}
