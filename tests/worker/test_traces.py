"""Logs and context of running tasks: complete when the task has ended, and cheap while it runs."""

from __future__ import annotations

import logging
from typing import Any

import asyncpg
import pytest
import shop_tasks
from crew import Hire
from helpers import eventually
from proxy import Proxy
from rows import read

from fastedgy.queued_task import getLogger
from fastedgy.worker import completer
from fastedgy.worker.traces import LINES


@pytest.mark.parametrize("func", [shop_tasks.talk, shop_tasks.talk_sync])
async def test_all_logs_and_the_context_are_there_when_wait_returns(hire: Hire, func: Any) -> None:
    async with hire() as staff:
        for lines in (1, 3, 3_000, 7):
            ref = staff.tasks.add_task(func, lines)
            await ref.wait(30)
            logs = await ref.logs()
            assert [line.message for line in logs] == [f"line {n}" for n in range(lines)]
            assert [line.seq for line in logs] == list(range(lines))
            assert await ref.context() == {"line": lines - 1}
        assert {line.level for line in logs} == {"info"}
        assert {line.logger for line in logs} == {"shop"}


async def test_many_talking_tasks_at_once_keep_their_lines_apart(hire: Hire) -> None:
    async with hire() as staff, staff.tasks as tasks:
        refs = tasks.add_tasks(shop_tasks.talk, [(number,) for number in range(40)])
        for number, ref in enumerate(refs):
            await ref.wait(30)
            assert len(await ref.logs()) == number


async def test_one_that_says_very_much_costs_its_neighbours_no_line(hire: Hire) -> None:
    """More than fits into one statement with the outcomes."""
    numbers = [3, 0, LINES + 1, 2, 1]
    async with hire() as staff, staff.tasks as tasks:
        refs = tasks.add_tasks(shop_tasks.talk, [(number,) for number in numbers])
        for number, ref in zip(numbers, refs, strict=True):
            await ref.wait(30)
            assert [line.seq for line in await ref.logs()] == list(range(number))


async def test_who_is_behind_with_writing_goes_on_when_it_is_not(
    hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completer, "BATCH", 5)
    monkeypatch.setattr(completer, "MOST_UNWRITTEN", 10)
    async with hire() as staff, staff.tasks as tasks:
        refs = tasks.add_tasks(shop_tasks.talk, [(2,)] * 1_000)
        for ref in refs:
            await ref.wait(30)
        assert staff.counters.done == 1_000
        assert sum([len(await ref.logs()) for ref in refs[::100]]) == 20


async def test_what_is_said_by_a_task_that_gets_a_child_meanwhile_is_written_once(
    hire: Hire,
) -> None:
    async with hire() as staff:
        parent = await staff.tasks.add_task(shop_tasks.hold_and_talk)

        async def runs() -> None:
            assert await parent.get_state() == "doing"

        await eventually(runs)
        child = await staff.tasks.add_task(shop_tasks.echo, 5, parent=parent)
        shop_tasks.gates["hold and talk"].set()
        assert await child.wait(30) == 5
        assert [line.message for line in await parent.logs()] == ["last words"]


async def test_ten_thousand_steps_in_a_second_cost_a_handful_of_statements(
    hire: Hire, wire: Proxy
) -> None:
    async with hire(url=wire.url) as staff:
        await staff.tasks.add_task(shop_tasks.greet, "warm").wait(30)
        wire.reset()
        ref = staff.tasks.add_task(shop_tasks.many_steps, 10_000, 1.0)
        await ref.wait(30)
        writes = [text for text in wire.statements if "SET context = given.context" in text]
        assert await ref.context() == {"progress": {"step": 9_999}}

    assert 1 <= len(writes) <= 8


async def test_progress_is_seen_while_the_task_runs(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        ref = await staff.tasks.add_task(shop_tasks.talk_and_hold)

        async def check() -> None:
            assert await ref.get_state() == "doing"
            assert await ref.context() == {"step": "waiting"}
            assert [line.message for line in await ref.logs()] == ["about to wait"]

        await eventually(check)
        shop_tasks.gates["talk"].set()
        await ref.wait(30)
        assert await ref.context() == {"step": "over"}


async def test_odd_lines_are_kept_as_well_as_they_can_be(hire: Hire) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(shop_tasks.talk_odd)
        await ref.wait(30)
        first, between, wrong, caught = await ref.logs()
        assert await ref.context() == {"odd": ["?", 1]}

    assert first.message.startswith("a")
    assert "\0" not in first.message
    assert between.level == "info"
    assert wrong.message.startswith("'wrong %d'")
    assert caught.level == "error"
    assert "no such user" in str(caught.info)


async def test_a_run_that_never_stops_talking_is_cut_short(hire: Hire) -> None:
    async with hire(log_limit=100) as staff:
        ref = staff.tasks.add_task(shop_tasks.talk, 1_000)
        await ref.wait(30)
        logs = await ref.logs()
        assert staff.counters.log_lines_dropped == 900

    assert len(logs) == 101
    assert "900 further lines" in logs[-1].message


async def test_what_was_said_before_a_failure_is_kept(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        ref = await staff.tasks.add_task(shop_tasks.talk_and_fail)

        async def check() -> None:
            assert await ref.get_state() == "failed"

        await eventually(check)
        assert [line.message for line in await ref.logs()] == ["last words"]
        assert await ref.context() == {"reached": 7}


async def test_other_loggers_write_no_rows(hire: Hire, caplog: pytest.LogCaptureFixture) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(shop_tasks.plain_logging)
        with caplog.at_level(logging.WARNING):
            await ref.wait(30)
            getLogger("shop").warning("outside of a task")
        assert await ref.logs() == []

    assert "not a row" in caplog.messages


async def test_a_context_is_carried_over_to_the_next_attempt(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(shop_tasks.control, "retry", "raise")
        assert await ref.wait(30) == 2

    assert (await read(connection, ref.id))["run"] == 2
