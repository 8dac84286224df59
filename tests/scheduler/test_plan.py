"""What a schedule gives when its time has come: coalescing, grace, one after the other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fastedgy.scheduler.plan import AT_ONCE, delayed, plan
from fastedgy.store.schedules import ScheduleRow

ANCHOR = datetime(2025, 1, 1, tzinfo=UTC)


def due(number: int) -> datetime:
    return ANCHOR + timedelta(minutes=number)


def row(**columns: Any) -> ScheduleRow:
    return ScheduleRow("tick", "shop:tick", every=60.0, anchor=ANCHOR, **columns)


def test_a_due_time_that_is_not_missed_gives_one_task_and_moves_on() -> None:
    for coalesce in (True, False):
        made = plan(row(coalesce_missed=coalesce), due(1), due(1) + timedelta(milliseconds=3))
        assert (made.dues, made.next_due, made.missed) == ([due(1)], due(2), 0)


def test_of_several_that_were_missed_only_the_last_gives_a_task() -> None:
    made = plan(row(), due(1), due(7) + timedelta(seconds=30))
    assert (made.dues, made.next_due) == ([due(7)], due(8))
    assert (made.missed, made.because) == (6, "coalesced")


def test_without_coalescing_each_gives_a_task() -> None:
    made = plan(row(coalesce_missed=False), due(1), due(7))
    assert (made.dues, made.next_due, made.missed) == ([due(n) for n in range(1, 8)], due(8), 0)


def test_a_long_backlog_is_made_up_for_in_several_turns() -> None:
    made = plan(row(coalesce_missed=False), due(1), due(10 * AT_ONCE))
    assert len(made.dues) == AT_ONCE
    assert made.next_due == due(AT_ONCE + 1)


def test_what_is_later_than_the_grace_gives_none() -> None:
    late = due(7) + timedelta(seconds=30)
    assert plan(row(misfire_grace=30.0), due(1), late).dues == [due(7)]
    made = plan(row(misfire_grace=29.0), due(1), late)
    assert (made.dues, made.next_due) == ([], due(8))
    assert (made.missed, made.because) == (7, "too late")

    each = row(misfire_grace=90.0, coalesce_missed=False)
    made = plan(each, due(1), late)
    assert (made.dues, made.missed, made.because) == ([due(6), due(7)], 5, "too late")
    none = plan(row(misfire_grace=1.0, coalesce_missed=False), due(1), late)
    assert (none.dues, none.missed, none.last_due, none.next_due) == ([], 7, due(7), due(8))


def test_without_a_grace_it_is_never_too_late() -> None:
    at = datetime(2025, 1, 1, tzinfo=UTC)
    once = ScheduleRow("once", "shop:tick", at=at)
    made = plan(once, at, at + timedelta(days=365))
    assert (made.dues, made.next_due) == ([at], None)


def test_a_long_absence_costs_little_and_its_count_stops_somewhere() -> None:
    cron = ScheduleRow("tick", "shop:tick", cron="* * * * *")
    made = plan(cron, due(1), due(10 * 365 * 1440))
    assert made.dues == [due(10 * 365 * 1440)]
    assert made.missed == 1000


def test_jitter_adds_up_to_so_many_seconds() -> None:
    assert delayed(due(1), 0) == due(1)
    assert delayed(due(1), 10, lambda low, high: high) == due(1) + timedelta(seconds=10)
    assert due(1) <= delayed(due(1), 10) <= due(1) + timedelta(seconds=10)
