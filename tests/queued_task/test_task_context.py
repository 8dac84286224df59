"""`set_context` and its like."""

from __future__ import annotations

import asyncio
import math
from contextvars import copy_context
from datetime import UTC, datetime
from threading import Thread
from typing import Any
from uuid import UUID

import pytest

from fastedgy.errors import InvalidContext, NotInTask
from fastedgy.queued_task import (
    TaskContext,
    TaskRun,
    clear_context,
    get_context,
    get_current_task,
    get_full_context,
    set_context,
    set_current_task,
    set_full_context,
)
from fastedgy.queued_task.running import current


def test_dotted_paths_lead_into_nested_objects() -> None:
    with TaskContext() as run:
        set_context("dataset.id", 1)
        set_context("dataset.name", "a")
        set_context("progress", 25)
        assert get_full_context() == {"dataset": {"id": 1, "name": "a"}, "progress": 25}
        assert get_context("dataset.id") == 1
        assert get_context("dataset") == {"id": 1, "name": "a"}
        assert get_context("dataset.id.more", "none") == "none"
        assert get_context("missing") is None
        assert run.take_context() == '{"dataset":{"id":1,"name":"a"},"progress":25}'


def test_what_stands_in_the_way_is_replaced() -> None:
    with TaskContext(context={"a": 1}):
        set_context("a.b", 2)
        assert get_full_context() == {"a": {"b": 2}}


def test_values_are_copied_and_come_back_as_after_a_retry() -> None:
    value: dict[str, Any] = {"when": datetime(2024, 1, 1, tzinfo=UTC), "list": [1]}
    with TaskContext():
        set_context("a", value)
        value["list"].append(object())
        assert get_context("a") == {"when": "2024-01-01T00:00:00+00:00", "list": [1]}
        get_context("a")["list"].append(2)
        get_full_context()["b"] = 1
        assert get_full_context() == {"a": {"when": "2024-01-01T00:00:00+00:00", "list": [1]}}


def test_what_is_not_committed_waits_for_what_is() -> None:
    woken: list[TaskRun] = []
    with TaskContext(TaskRun(UUID(int=1), wake=woken.append)) as run:
        set_context("a", 1, auto_commit=False)
        set_full_context({"b": 1}, auto_commit=False)
        clear_context(auto_commit=False)
        set_context("c", 1, auto_commit=False)
        assert woken == []
        assert run.is_pending()
        set_context("d", 2)
        assert woken == [run]
        assert run.take_context() == '{"c":1,"d":2}'


def test_the_whole_context_is_replaced_or_emptied() -> None:
    with TaskContext(context={"a": 1}):
        set_full_context({"b": {"c": 2}})
        assert get_full_context() == {"b": {"c": 2}}
        clear_context()
        assert get_full_context() == {}


@pytest.mark.parametrize(
    "value", [True, None, 0, -(2**63), 2**64 - 1, 1.5, "é", "", [], {"a": [None]}]
)
def test_json_values_come_back(value: Any) -> None:
    with TaskContext():
        set_context("a", value)
        assert get_context("a", "missing") == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "a.b cannot be stored: a object"),
        ({"x": {1}}, r"a\.b\['x'\] cannot be stored: a set"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (2**64, "64 bits"),
        (2**70, "64 bits"),
        ("\x00", "NUL"),
        ("\ud800", "surrogate"),
        ({1: 2}, "the key 1"),
    ],
)
def test_values_that_cannot_be_stored_are_refused_and_leave_the_context(
    value: Any, reason: str
) -> None:
    with TaskContext(context={"a": 1}):
        with pytest.raises(InvalidContext, match=reason):
            set_context("a.b", value)
        assert get_full_context() == {"a": 1}


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", "a\x00", "\ud800", 1, None, ["a"]])
def test_impossible_paths_are_refused(path: Any) -> None:
    with TaskContext():
        with pytest.raises(InvalidContext, match="is no path into a context"):
            set_context(path, 1)
        with pytest.raises(InvalidContext, match="is no path into a context"):
            get_context(path)


@pytest.mark.parametrize("context", [None, [], "x", {1: 2}, {"a": {1}}])
def test_an_impossible_context_is_refused(context: Any) -> None:
    with TaskContext(), pytest.raises(InvalidContext):
        set_full_context(context)


def test_outside_of_a_task_they_say_so() -> None:
    assert get_current_task() is None
    for call in (
        lambda: set_context("a", 1),
        lambda: get_context("a"),
        get_full_context,
        lambda: set_full_context({}),
        clear_context,
    ):
        with pytest.raises(NotInTask, match="works inside a running task only"):
            call()


async def test_concurrent_tasks_do_not_see_each_other() -> None:
    async def work(number: int) -> Any:
        async with TaskContext():
            set_context("number", number)
            await asyncio.sleep(0)
            return get_full_context()

    assert await asyncio.gather(*map(work, range(20))) == [{"number": n} for n in range(20)]


async def test_a_thread_of_a_task_is_inside_it() -> None:
    with TaskContext() as run:
        await asyncio.to_thread(set_context, "a", 1)
        assert get_current_task() is run
        thread = Thread(target=copy_context().run, args=(set_context, "b", 2))
        thread.start()
        thread.join()
        assert get_full_context() == {"a": 1, "b": 2}
    assert get_current_task() is None


def test_the_current_task_can_be_set_and_taken_back() -> None:
    run = TaskRun(UUID(int=1))
    token = set_current_task(run)
    assert get_current_task() is run
    current.reset(token)
    assert get_current_task() is None
    context = TaskContext(run)
    with context, context as inner:
        assert inner is run
