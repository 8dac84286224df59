"""How figures become medians and verdicts, and what of a cost is too much."""

from __future__ import annotations

import pytest

from benchmarks import costs
from benchmarks.harness import Lab
from benchmarks.report import Bar, Figures, Result, Scenario, percentile, rounded


async def nothing(lab: Lab) -> Figures:
    return {}


def scenario(*bars: Bar) -> Scenario:
    return Scenario("drain", "tasks/s", "a drain", nothing, bars)


def test_a_result_is_the_medians_of_the_repetitions_and_of_their_ratios() -> None:
    runs = [{"value": v, "floor": f} for v, f in ((10.0, 100.0), (50.0, 100.0), (30.0, 40.0))]
    shown = Result.of(scenario(Bar("ratio", 0.5, "of the floor")), runs).as_json()
    assert (shown["value"], shown["floor"], shown["ratio"]) == (30, 100, 0.5)
    assert shown["spread"] == [10, 50]
    assert shown["holds"] is True


def test_one_bar_that_does_not_hold_is_enough() -> None:
    bars = (Bar("value", 5, "ms", at_most=True), Bar("value", 5, "at least"))
    assert Result.of(scenario(*bars), [{"value": 4.0}]).holds is False


def test_without_a_bar_there_is_no_verdict() -> None:
    assert Result.of(scenario(), [{"value": 4.0}]).holds is None


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100)])
def test_a_percentile_is_a_value_that_was_measured(share: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_figures_are_shown_with_four_digits() -> None:
    assert [rounded(v) for v in (0.0, 0.0123456, 12.3456, 123456.7)] == [0, 0.01235, 12.35, 123457]


def test_a_cost_above_its_tolerance_is_told_with_the_cure() -> None:
    expected = {"run": {"wal_bytes": 700.0, "rows_scanned": 0.0}}
    fine = {"run": {"wal_bytes": 720.0, "rows_scanned": 0.0}}
    worse = {"run": {"wal_bytes": 1_400.0, "rows_scanned": 3.0}}
    assert costs.complaints(fine, expected) == []
    told = costs.complaints(worse, expected)
    assert len(told) == 2
    assert "1400 wal_bytes per task, expected 700" in told[0]
    assert "costs --update" in told[0]


def test_less_than_expected_is_no_complaint() -> None:
    assert costs.complaints({"run": {"wal_bytes": 1.0}}, {"run": {"wal_bytes": 700.0}}) == []
