"""Whole trees are cancelled and retried."""

from __future__ import annotations

import asyncpg
import flow_tasks
import pytest
from crew import Hire, reaches
from flow_tasks import add, fail_once, give, hand_on, look_at, total, wait_at
from helpers import eventually
from rows import state_of

from fastedgy.errors import InvalidTransition, TaskCancelled, TaskFailed
from fastedgy.workflows import chain, group


async def test_a_tree_is_cancelled_with_all_that_runs_in_it(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        root = staff.tasks.add_task(give, "x")
        running = staff.tasks.add_task(wait_at, "tree", root)
        anyway = staff.tasks.add_task(look_at, [running])
        late = staff.tasks.task(delay=3600).add_task(give, root)
        outside = staff.tasks.add_task(wait_at, "tree", 5)
        await root.wait(timeout=30)
        await reaches(connection, running.id, "doing")

        assert await root.cancel("no longer wanted", tree=True) is True
        for ref in (running, anyway, late):
            with pytest.raises(TaskCancelled, match="no longer wanted"):
                await ref.wait(timeout=30)
        assert await root.get_state() == "done"
        assert await outside.get_state() in ("enqueued", "doing")


async def test_without_the_tree_what_runs_anyway_runs(hire: Hire) -> None:
    async with hire() as staff:
        late = staff.tasks.task(delay=3600).add_task(give)
        anyway = staff.tasks.add_task(look_at, late)
        await anyway
        await late.cancel()

        assert await anyway.wait(timeout=30) == ["TaskCancelled"]


async def test_what_stands_for_a_task_is_cancelled_with_it(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        first = staff.tasks.add_task(hand_on, "wait", "returned", 9)
        row = await reaches(connection, first.id, "waiting")
        await reaches(connection, row["stands_for"], "doing")
        await first.cancel(tree=True)

        await reaches(connection, row["stands_for"], "cancelled")
        with pytest.raises(TaskCancelled):
            await first.wait(timeout=30)


async def test_a_tree_that_was_never_written_never_is(hire: Hire) -> None:
    async with hire() as staff:
        async with staff.tasks.__route__():
            root = staff.tasks.add_task(give)
            child = staff.tasks.add_task(look_at, root)
            spared = staff.tasks.add_task(give)
            anyway = staff.tasks.add_task(look_at, spared)
            root.cancel(tree=True)
            spared.cancel()
        assert await child.get_state() == "cancelled"
        assert await anyway.wait(timeout=30) == ["ResultGone"]


async def test_without_await_the_tree_goes_with_the_routes_other_writes(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        root = staff.tasks.task(delay=3600).add_task(give)
        anyway = await staff.tasks.add_task(look_at, root)
        async with staff.tasks.__route__():
            root.cancel(tree=True)
        assert await state_of(connection, root.id) == "cancelled"  # type: ignore[arg-type]
        assert await state_of(connection, anyway.id) == "cancelled"  # type: ignore[arg-type]


async def test_a_tree_is_retried_from_where_it_broke(hire: Hire) -> None:
    async with hire(retry_backoff=0.01) as staff:
        made = chain(staff.tasks, (give, 4), fail_once, add, add)
        side = staff.tasks.add_task(give, [made[1]])
        with pytest.raises(TaskCancelled):
            await made.wait(timeout=30)
        with pytest.raises(InvalidTransition, match="retry that one first"):
            await made.last.retry()
        await made.last.retry(tree=True)

        assert await made.wait(timeout=30) == 6
        assert await side.wait(timeout=30) == [4]
        with pytest.raises(InvalidTransition):
            await made.last.retry(tree=True)


async def test_a_group_is_retried_with_what_waits_for_it(hire: Hire) -> None:
    async with hire(retry_backoff=0.01) as staff:
        made = group(staff.tasks, (give, 1), (fail_once, 2))
        joined = staff.tasks.add_task(total, made)
        with pytest.raises(TaskCancelled):
            await joined.wait(timeout=30)

        assert await made.retry() == 2
        assert await joined.wait(timeout=30) == 3


async def test_a_task_whose_returned_one_failed_is_retried_in_either_way(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire(retry_backoff=0.01) as staff:
        first = staff.tasks.add_task(hand_on, "break", "no paper")
        with pytest.raises(TaskFailed, match="no paper"):
            await first.wait(timeout=30)
        returned = (await connection.fetchrow(
            "SELECT stands_for FROM queued_tasks WHERE id = $1", first.id))[0]  # fmt: skip

        await first.retry()
        with pytest.raises(TaskFailed, match="no paper"):
            await first.wait(timeout=30)
        row = await reaches(connection, first.id, "failed")
        assert row["stands_for"] != returned
        assert row["attempt"] == 1

        await first.retry(tree=True)
        with pytest.raises(TaskFailed, match="no paper"):
            await first.wait(timeout=30)
        again = await reaches(connection, first.id, "failed")
        assert again["stands_for"] == row["stands_for"]
        assert await connection.fetchval(
            "SELECT attempt + run FROM queued_tasks WHERE id = $1", row["stands_for"]
        ) == 1 + 3  # fmt: skip


async def test_a_task_follows_the_one_it_returned_when_that_was_retried_alone(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire(retry_backoff=0.01) as staff:
        broken = staff.tasks.add_task(fail_once, "late")
        first = staff.tasks.add_task(hand_on, str(broken.id))
        with pytest.raises(TaskFailed):
            await first.wait(timeout=30)
        await broken.retry()
        assert await broken.wait(timeout=30) == "late"
        assert await first.get_state() == "failed"

        await first.retry(tree=True)
        assert await first.wait(timeout=30) == "late"
    assert not flow_tasks.gates


async def test_a_cancelled_chain_is_cancelled_as_a_whole(hire: Hire) -> None:
    async with hire() as staff:
        made = chain(staff.tasks, (wait_at, "chain", 1), add, add)
        await made

        assert await made.cancel() == 3
        with pytest.raises(TaskCancelled):
            await made.wait(timeout=30)

        async def ended() -> None:
            assert (await made.progress()).cancelled == 3

        await eventually(ended)
