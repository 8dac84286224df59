"""Steps: made once, given back to later runs, compared with those of another release."""

from __future__ import annotations

import asyncpg
import pytest
import step_tasks
from crew import Hire, reaches
from helpers import eventually
from step_tasks import flows, noted

from fastedgy.errors import InvalidStep, NotInTask, TaskFailed
from fastedgy.queued_task import TaskContext
from fastedgy.workflows import step


async def test_a_retry_goes_on_after_the_last_finished_step(hire: Hire) -> None:
    flows["f"] = ["a", "b", "c"]
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.flow, "f", 2)
        assert await ref.wait(timeout=30) == ["did a", "did b", "did c"]
    assert noted == ["a", "b", "c"]


async def test_a_step_that_failed_is_made_again_by_the_next_run(hire: Hire) -> None:
    flows["f"] = ["a", "b"]
    step_tasks.faults["b"] = 2
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.flow, "f", 0)
        assert await ref.wait(timeout=30) == ["did a", "did b"]
    assert noted == ["a", "b", "b", "b"]


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (["a", "b", "c"], ["b", "a", "c"], "'b' was number 2, and is number 1 now"),
        (["a", "b", "c"], ["a", "new", "b", "c"], "number 2 was 'b', and is 'new' now"),
        (["a", "b", "c"], ["a", "c"], "number 2 was 'b', and is 'c' now"),
        (["a", "nap", "c"], ["a", "sleep", "c"], "'nap' was a step, and is a sleep now"),
    ],
    ids=["another order", "one more", "one less", "another kind"],
)
async def test_other_steps_in_a_newer_release_are_detected_before_anything_is_run(
    hire: Hire, connection: asyncpg.Connection, before: list[str], after: list[str], reason: str
) -> None:
    flows["f"] = before
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.flow, "f", 2)
        await reaches(connection, await ref.get_task_id(), "scheduled")
        flows["f"] = after
        with pytest.raises(TaskFailed) as failure:
            await ref.wait(timeout=30)
        assert failure.value.error_type == "fastedgy.errors.StepsChanged"
        assert reason in failure.value.error_message
        assert noted == before[:2]
        # The release is rolled back, and the task goes on where it was.
        flows["f"] = before
        await ref.retry()
        await ref.wait(timeout=30)
    assert noted == before


async def test_steps_that_the_task_ends_without_are_told_in_its_log(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    flows["f"] = ["a", "b"]
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.flow, "f", 2)
        await reaches(connection, await ref.get_task_id(), "scheduled")
        flows["f"] = ["a"]
        assert await ref.wait(timeout=30) == ["did a"]
    message = await connection.fetchval("SELECT message FROM queued_task_logs")
    assert "ended without these steps, which an earlier run has begun: b" in message


async def test_a_failure_that_the_task_went_on_from_is_a_fact(hire: Hire) -> None:
    step_tasks.faults["charge"] = 1
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.handled_failure)
        assert await ref.wait(timeout=30) == "invoice after charge was refused"
    assert noted == ["charge", "book"]


async def test_results_are_rebuilt_in_the_same_way_by_all_runs(hire: Hire) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.rebuilt)
        assert await ref.wait(timeout=30) == ["Receipt", "7", "2026-11-21"]
    assert noted == ["receipt", "Receiptdate", "Receiptdate"]


async def test_a_sync_function_of_a_step_runs_in_a_thread(hire: Hire) -> None:
    async with hire() as staff:
        assert await staff.tasks.add_task(step_tasks.in_a_thread).wait(timeout=30) == "slow"


async def test_steps_may_be_made_side_by_side(hire: Hire) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.side_by_side)
        assert await ref.wait(timeout=30) == [f"did part {n}" for n in range(5)]
    assert sorted(noted) == [f"part {n}" for n in range(5)]


@pytest.mark.parametrize(
    ("task", "error", "words"),
    [
        (step_tasks.twice_the_same, "InvalidStep", "two steps named 'one'"),
        (step_tasks.nested, "InvalidStep", "Steps do not nest"),
        (step_tasks.in_transaction, "InvalidStep", "inside an open transaction"),
        (step_tasks.sync_with_steps, "NotAsync", "Write `async def`"),
        (step_tasks.sync_with_loop, "NotAsync", "send_event() works in async tasks only"),
    ],
)
async def test_what_cannot_be_a_step_fails_at_once_and_says_why(
    hire: Hire, task: object, error: str, words: str
) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(task)  # type: ignore[arg-type]
        with pytest.raises(TaskFailed) as failure:
            await ref.wait(timeout=30)
    assert failure.value.error_type == f"fastedgy.errors.{error}"
    assert words in failure.value.error_message
    assert set(noted) <= {"one"}


async def test_outside_a_task_there_are_no_steps() -> None:
    with pytest.raises(NotInTask):
        step("one", step_tasks.effect, "one")


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "a\x00b", 7])
async def test_a_name_that_cannot_be_stored_is_refused(hire: Hire, name: object) -> None:
    async with hire():
        with TaskContext(), pytest.raises(InvalidStep):
            step(name, step_tasks.effect, "one")  # type: ignore[call-overload]


@pytest.mark.parametrize("large", [True, False])
async def test_a_result_that_cannot_be_stored_fails_the_task_and_is_not_made_again(
    hire: Hire, large: bool
) -> None:
    async with hire(max_result_size=1_000) as staff:
        ref = staff.tasks.add_task(step_tasks.unstorable, large)
        for _ in range(2):
            with pytest.raises(TaskFailed) as failure:
                await ref.wait(timeout=30)
            assert failure.value.error_type == "fastedgy.errors.StepResultNotStored"
            await ref.retry()
        await eventually(lambda: _is(len(noted), 1))
    assert noted == ["large" if large else "unknown"]


def _is(value: object, expected: object) -> None:
    assert value == expected


async def test_what_a_step_adds_to_the_queue_is_written_with_it_and_once(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.adding)
        await reaches(connection, await ref.get_task_id(), "scheduled")
        assert await connection.fetchval("SELECT count(*) FROM queued_tasks") == 2
        assert await ref.wait(timeout=30) == "added"
        await eventually(lambda: _is(noted, ["child"]))
    assert await connection.fetchval("SELECT count(*) FROM queued_tasks") == 2


async def test_a_run_whose_task_was_taken_over_makes_no_further_step(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        id = await staff.tasks.add_task(step_tasks.taken_over).get_task_id()
        await eventually(lambda: _is(noted, ["before", "ready"]))
        await connection.execute("UPDATE queued_tasks SET run = run + 1 WHERE id = $1", id)
        step_tasks.gates["go on"].set()
        await eventually(lambda: _is(staff.counters.fenced, 1))
    assert noted == ["before", "ready"]
    rows = await connection.fetch("SELECT name, state FROM queued_task_steps")
    assert [tuple(row) for row in rows] == [("before", "done")]


async def test_what_a_thread_has_done_counts_although_the_task_was_interrupted(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire(drain_timeout=0.1) as staff:
        ref = staff.tasks.add_task(step_tasks.stubborn_step)
        await ref.get_task_id()
        await eventually(lambda: _is(noted, ["started"]))
        staff.worker.stop()
        await staff.ended()
    row = await connection.fetchrow("SELECT state, result FROM queued_task_steps")
    assert tuple(row) == ("done", '"finished"')
    async with hire() as staff:
        assert await staff.tasks.ref(ref.id).wait(timeout=30) == "finished"
    assert noted == ["started", "finished"]
