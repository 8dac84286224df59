"""A run, and what its worker's writer collects from it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from fastedgy.queued_task.running import TaskRun

ID = UUID(int=1)


def make(**values: Any) -> tuple[TaskRun, list[TaskRun]]:
    woken: list[TaskRun] = []
    return TaskRun(ID, wake=woken.append, **values), woken


def test_a_new_run_has_nothing_to_collect() -> None:
    run, woken = make(context='{"a": 1}')
    assert not run.is_pending()
    assert run.take_context() is None
    assert run.take_logs() == (0, [])
    assert run.values() == {"a": 1}
    assert not run.is_pending()
    assert woken == []


def test_the_writer_is_woken_once_until_it_collects() -> None:
    run, woken = make()
    for _ in range(3):
        run.values()["a"] = 1
        run.touch()
        run.log("info", "x", "line")
    assert woken == [run]
    assert run.take_context() == '{"a":1}'
    assert [line[0] for line in run.take_logs()[1]] == ["info"] * 3
    run.touch()
    assert woken == [run, run]


def test_lines_are_numbered_over_all_collections() -> None:
    run, _ = make()
    run.log("info", "x", "one")
    run.log("info", "x", "two")
    assert run.take_logs()[0] == 0
    run.log("info", "x", "three", '{"a":1}')
    first, [(level, moment, name, message, info)] = run.take_logs()
    assert (first, level, name, message, info) == (2, "info", "x", "three", '{"a":1}')
    assert moment > 0


def test_lines_beyond_the_limit_are_counted_and_the_count_is_the_last_line() -> None:
    run, _ = make(log_limit=3)
    for number in range(2):
        run.log("info", "x", str(number))
    run.take_logs()
    for number in range(5):
        run.log("info", "x", str(number))
    assert run.is_log_full
    assert run.logs_dropped == 4
    run.close_logs()
    first, lines = run.take_logs()
    assert first == 2
    assert [line[3] for line in lines] == [
        "0",
        "4 further lines of this run were dropped: QUEUE_LOG_LIMIT is 3.",
    ]
    run.close_logs()
    assert run.take_logs() == (4, [])


def test_changes_by_hand_to_the_context_are_found_at_the_end() -> None:
    run, woken = make(context='{"a":1}')
    run.context["b"] = 2
    assert woken == []
    assert run.is_pending()
    assert run.take_context() == '{"a":1,"b":2}'
    assert run.take_context() is None
    run.context = {"c": 3}
    assert woken == [run]
    assert run.take_context() == '{"c":3}'


def test_a_context_that_cannot_be_stored_is_reported_and_not_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run, _ = make(name="job")
    run.context["a"] = object()
    assert run.take_context() is None
    assert "The context of task job" in caplog.text


def test_a_context_with_a_value_that_breaks_is_reported_and_not_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @dataclass
    class Torn:
        part: int

    torn = Torn(1)
    del torn.part
    run, _ = make(name="job")
    run.context["a"] = torn
    assert run.take_context() is None
    assert "The context of task job" in caplog.text
    assert "AttributeError" in caplog.text


@pytest.mark.parametrize("stored", ["[]", "null", "1", '"x"'])
def test_a_stored_context_that_is_no_object_counts_as_empty(stored: str) -> None:
    assert make(context=stored)[0].values() == {}


@pytest.mark.parametrize(
    ("attempt", "max_retries", "left", "last"), [(1, 0, 0, True), (1, 3, 3, False), (4, 3, 0, True)]
)
def test_how_many_attempts_are_left(attempt: int, max_retries: int, left: int, last: bool) -> None:
    run = TaskRun(ID, attempt=attempt, max_retries=max_retries, name="job")
    assert (run.retries_left, run.is_last_attempt) == (left, last)
    assert "job" in repr(run)


def test_no_line_is_lost_while_threads_write_and_the_writer_collects() -> None:
    run, _ = make(log_limit=10**6)
    start = threading.Barrier(5)

    def write(number: int) -> None:
        start.wait()
        for line in range(5_000):
            run.log("info", str(number), str(line))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    collected: list[tuple[str, int]] = []
    while any(thread.is_alive() for thread in threads) or run.is_pending():
        first, lines = run.take_logs()
        assert first == len(collected)
        collected += [(line[2], int(line[3])) for line in lines]
    assert len(collected) == 20_000
    for number in range(4):
        assert [line for name, line in collected if name == str(number)] == list(range(5_000))
