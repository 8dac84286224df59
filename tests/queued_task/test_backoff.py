"""How long a failed task waits, and what a task may say about its own end."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from fastedgy.queued_task import Constant, Discard, Exponential, Linear, Retry, Snooze, Steps
from fastedgy.queued_task.backoff import backoff, policy


def test_the_wait_grows_to_half_an_hour() -> None:
    waits = [backoff(attempt, rand=lambda: 0) for attempt in range(1, 8)]
    assert waits == [5, 20, 80, 320, 1280, 1800, 1800]
    assert backoff(1, rand=lambda: 1) == pytest.approx(4.5)


@pytest.mark.parametrize("attempt", [500, 10_000, 10**6])
def test_the_wait_stays_finite_after_any_number_of_attempts(attempt: int) -> None:
    assert 1620 <= backoff(attempt) <= 1800
    assert 1620 <= backoff(attempt, factor=1.5) <= 1800


@pytest.mark.parametrize(
    ("given", "waits"),
    [
        (3, [3, 3, 3]),
        (timedelta(minutes=1), [60, 60, 60]),
        ([1, 2], [1, 2, 2]),
        ((timedelta(seconds=1), 5.5), [1, 5.5, 5.5]),
        (lambda attempt: attempt * 10, [10, 20, 30]),
        (Constant(4), [4, 4, 4]),
        (Linear(2, max=5, jitter=0), [2, 4, 5]),
        (Exponential(1, 3, 5, jitter=0), [1, 3, 5]),
        (Steps((7,)), [7, 7, 7]),
        (0, [0, 0, 0]),
    ],
)
def test_policies(given: object, waits: list[float]) -> None:
    assert [policy(given)(attempt) for attempt in (1, 2, 3)] == waits


@pytest.mark.parametrize("given", ["5", -1, math.nan, math.inf, True, [], [-1], Exponential, {}])
def test_what_is_no_policy(given: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        policy(given)


def test_words_of_a_task_about_its_end() -> None:
    assert Retry().after is None
    assert Retry(after=timedelta(minutes=2)).after == 120
    assert str(Retry(5, reason="rate limit")) == "rate limit"
    assert str(Retry()) == "asked to be retried"
    assert Snooze(1.5).delay == 1.5
    assert str(Snooze(timedelta(hours=1))) == "snoozed for 3600 s"
    assert Discard("gone").reason == "gone"
    assert str(Discard()) == "discarded by the task itself"


@pytest.mark.parametrize("after", [-1, "5", math.nan, True, 1e14])
def test_impossible_waits_of_a_task(after: object) -> None:
    with pytest.raises(ValueError, match="seconds|100 years"):
        Retry(after=after)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seconds|100 years"):
        Snooze(after)  # type: ignore[arg-type]
