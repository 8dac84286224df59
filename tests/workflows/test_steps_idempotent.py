"""`idempotent`: one effect per key, whoever asks."""

from __future__ import annotations

import asyncpg
import pytest
import step_tasks
from crew import Hire
from step_tasks import faults, noted

from fastedgy.errors import InvalidStep, NotInTask, TaskFailed
from fastedgy.queued_task import TaskContext
from fastedgy.workflows import idempotent


async def test_the_second_one_gets_what_the_first_one_returned(hire: Hire) -> None:
    async with hire() as staff:
        first = staff.tasks.add_task(step_tasks.once, "order:1", "first")
        assert await first.wait(timeout=30) == "first"
        second = staff.tasks.add_task(step_tasks.once, "order:1", "second")
        assert await second.wait(timeout=30) == "first"
        other = staff.tasks.add_task(step_tasks.once, "order:2", "other")
        assert await other.wait(timeout=30) == "other"
    assert noted == ["pay first", "pay other"]


async def test_of_many_at_once_one_makes_the_effect_and_the_others_wait_for_it(
    hire: Hire,
) -> None:
    async with hire() as staff:
        refs = [staff.tasks.add_task(step_tasks.once, "key", "x") for _ in range(10)]
        assert [await ref.wait(timeout=30) for ref in refs] == ["x"] * 10
    assert noted == ["pay x"]


async def test_an_effect_that_failed_may_be_tried_again(hire: Hire) -> None:
    faults["pay"] = 1
    async with hire() as staff:
        assert await staff.tasks.add_task(step_tasks.once, "key", "x").wait(timeout=30) == "x"
    assert noted == ["pay x", "pay x"]


async def test_a_key_whose_time_is_over_is_free(hire: Hire, connection: asyncpg.Connection) -> None:
    async with hire() as staff:
        await staff.tasks.add_task(step_tasks.once, "key", "x").wait(timeout=30)
        await connection.execute("UPDATE queued_task_keys SET date_expires = now()")
        assert await staff.tasks.add_task(step_tasks.once, "key", "y").wait(timeout=30) == "y"
    assert noted == ["pay x", "pay y"]


async def test_a_result_that_cannot_be_stored_does_not_make_the_effect_again(hire: Hire) -> None:
    async with hire() as staff:
        for _ in range(2):
            with pytest.raises(TaskFailed) as failure:
                await staff.tasks.add_task(step_tasks.once_unknown, "key").wait(timeout=30)
            assert failure.value.error_type == "fastedgy.errors.StepResultNotStored"
    assert noted == ["unknown"]


async def test_what_the_effect_adds_to_the_queue_comes_with_it(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        with pytest.raises(TaskFailed):
            await staff.tasks.add_task(step_tasks.once_adding, "key").wait(timeout=30)
    assert await connection.fetchval("SELECT count(*) FROM queued_tasks") == 2


async def test_keys_are_of_tasks_and_text(hire: Hire) -> None:
    with pytest.raises(NotInTask):
        idempotent("key", step_tasks.effect, "x")
    async with hire():
        with TaskContext():
            for key in ("", " ", "k" * 501, "\x00", 7):
                with pytest.raises(InvalidStep):
                    idempotent(key, step_tasks.effect, "x")  # type: ignore[call-overload]


async def test_two_calls_of_one_task_make_one_effect(hire: Hire) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.once_twice, "key")
        assert await ref.wait(timeout=30) == ["x", "x"]
    assert noted == ["pay x"]
