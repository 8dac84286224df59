"""Hooks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fastedgy.queued_task import (
    clear_all_hooks,
    on_post_create,
    on_post_run,
    on_pre_create,
    on_pre_run,
)
from fastedgy.queued_task.hooks import any_hooks, run_hooks

DECORATORS = {
    "pre_create": on_pre_create,
    "post_create": on_post_create,
    "pre_run": on_pre_run,
    "post_run": on_post_run,
}


@pytest.fixture(autouse=True)
def no_hooks() -> Iterator[None]:
    clear_all_hooks()
    yield
    clear_all_hooks()


@pytest.mark.parametrize("kind", DECORATORS)
async def test_hooks_run_in_order_whether_async_or_not(kind: Any) -> None:
    seen: list[Any] = []

    @DECORATORS[kind]
    async def first(task: str) -> None:
        seen.append(("first", task))

    @DECORATORS[kind]
    def second(task: str) -> None:
        seen.append(("second", task))

    assert DECORATORS[kind](first) is first
    assert any_hooks(kind)
    assert sum(any_hooks(other) for other in DECORATORS) == 1  # type: ignore[arg-type]
    await run_hooks(kind, "task")
    assert seen == [("first", "task"), ("second", "task")]
    clear_all_hooks()
    assert not any_hooks(kind)


async def test_hooks_after_a_run_get_what_they_ask_for() -> None:
    seen: list[Any] = []

    @on_post_run
    async def both(task: str, result: Any = None, error: Any = None) -> None:
        seen.append((result, error))

    @on_post_run
    async def one(task: str, *, error: Any) -> None:
        seen.append(error)

    @on_post_run
    def none(task: str) -> None:
        seen.append(task)

    @on_post_run
    def every(*args: Any, **keywords: Any) -> None:
        seen.append(keywords)

    await run_hooks("post_run", "task", result=1, error=None)
    assert seen == [(1, None), None, "task", {"result": 1, "error": None}]


async def test_a_failing_hook_is_logged_and_the_next_one_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[str] = []

    @on_pre_run
    async def broken(task: str) -> None:
        raise ValueError("no")

    @on_pre_run
    def wrong_arguments() -> None: ...

    on_pre_run(seen.append)
    await run_hooks("pre_run", "task")
    assert seen == ["task"]
    assert "broken (on_pre_run) failed" in caplog.text
    assert "wrong_arguments (on_pre_run) failed" in caplog.text


@pytest.mark.parametrize("hook", [None, "x", int])
def test_only_functions_can_be_hooks(hook: Any) -> None:
    with pytest.raises(TypeError, match="is for functions"):
        on_pre_run(hook)
