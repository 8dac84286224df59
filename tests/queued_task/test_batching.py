"""Work on many ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import task_samples as samples

from fastedgy.errors import InvalidArguments, InvalidOption, NoOpenBuffer
from fastedgy.queued_task import (
    TaskContext,
    TaskRun,
    batching,
    enqueue_id_range_tasks,
    get_context,
    iter_with_cursor,
)


class Recorder:
    """Stands where QueuedTasks stands."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.calls: list[dict[str, Any]] = []
        self.flushes = 0

    def task(self, **options: Any) -> Recorder:
        self.options = options
        return self

    def add_task(self, func: Any, **kwargs: Any) -> int:
        self.calls.append(kwargs)
        return len(self.calls)

    async def flush(self) -> None:
        self.flushes += 1


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    recorder = Recorder()
    monkeypatch.setattr(batching, "_producer", None)
    batching.use_producer(lambda: recorder)
    return recorder


async def test_one_task_for_each_range_of_ids(producer: Recorder) -> None:
    refs = await enqueue_id_range_tasks(
        samples.send, [5, 1, 2, 2, 9, 7], 2, channel="bulk", priority=3, kind="x"
    )
    assert refs == [1, 2, 3]
    assert producer.calls == [
        {"min_id": 1, "max_id": 2, "kind": "x"},
        {"min_id": 5, "max_id": 7, "kind": "x"},
        {"min_id": 9, "max_id": 9, "kind": "x"},
    ]
    assert producer.options == {"channel": "bulk", "priority": 3, "auto_remove": True}
    assert producer.flushes == 1


async def test_no_ids_make_no_tasks(producer: Recorder) -> None:
    assert await enqueue_id_range_tasks(samples.send, iter([])) == []
    assert producer.flushes == 0


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "2"])
async def test_impossible_sizes(size: Any, producer: Recorder) -> None:
    with pytest.raises(InvalidOption, match="chunk_size="):
        await enqueue_id_range_tasks(samples.send, [1], size)
    with pytest.raises(InvalidOption, match="commit_every="):
        [one async for one in iter_with_cursor([1], commit_every=size)]


async def test_bounds_and_ids_that_make_no_sense(producer: Recorder) -> None:
    with pytest.raises(InvalidArguments, match="min_id= is filled"):
        await enqueue_id_range_tasks(samples.send, [1], min_id=3)
    with pytest.raises(InvalidArguments, match="cannot be put in order"):
        await enqueue_id_range_tasks(samples.send, [1, "a"])  # type: ignore[list-item]
    with pytest.raises(InvalidArguments, match="cannot be put in order"):
        await enqueue_id_range_tasks(samples.send, 7)  # type: ignore[arg-type]


async def test_without_a_producer_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_producer", None)
    with pytest.raises(NoOpenBuffer):
        await enqueue_id_range_tasks(samples.send, [1])


async def test_the_cursor_resumes_behind_what_was_done() -> None:
    with TaskContext() as run:
        done = []
        async for one in iter_with_cursor([3, 1, 2, 4]):
            if one == 3:  # it crashes here
                break
            done.append(one)
        assert done == [1, 2]
        stored = run.take_context()
    assert stored == '{"cursor":2}'
    with TaskContext(TaskRun(run.id, context=stored)):
        assert [one async for one in iter_with_cursor([3, 1, 2, 4])] == [3, 4]
        assert get_context("cursor") == 4


async def test_the_cursor_can_move_in_steps_and_ends_at_the_last() -> None:
    with TaskContext():
        seen = [
            (one, get_context("at.id"))
            async for one in iter_with_cursor([1, 2, 3, 4, 5], "at.id", commit_every=2)
        ]
        assert seen == [(1, None), (2, None), (3, 2), (4, 2), (5, 4)]
        assert get_context("at.id") == 5


async def test_outside_of_a_task_it_only_iterates() -> None:
    assert [one async for one in iter_with_cursor(["b", "a"])] == ["a", "b"]
