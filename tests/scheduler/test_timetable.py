"""When cron expressions, periods and moments are due; both changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest

from fastedgy.errors import InvalidSchedule
from fastedgy.scheduler.trigger import Trigger
from fastedgy.scheduler.walltime import cron, instant, zone

MINUTE = timedelta(minutes=1)
ZONES = (
    "Europe/Paris",
    "America/New_York",
    "Australia/Lord_Howe",
)  # the last changes by 30 minutes
EXPRESSIONS = {
    "30 2 * * *": lambda local: (local.hour, local.minute) == (2, 30),
    "0 3 * * *": lambda local: (local.hour, local.minute) == (3, 0),
    "15 1,2 * * *": lambda local: local.hour in (1, 2) and local.minute == 15,
    "*/20 * * * *": lambda local: local.minute % 20 == 0,
    "45 1 * * sun": lambda local: (local.isoweekday(), local.hour, local.minute) == (7, 1, 45),
}


def changes(name: str, first: int, last: int) -> list[datetime]:
    """The instants at which a zone's offset changes, found by looking at every hour."""
    where, found = ZoneInfo(name), []
    at, end = datetime(first, 1, 1, tzinfo=UTC), datetime(last + 1, 1, 1, tzinfo=UTC)
    before = at.astimezone(where).utcoffset()
    while at < end:
        offset = at.astimezone(where).utcoffset()
        if offset != before:
            found.append(at)
        before = offset
        at += timedelta(hours=1)
    return found


def table(name: str, matches: object, start: datetime, end: datetime) -> list[datetime]:
    """What is due, by watching a clock in that zone minute by minute: whatever it shows for the
    first time is due, and whatever it jumps over is due when it has jumped."""
    assert callable(matches)
    where, found = ZoneInfo(name), []
    at = start
    highest = at.astimezone(where).replace(tzinfo=None)
    while (at := at + MINUTE) <= end:
        shown = at.astimezone(where).replace(tzinfo=None)
        due = False
        while highest < shown:
            highest += MINUTE
            due = due or matches(highest)
        if due:
            found.append(at)
    return found


@pytest.mark.parametrize("name", ZONES)
def test_both_changes_of_the_clock_in_ten_years_match_a_table_made_by_watching_a_clock(
    name: str,
) -> None:
    instants = changes(name, 2024, 2033)
    assert len(instants) == 20
    for change in instants:
        start, end = change - timedelta(hours=14), change + timedelta(hours=14)
        for text, matches in EXPRESSIONS.items():
            trigger = Trigger(cron=text, timezone=name, end=end)
            expected = table(name, matches, start, end)
            assert list(trigger.after(start)) == expected, (name, change, text)
            for due, following in pairwise(expected):
                assert trigger.latest(due) == due
                assert trigger.latest(following - timedelta(seconds=1)) == due
                assert trigger.next(following - timedelta(seconds=1)) == following


def test_a_time_that_does_not_exist_is_the_first_instant_after_the_gap() -> None:
    paris = zone("Europe/Paris")
    assert instant(datetime(2025, 3, 30, 2, 30), paris) == datetime(2025, 3, 30, 1, 0, tzinfo=UTC)
    assert instant(datetime(2025, 3, 30, 2, 0), paris) == datetime(2025, 3, 30, 1, 0, tzinfo=UTC)
    lord_howe = zone("Australia/Lord_Howe")
    assert instant(datetime(2025, 10, 5, 2, 15), lord_howe) == datetime(
        2025, 10, 4, 15, 30, tzinfo=UTC
    )
    # A whole day that was left out.
    apia = zone("Pacific/Apia")
    assert instant(datetime(2011, 12, 30, 9, 0), apia) == datetime(2011, 12, 30, 10, 0, tzinfo=UTC)


def test_a_time_that_exists_twice_is_the_first_of_the_two() -> None:
    paris = zone("Europe/Paris")
    assert instant(datetime(2025, 10, 26, 2, 30), paris) == datetime(
        2025, 10, 26, 0, 30, tzinfo=UTC
    )
    daily = Trigger(cron="30 2 * * *", timezone="Europe/Paris")
    second = datetime(2025, 10, 26, 1, 10, tzinfo=UTC)  # the clock shows 02:10 again
    assert daily.latest(second) == datetime(2025, 10, 26, 0, 30, tzinfo=UTC)
    assert daily.next(second) == datetime(2025, 10, 27, 1, 30, tzinfo=UTC)


def test_a_period_is_counted_from_its_start_or_from_when_it_was_first_seen() -> None:
    seen = datetime(2025, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
    every = Trigger(every=90.0, anchor=seen)
    assert every.first(seen) == seen + timedelta(seconds=90)
    assert every.next(seen + timedelta(seconds=90)) == seen + timedelta(seconds=180)
    assert every.latest(seen + timedelta(seconds=89)) is None
    assert every.latest(seen + timedelta(days=1000)) == seen + timedelta(days=1000)

    start = seen + timedelta(hours=1)
    later = Trigger(every=90.0, anchor=seen, start=start)
    assert later.first(seen) == start
    # A start that is over keeps the rhythm.
    assert later.first(start + timedelta(seconds=100)) == start + timedelta(seconds=180)


def test_a_tenth_of_a_second_does_not_drift() -> None:
    seen = datetime(2025, 1, 1, tzinfo=UTC)
    every = Trigger(every=0.1, anchor=seen)
    assert every.latest(seen + timedelta(days=365)) == seen + timedelta(days=365)


def test_nothing_is_due_outside_of_start_and_end_which_count_themselves() -> None:
    start, end = datetime(2025, 5, 1, 2, tzinfo=UTC), datetime(2025, 5, 3, 2, tzinfo=UTC)
    daily = Trigger(cron="0 2 * * *", start=start, end=end)
    dues = list(daily.after(datetime(2025, 1, 1, tzinfo=UTC)))
    assert dues == [start, start + timedelta(days=1), end]
    assert daily.next(end) is None
    assert daily.latest(datetime(2030, 1, 1, tzinfo=UTC)) == end
    assert daily.latest(start - timedelta(seconds=1)) is None


def test_one_moment_is_due_once() -> None:
    at = datetime(2025, 5, 1, tzinfo=UTC)
    once = Trigger(at=at)
    assert list(once.after(at - MINUTE)) == [at]
    assert once.next(at) is None
    assert once.first(at + timedelta(seconds=5)) == at
    assert once.first(at + timedelta(hours=1)) is None


def test_seconds_names_of_days_and_short_words_are_cron_too() -> None:
    start = datetime(2025, 1, 1, tzinfo=UTC)  # a Wednesday
    assert list(islice(cron("*/20 * * * * *", "UTC").after(start), 2)) == [
        start + timedelta(seconds=20), start + timedelta(seconds=40)
    ]  # fmt: skip
    assert next(cron("@daily", "UTC").after(start)) == start + timedelta(days=1)
    assert next(cron("0 9 * * MON-fri", "UTC").after(start)) == start + timedelta(hours=9)
    assert next(cron("0 0 l * *", "UTC").after(start)) == datetime(2025, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"cron": "every day"}, "cron='every day' makes no sense"),
        ({"cron": "61 * * * *"}, "minute"),
        ({"cron": "0 0 30 2 *"}, "day-of-month"),
        ({"cron": "0 0 * * *", "every": 5.0}, "cron and every was given"),
        ({}, "none was given"),
        ({"every": 0.0}, "between 0.1 s and 100 years"),
        ({"every": float("nan")}, "between"),
        ({"cron": "0 0 * * *", "timezone": "Europe/Atlantis"}, "no time zone"),
        ({"cron": "0 0 * * *", "timezone": "../../etc/passwd"}, "no time zone"),
        ({"cron": "0 0 * * *", "timezone": ""}, "no time zone"),
        (
            {
                "every": 5.0,
                "start": datetime(2025, 1, 2, tzinfo=UTC),
                "end": datetime(2025, 1, 1, tzinfo=UTC),
            },
            "end= lies before start=",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(
    words: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidSchedule, match=says.replace("(", r"\(")):
        Trigger(**words)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        Trigger(**words)  # type: ignore[arg-type]
