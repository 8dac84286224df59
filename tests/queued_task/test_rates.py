"""Rates as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from fastedgy.errors import InvalidOption
from fastedgy.queued_task import task
from fastedgy.queued_task.rates import rate_of


@pytest.mark.parametrize(
    ("text", "rate"),
    [("10/s", 10.0), ("90/m", 1.5), (" 36 / hour ", 0.01), ("0.5/S", 0.5), ("864/d", 0.01),
     (5, 5.0), (0.25, 0.25)],
)  # fmt: skip
def test_a_rate_is_a_number_and_a_unit(text: Any, rate: float) -> None:
    assert rate_of(text) == pytest.approx(rate)


@pytest.mark.parametrize(
    "text", ["", "10", "ten/s", "10/fortnight", "0/s", "-1/s", 0, True, None, [], float("inf"),
             float("nan"), "1e99/s"],
)  # fmt: skip
def test_anything_else_is_none(text: Any) -> None:
    with pytest.raises(ValueError, match="it must be"):
        rate_of(text)


@pytest.mark.parametrize(
    "options",
    [{"limit": 0}, {"limit": -1}, {"limit": "5"}, {"rate": "fast"}, {"limit": 5, "per": "{nobody}"},
     {"limit": 5, "per": "{"}, {"unique_while": "sometimes"}, {"unique_for": 0},
     {"on_duplicate": "ignore"}, {"breaker": ""}],
    ids=str,
)  # fmt: skip
def test_a_decorator_refuses_what_makes_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):

        @task(**options)
        def function(number: int) -> None: ...


@pytest.mark.parametrize(
    ("word", "meant"),
    [("concurrency", "limit"), ("rate_limit", "rate"), ("concurrency_key", "per")],
)
def test_words_of_other_systems_are_answered_with_ours(word: str, meant: str) -> None:
    with pytest.raises(InvalidOption, match=f"Did you mean {meant}="):
        task(**{word: 5})
