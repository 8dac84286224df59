"""Middleware: around every attempt, in the order given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from crew import Hire
from flow_tasks import add, break_, fail_once, give, give_sync, hand_on

from fastedgy.errors import TaskFailed
from fastedgy.queued_task import (
    Retry,
    TaskRun,
    add_middleware,
    get_current_task,
    middleware,
    on_post_run,
    on_pre_run,
    remove_middleware,
    task,
)
from fastedgy.queued_task.functions import describe
from fastedgy.queued_task.hooks import clear_all_hooks
from fastedgy.queued_task.middleware import registered
from fastedgy.tasks.durable import ON_ERROR
from fastedgy.workflows import CircuitBreaker, idempotent, send_event, step

seen: list[Any] = []


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    seen.clear()
    yield
    for function in list(registered()):
        remove_middleware(function)
    clear_all_hooks()


async def outer(task: TaskRun, call_next: Any) -> Any:
    seen.append("outer in")
    try:
        return await call_next(task)
    finally:
        seen.append("outer out")


async def inner(task: TaskRun, call_next: Any) -> Any:
    seen.append((task.name.split(".")[-1], task.attempt))
    result = await call_next()
    seen.append(result)
    return result


async def test_they_are_around_the_function_in_the_order_given(hire: Hire) -> None:
    add_middleware(outer, inner)
    on_pre_run(lambda task: seen.append("hook"))
    async with hire() as staff:
        assert await staff.tasks.add_task(add, 1).wait(timeout=30) == 2
        assert seen == ["outer in", ("add", 1), "hook", 2, "outer out"]
        assert await staff.tasks.add_task(give_sync, 3).wait(timeout=30) == 3


async def test_they_are_around_every_attempt_and_see_its_error(hire: Hire) -> None:
    add_middleware(outer, inner)
    async with hire(retry_backoff=0.01) as staff:
        with pytest.raises(TaskFailed):
            await staff.tasks.add_task(fail_once).wait(timeout=30)

    assert seen == ["outer in", ("fail_once", 1), "outer out",
                    "outer in", ("fail_once", 2), "outer out"]  # fmt: skip


async def test_they_may_replace_the_result_the_error_and_the_function(hire: Hire) -> None:
    @middleware
    async def meddle(task: TaskRun, call_next: Any) -> Any:
        if task.name.endswith("break_"):
            try:
                return await call_next(task)
            except ValueError:
                return "mended"
        if task.name.endswith("give_sync"):
            return "not called"
        if task.name.endswith("give"):
            raise PermissionError("not today")
        return await call_next(task) * 10

    async with hire() as staff:
        assert await staff.tasks.add_task(break_).wait(timeout=30) == "mended"
        assert await staff.tasks.add_task(give_sync, 1).wait(timeout=30) == "not called"
        assert await staff.tasks.add_task(add, 1).wait(timeout=30) == 20
        with pytest.raises(TaskFailed, match="not today"):
            await staff.tasks.task(max_retries=0).add_task(give).wait(timeout=30)


async def test_they_may_ask_for_another_attempt(hire: Hire) -> None:
    @middleware
    async def hesitate(task: TaskRun, call_next: Any) -> Any:
        if task.attempt == 1:
            raise Retry(after=0)
        return await call_next(task)

    async with hire() as staff:
        assert await staff.tasks.add_task(give, 1).wait(timeout=30) == 1


async def test_they_see_the_task_that_is_returned_in_place_of_a_result(hire: Hire) -> None:
    add_middleware(inner)
    async with hire() as staff:
        assert await staff.tasks.add_task(hand_on, "add", 1).wait(timeout=30) == 2

    assert [type(each).__name__ for each in seen] == ["tuple", "QueuedTaskRef", "tuple", "int"]


def test_only_async_functions_of_a_task_and_a_call_are_taken() -> None:
    def plain(task: Any, call_next: Any) -> None: ...

    async def short(task: Any) -> None: ...

    for wrong in (plain, short, "x"):
        with pytest.raises(TypeError, match="ask middleware"):
            middleware(wrong)  # type: ignore[type-var]
    add_middleware(outer, outer)
    assert list(registered()) == [outer]
    remove_middleware(outer)
    remove_middleware(outer)
    assert list(registered()) == []


@task
async def use_the_queue(*_: Any, **__: Any) -> None:
    async with CircuitBreaker("around"):
        seen.append(await idempotent("around", give_sync, "made"))
        seen.append(await send_event("around"))


@task(max_retries=0)
def fail_with_handler() -> None:
    """Fails like a durable in-process task that the workers have taken over."""
    run = get_current_task()
    assert run is not None
    run.context[ON_ERROR] = describe(use_the_queue).path
    raise ValueError("sync")


@pytest.mark.parametrize("where", ["middleware", "before", "after", "error handler"])
async def test_what_stands_around_a_sync_task_is_in_the_loop(hire: Hire, where: str) -> None:
    async def around(_: TaskRun, call_next: Any) -> Any:
        await use_the_queue()
        return await call_next()

    match where:
        case "middleware":
            add_middleware(around)
        case "before":
            on_pre_run(use_the_queue)
        case "after":
            on_post_run(use_the_queue)
    async with hire() as staff:
        if where == "error handler":
            with pytest.raises(TaskFailed, match="sync"):
                await staff.tasks.add_task(fail_with_handler).wait(timeout=30)
        else:
            assert await staff.tasks.add_task(give_sync, 3).wait(timeout=30) == 3
    assert seen == ["made", True]


async def test_steps_are_for_async_tasks_also_in_middleware(hire: Hire) -> None:
    async def with_step(_: TaskRun, call_next: Any) -> Any:
        await step("one", give_sync)
        return await call_next()

    add_middleware(with_step)
    async with hire() as staff:
        with pytest.raises(TaskFailed) as failure:
            await staff.tasks.add_task(give_sync).wait(timeout=30)
    assert failure.value.error_type == "fastedgy.errors.NotAsync"
