"""Sagas: through, or undone in reverse, with a retry budget of their own."""

from __future__ import annotations

import asyncpg
import pytest
import step_tasks
from crew import Hire, reaches
from step_tasks import faults, noted

from fastedgy.errors import InvalidStep, NotInTask, TaskFailed
from fastedgy.workflows import Saga

STEPS = "SELECT name, kind, state, attempts FROM queued_task_steps ORDER BY date_started, name"


async def test_a_saga_that_goes_through_says_so(hire: Hire) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.order)
        assert await ref.wait(timeout=30) == {"status": "completed"}
    assert noted == ["reserve", "charge", "log", "ship"]


async def test_when_a_step_fails_the_finished_ones_are_undone_in_reverse(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.order, "ship")
        assert await ref.wait(timeout=30) == {
            "status": "compensated",
            "compensations": ["charge", "reserve"],
            "error": "step_tasks.Declined: ship was refused",
        }
    assert noted == ["reserve", "charge", "log", "ship", "undo did charge", "undo reserve"]
    assert [tuple(row) for row in await connection.fetch(STEPS)] == [
        ("order.reserve", "step", "done", 1),
        ("order.charge", "step", "done", 1),
        ("order.log", "step", "done", 1),
        ("order.ship", "step", "failed", 1),
        ("order.charge (undo)", "compensation", "done", 1),
        ("order.reserve (undo)", "compensation", "done", 1),
        ("order", "saga", "failed", 1),
    ]
    messages = [row[0] for row in await connection.fetch("SELECT message FROM queued_task_logs")]
    assert "The step charge of the saga order is undone" in messages


async def test_a_step_may_be_tried_again_before_its_failure_counts(hire: Hire) -> None:
    faults["charge"] = 2
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.order, None, retries=2)
        assert await ref.wait(timeout=30) == {"status": "completed"}
    assert noted == ["reserve", "charge", "charge", "charge", "log", "ship"]


async def test_a_step_that_says_so_is_not_tried_again(hire: Hire) -> None:
    async with hire() as staff:
        result = await staff.tasks.add_task(step_tasks.hopeless).wait(timeout=30)
    assert result["status"] == "compensated"
    assert "the card was stolen" in result["error"]
    assert noted == ["reserve", "undo reserve"]


async def test_a_compensation_has_tries_of_its_own(hire: Hire) -> None:
    faults["undo reserve"] = 2
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.order, "charge", undo_retries=2)
        result = await ref.wait(timeout=30)
        assert (await staff.tasks.get_task_by_id(await ref.get_task_id())).attempt == 1
    assert result["compensations"] == ["reserve"]
    assert noted == ["reserve", "charge", "undo reserve", "undo reserve", "undo reserve"]


async def test_a_compensation_that_fails_to_the_end_leaves_the_task_to_be_retried(
    hire: Hire,
) -> None:
    faults["undo did charge"] = 4
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.order, "ship", undo_retries=1)
        for _ in range(2):
            with pytest.raises(TaskFailed, match="no way to undo did charge") as failure:
                await ref.wait(timeout=30)
            assert failure.value.error_type == "fastedgy.errors.CompensationFailed"
            assert "undo reserve" not in noted
            await ref.retry()
        result = await ref.wait(timeout=30)
    assert result["status"] == "compensated"
    assert noted == [
        "reserve", "charge", "log", "ship", *["undo did charge"] * 5, "undo reserve"
    ]  # fmt: skip


async def test_a_task_may_go_on_after_its_saga_was_undone(hire: Hire) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.kept)
        assert await ref.wait(timeout=30) == "apologised for ValueError: no stock"
    assert noted == ["reserve", "undo reserve"]


async def test_time_that_is_over_is_a_failure_and_undone_in_a_run_of_its_own(hire: Hire) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.too_slow)
        assert await ref.wait(timeout=30) == {
            "status": "compensated",
            "compensations": ["reserve"],
            "error": "TaskTimeout: The task did not end in time.",
        }
    assert noted == ["reserve", "undo reserve"]


async def test_steps_beside_the_one_that_failed_end_first_and_are_undone(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        result = await staff.tasks.add_task(step_tasks.beside).wait(timeout=30)
    assert result["compensations"] == ["slow"]
    assert noted == ["slow", "undo slow"]
    # What the block has added to the queue went with it.
    assert await connection.fetchval("SELECT count(*) FROM queued_tasks") == 1


async def test_asking_for_a_retry_is_no_failure(hire: Hire) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.retried_saga)
        assert await ref.wait(timeout=30) == "went through"
    assert noted == ["reserve"]


async def test_a_cancelled_saga_stops_where_it_is_and_goes_on_when_retried(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    faults["charge"] = 1
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.slow_retries)
        await reaches(connection, await ref.get_task_id(), "scheduled")
        await ref.cancel()
        await reaches(connection, ref.id, "cancelled")
        assert noted == ["reserve", "charge"]
        await connection.execute("UPDATE queued_task_steps SET date_due = now()")
        await ref.retry()
        assert await ref.wait(timeout=30) == {"status": "completed"}
    assert noted == ["reserve", "charge", "charge"]


async def test_a_saga_of_another_release_is_not_undone_by_guessing(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    faults["undo did charge"] = 1
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.order, "ship", undo_retries=0)
        with pytest.raises(TaskFailed):
            await ref.wait(timeout=30)
        await connection.execute(
            "UPDATE queued_task_steps SET name = 'order.gone' WHERE name = 'order.reserve'"
        )
        await ref.retry()
        with pytest.raises(TaskFailed) as failure:
            await ref.wait(timeout=30)
    assert failure.value.error_type == "fastedgy.errors.StepsChanged"


async def test_what_makes_no_sense_in_a_saga_is_refused(hire: Hire) -> None:
    for words in (
        {"step_retries": -1}, {"compensation_retries": 1.5}, {"step_retries": True},
        {"backoff": "soon"},
    ):  # fmt: skip
        with pytest.raises(InvalidStep):
            Saga("order", **words)  # type: ignore[arg-type]
    with pytest.raises(InvalidStep, match="is not open"):
        Saga("order").step("one", step_tasks.effect, "one")
    with pytest.raises(NotInTask):
        async with Saga("order"):
            pass
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.odd_compensation)
        result = await ref.wait(timeout=30)
    assert result["compensations"] == ["one"]
    assert "give a function, or a tuple" in result["error"]
