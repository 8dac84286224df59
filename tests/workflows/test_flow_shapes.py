"""Chains, groups, and tasks that return another task."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import asyncpg
import flow_tasks
import pytest
from crew import Hire, reaches
from flow_tasks import add, break_, give, hand_on, look_at, total, wait_at
from rows import TABLES, read

from fastedgy.errors import (
    CircularWorkflow,
    InvalidArguments,
    NoOpenBuffer,
    TaskCancelled,
    TaskFailed,
)
from fastedgy.ids import new_id
from fastedgy.store.insert import insert
from fastedgy.store.newtask import NewTask, Spec
from fastedgy.workflows import chain, group


async def test_a_chain_passes_each_result_on(hire: Hire) -> None:
    async with hire() as staff:
        made = chain(staff.tasks, (give, 1), add, (add, 10), partial(add, 100))
        assert len(made) == 4

        assert await made.wait(timeout=30) == 112
        assert await staff.tasks.add_task(add, made).wait(timeout=30) == 113
        assert await chain(made.last, add).wait(timeout=30) == 113


async def test_a_step_of_a_chain_may_be_several_side_by_side(hire: Hire) -> None:
    async with hire() as staff:
        fan = chain(staff.tasks, (give, 1), [add, (add, 10), partial(add, second=20)], total)
        ends = chain(staff.tasks, [(give, 1), (give, 2)], [total, (look_at, "x")])

        assert await fan.wait(timeout=30) == 2 + 11 + 21
        assert await ends.wait(timeout=30) == [3, ["1", "2"]]
        assert await staff.tasks.add_task(give, ends).wait(timeout=30) == [3, ["1", "2"]]


async def test_the_maker_of_a_chain_may_have_options(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        made = chain(staff.tasks.task(priority=7), (give, 1), add)
        await made.wait(timeout=30)

        assert {(await read(connection, ref.id))["priority"] for ref in made} == {7}


async def test_inside_an_application_its_producer_is_found(hire: Hire) -> None:
    async with hire():
        assert await chain((give, 1), add).wait(timeout=30) == 2
        assert await group((give, n) for n in range(3)).wait(timeout=30) == [0, 1, 2]
    with pytest.raises(NoOpenBuffer):
        chain(give)


async def test_a_chain_that_breaks_says_where(hire: Hire) -> None:
    async with hire() as staff:
        made = chain(staff.tasks, (give, 1), break_, add)
        with pytest.raises(TaskCancelled, match=r"flow_tasks.break_ .* ended as failed: 1"):
            await made.wait(timeout=30)
        assert await made.counts() == {
            "scheduled": 0, "waiting": 0, "enqueued": 0, "doing": 0,
            "done": 1, "failed": 1, "cancelled": 1,
        }  # fmt: skip


def test_what_is_no_chain_and_no_group_is_refused() -> None:
    from fastedgy.queued_tasks import QueuedTasks

    tasks = QueuedTasks()
    with pytest.raises(InvalidArguments, match="at least one step"):
        chain(tasks)
    with pytest.raises(InvalidArguments, match="empty list"):
        chain(tasks, [])
    with pytest.raises(InvalidArguments, match="empty tuple"):
        group(tasks, (), give)


async def test_a_group_gives_its_results_in_order(hire: Hire) -> None:
    async with hire() as staff:
        made = group(staff.tasks, ((add, n) for n in range(300)))
        mixed = group(
            give, (give, 1), staff.tasks.add_task(give, 2), chain(staff.tasks, (give, 2), add)
        )
        several = group(staff.tasks.add_tasks(give, [(1,), (2,)]))

        assert await made.wait(timeout=30) == list(range(1, 301))
        assert await mixed.wait(timeout=30) == [None, 1, 2, 3]
        assert await several.wait(timeout=30) == [1, 2]
        assert await staff.tasks.add_task(total, several).wait(timeout=30) == 3
        assert await group(staff.tasks, []).wait() == []
        with pytest.raises(InvalidArguments, match="has several"):
            group(several, give)


async def test_a_group_tells_of_its_first_failure_or_of_all(hire: Hire) -> None:
    async with hire() as staff:
        slow = staff.tasks.add_task(wait_at, "group", 3)
        made = group(staff.tasks, (give, 1), break_, slow, (break_, "worse"))
        with pytest.raises(TaskFailed, match="no such file|worse"):
            await made.wait(timeout=30)
        with pytest.raises(TimeoutError, match=r"Of 4 tasks, some have not ended within 0\.05 s"):
            await made.wait(timeout=0.05, return_exceptions=True)
        flow_tasks.gates["group"].set()
        one, failed, three, worse = await made.wait(timeout=20, return_exceptions=True)

        assert (one, three) == (1, 3)
        assert isinstance(failed, TaskFailed)
        assert worse.error_message == "worse"


async def test_a_group_says_how_far_it_has_come(hire: Hire) -> None:
    async with hire() as staff:
        made = group(
            staff.tasks, (give, 1), break_, (wait_at, "progress", 3),
            staff.tasks.task(delay=3600).add_task(give),
        )  # fmt: skip
        await made[0].wait(timeout=30)
        with pytest.raises(TaskFailed):
            await made[1].wait(timeout=30)
        async with asyncio.timeout(20):
            while (progress := await made.progress()).running != 1:
                await asyncio.sleep(0.01)

        assert (progress.total, progress.done, progress.failed) == (4, 1, 1)
        assert (progress.waiting, progress.ended, progress.fraction) == (1, 2, 0.5)
        assert await made.cancel("enough") == 2
        results = await made.wait(timeout=20, return_exceptions=True)
        assert [type(each).__name__ for each in results] == [
            "int", "TaskFailed", "TaskCancelled", "TaskCancelled",
        ]  # fmt: skip
        assert (await made.progress()).fraction == 1.0


async def test_a_group_hears_of_its_ends_without_notifications(hire: Hire) -> None:
    async with hire(use_postgresql_notify=False, polling_interval=0.05) as staff:
        made = group(staff.tasks, ((add, n) for n in range(30)))

        assert await made.wait(timeout=30) == list(range(1, 31))


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        (("add", 1, 2), 3),
        (("give", {"a": 1}), {"a": 1}),
        (("deeper", "deeper", "add", 2, 3), 5),
        (("chain",), 3),
        (("join", 1, 2, 3), 6),
        (("keyed", "x"), "x"),
    ],
    ids=str,
)
async def test_a_task_that_returns_a_task_has_its_result(
    arguments: tuple[Any, ...], result: Any, hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        first = staff.tasks.add_task(hand_on, *arguments)
        after = staff.tasks.add_task(give, [first])

        assert await after.wait(timeout=30) == [result]
        assert await first.wait(timeout=30) == result
        row = await read(connection, first.id)
        assert (row["state"], row["run"], row["attempt"]) == ("done", 1, 1)


async def test_a_task_may_return_one_that_has_ended(hire: Hire) -> None:
    async with hire() as staff:
        good, bad = staff.tasks.add_task(give, 5), staff.tasks.add_task(break_)
        await good.wait(timeout=30)
        with pytest.raises(TaskFailed):
            await bad.wait(timeout=30)

        assert await staff.tasks.add_task(hand_on, str(good.id)).wait(timeout=30) == 5
        with pytest.raises(TaskFailed, match="no such file"):
            await staff.tasks.add_task(hand_on, str(bad.id)).wait(timeout=30)


async def test_the_failure_of_a_returned_task_passes_through(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        first = staff.tasks.add_task(hand_on, "deeper", "break", "no paper")
        child = staff.tasks.add_task(give, first)
        looking = staff.tasks.add_task(look_at, first)

        with pytest.raises(TaskFailed, match="no paper") as caught:
            await first.wait(timeout=30)
        assert caught.value.error_type == "ValueError"
        assert "break_" in (caught.value.traceback or "")
        assert (await reaches(connection, child.id, "cancelled"))["error_type"] == "ParentFailed"
        assert await looking.wait(timeout=30) == ["failed: ValueError: no paper"]


async def test_who_waits_for_a_returned_task_holds_no_slot(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire(concurrency=1) as staff:
        first = staff.tasks.add_task(hand_on, "wait", "returned", 9)
        row = await reaches(connection, first.id, "waiting")
        assert row["stands_for"] is not None
        flow_tasks.gates["returned"].set()

        assert await first.wait(timeout=30) == 9


@pytest.mark.parametrize("kind", ["itself", "own child"])
async def test_a_task_that_would_wait_for_itself_fails(
    kind: str, hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        with pytest.raises(TaskFailed, match="for ever") as caught:
            await staff.tasks.add_task(hand_on, kind).wait(timeout=30)
        assert caught.value.error_type == "CircularWorkflow"


async def test_a_task_that_returns_what_is_no_task_fails(hire: Hire) -> None:
    async with hire() as staff:
        with pytest.raises(TaskFailed, match="No task has the id") as caught:
            await staff.tasks.add_task(hand_on, str(new_id())).wait(timeout=30)
        assert caught.value.error_type == "TaskNotFound"
        with pytest.raises(TaskFailed, match="can return one task"):
            await staff.tasks.add_task(hand_on, "group", 1, 2).wait(timeout=30)


async def test_new_tasks_that_wait_for_each_other_are_refused(
    connection: asyncpg.Connection,
) -> None:
    spec = Spec("flow", "flow:f")
    one, two, three = new_id(), new_id(), new_id()
    tasks = [
        NewTask(one, spec, parents=(three,)),
        NewTask(two, spec, parents=(one,)),
        NewTask(three, spec, parents=(two,)),
        NewTask(new_id(), spec),
    ]
    with pytest.raises(CircularWorkflow) as caught:
        await insert(connection, TABLES, tasks, channel=None)
    assert set(caught.value.ids) == {one, two, three}
    assert await connection.fetchval("SELECT count(*) FROM queued_tasks") == 0

    tasks[0].parents = ()
    await insert(connection, TABLES, tasks[::-1], channel=None)
    assert await connection.fetchval("SELECT count(*) FROM queued_tasks") == 4
