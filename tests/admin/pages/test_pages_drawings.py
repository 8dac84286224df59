"""What the pages draw and say, without a browser: pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from starlette.datastructures import QueryParams

from fastedgy.admin.pages import attempts, day, family, filters, plots, squares, words
from fastedgy.admin.types import RunningTask, StateCounts, TaskDetails, WorkerInfo
from fastedgy.errors import InvalidOption
from fastedgy.ids import new_id
from fastedgy.store.find import STATES
from fastedgy.store.schedules import ScheduleRow

NOW = datetime(2030, 1, 2, 12, tzinfo=UTC)


@dataclass
class Member:
    id: UUID
    name: str
    state: str = "done"


def members(*names: str) -> list[Member]:
    return [Member(new_id(), name) for name in names]


def moments(number: int) -> list[datetime]:
    return [NOW + timedelta(minutes=minute) for minute in range(number)]


# Plots.


def test_the_top_of_a_scale_is_a_round_number_above_all_values() -> None:
    assert [plots.ceiling(value) for value in (0, 0.3, 1, 7, 11, 1204)] == [1, 0.5, 1, 10, 20, 2000]


def test_bars_stand_on_each_other_and_none_is_too_small_to_be_seen() -> None:
    series = [plots.Series("done", "done", [1000.0]), plots.Series("failed", "failed", [1.0])]
    plot = plots.bar_plot("Throughput", moments(1), series, words.number)

    done, failed = (float(bar.path.split("v")[1].split("h")[0]) for bar in plot.bars)
    assert done == pytest.approx(plots.HEIGHT / 2, abs=0.1)
    assert failed == 1.5
    assert plot.levels == ["2,000", "1,000", "0"]
    assert plot.columns[0].tip == "12:00 UTC: done 1,000, failed 1"


def test_lines_leave_gaps_where_nothing_is_known() -> None:
    series = [plots.Series("p50", "p50", [1.0, 2.0, None, 4.0, None])]
    (line,) = plots.line_plot("Pick-up", moments(5), series, words.milliseconds).lines

    assert line.path.count("M") == 2
    assert line.path.endswith("h4")


def test_a_latency_of_seconds_does_not_flatten_those_of_milliseconds() -> None:
    series = [plots.Series("p99", "p99", [2.0, 4.0, 30_000.0])]
    plot = plots.line_plot("Pick-up", moments(3), series, words.milliseconds)

    first, second, third = (float(part.split(" ")[1]) for part in plot.lines[0].path[1:].split("L"))
    assert first - second > 5
    assert third < 35
    assert plot.levels == ["16 min 40 s", "1.0 s", "1 ms"]


def test_nothing_in_a_plot_is_said() -> None:
    empty = plots.line_plot("Pick-up", moments(3), [plots.Series("p50", "p50", [None] * 3)], str)
    none = plots.bar_plot("Throughput", [], [plots.Series("done", "done", [])], str)

    assert empty.empty
    assert none.empty


def test_a_day_of_minutes_is_put_together_into_a_hundred_columns() -> None:
    size = plots.buckets(1440)

    assert 1440 / size <= 120
    assert plots.merged([1.0, 2.0, None, None, 5.0], 2, sum) == [3.0, None, 5.0]


# Families.


def test_parents_stand_left_of_their_children() -> None:
    root, left, right, end = family_ = members("root", "left", "right", "end")
    links = [(root.id, left.id), (root.id, right.id), (left.id, end.id), (right.id, end.id)]
    drawing = family.draw(family_, links, left.id)

    place = {box.name: (box.x, box.y) for box in drawing.boxes}
    assert place["root"][0] < place["left"][0] == place["right"][0] < place["end"][0]
    assert place["left"][1] != place["right"][1]
    assert [box.name for box in drawing.boxes if box.marked] == ["left"]
    assert len(drawing.lines) == 4


def test_equal_siblings_are_one_box_with_their_states() -> None:
    root, end = members("root", "end")
    many = members(*["part"] * 1000)
    many[0].state = "failed"
    links = [(root.id, each.id) for each in many] + [(each.id, end.id) for each in many]
    drawing = family.draw([root, end, *many], links, many[5].id)

    sizes = sorted((box.name, box.size, box.marked) for box in drawing.boxes)
    assert sizes == [("end", 1, False), ("part", 1, True), ("part", 999, False), ("root", 1, False)]
    assert any(box.words == "998 done, 1 failed" for box in drawing.boxes)


def test_a_circle_of_forged_links_is_drawn_too() -> None:
    one, two = members("one", "two")
    drawing = family.draw([one, two], [(one.id, two.id), (two.id, one.id)], one.id)

    assert len(drawing.boxes) == 2


def test_of_a_huge_family_the_nearest_are_drawn() -> None:
    chain = members(*(f"step {number}" for number in range(300)))
    links = [(above.id, below.id) for above, below in pairwise(chain)]
    drawing = family.draw(chain, links, chain[150].id)

    assert len(drawing.boxes) + drawing.left_out == 300
    assert {box.name for box in drawing.boxes} >= {"step 140", "step 150", "step 160"}


# Attempts.


def details(**values: Any) -> TaskDetails:
    known: dict[str, Any] = dict.fromkeys(TaskDetails.__dataclass_fields__)
    known |= {"id": new_id(), "state": "done", "attempt": 1, "date_created": NOW, "history": []}
    return TaskDetails(**{**known, **values})


def test_the_events_of_a_task_are_in_order_with_the_time_between() -> None:
    entry = {
        "attempt": 1, "started": (NOW + timedelta(seconds=1)).isoformat(),
        "ended": (NOW + timedelta(seconds=3)).isoformat(), "what": "retry",
        "error_type": "Timeout", "error_message": "too long\nby far",
    }  # fmt: skip
    task = details(
        attempt=2, history=[entry], date_enqueued=NOW + timedelta(seconds=33),
        date_started=NOW + timedelta(seconds=34), date_ended=NOW + timedelta(seconds=35),
    )  # fmt: skip
    events = attempts.events_of(task)

    assert [(event.what, event.gap) for event in events] == [
        ("created", None), ("started, attempt 1", 1.0), ("retry", 2.0), ("enqueued", 30.0),
        ("started, attempt 2", 1.0), ("done", 1.0),
    ]  # fmt: skip
    assert events[2].detail == "Timeout: too long"
    assert [part.style for part in attempts.parts_of(task, now=NOW)] == ["failed", "done"]


@pytest.mark.parametrize("history", [None, {"a": 1}, [1, None, {"started": 5, "ended": "never"}]])
def test_a_forged_history_harms_nobody(history: Any) -> None:
    task = details(state="enqueued", history=history, date_enqueued=NOW)

    assert [event.what for event in attempts.events_of(task)] == ["created", "enqueued"]
    assert attempts.parts_of(task, now=NOW) == []


def test_a_traceback_is_folded_to_the_frames_of_the_application() -> None:
    text = (
        "Traceback (most recent call last):\n"
        '  File "/venv/lib/python3.11/site-packages/fastedgy/worker/executor.py", line 1, in run\n'
        "    await call()\n"
        '  File "/app/shop.py", line 2, in charge\n'
        "    json.loads(answer)\n"
        '  File "/usr/lib/python3.11/json/__init__.py", line 3, in loads\n'
        "    return decode(s)\n"
        "    ^^^^^^^^^\n"
        "ValueError: no"
    )
    frames = attempts.frames_of(text)

    assert [(frame.ours, frame.count) for frame in frames] == [
        (True, 0), (False, 1), (True, 1), (False, 1), (True, 0)
    ]  # fmt: skip
    assert "\n".join(frame.text for frame in frames) == text


# Filters.


def test_filters_travel_through_the_address() -> None:
    asked = filters.asked_in(QueryParams("state=failed,done&name=send*&longer=2&context=a.b=7&x=1"))
    wanted = filters.filter_of(asked, now=NOW)

    assert filters.asked_in_text(asked.query()) == asked
    assert asked.query(state="") == "name=send%2A&longer=2&context=a.b%3D7"
    assert wanted.states == ("failed", "done")
    assert (wanted.name, wanted.min_duration, wanted.context) == ("send*", 2.0, {"a.b": 7})


@pytest.mark.parametrize(("since", "moment"), [
    ("15m", NOW - timedelta(minutes=15)),
    ("yesterday", datetime(2030, 1, 1, tzinfo=UTC)),
    ("2029-12-31", datetime(2029, 12, 31, tzinfo=UTC)),
    ("2029-12-31T10:00:00+02:00", datetime(2029, 12, 31, 8, tzinfo=UTC)),
])  # fmt: skip
def test_since_is_a_word_or_a_date(since: str, moment: datetime) -> None:
    wanted = filters.filter_of(filters.Asked(since=since), now=NOW)

    assert wanted.created_after == moment


@pytest.mark.parametrize("field", [
    {"state": "odd"}, {"since": "soon"}, {"until": "x"}, {"longer": "nan"}, {"longer": "-1"},
    {"context": "step"}, {"parent": "7"}, {"tree": "x"},
])  # fmt: skip
def test_a_filter_that_makes_no_sense_is_refused(field: dict[str, str]) -> None:
    with pytest.raises(InvalidOption):
        filters.filter_of(filters.Asked(**field), now=NOW)


@pytest.mark.parametrize(("field", "found", "said"), [
    ({}, 3, "About 28 tasks: 4 run, 3 wait for a slot, 6 failed."),
    ({"state": "failed"}, 3, "6 tasks failed for good."),
    ({"state": "failed", "name": "charge"}, 0, "No failed task named charge."),
    ({"queue": "mail", "since": "1h"}, 1, "1 task in queue mail, made since 1h."),
])  # fmt: skip
def test_the_list_says_what_it_shows(field: dict[str, str], found: int, said: str) -> None:
    counts = StateCounts({state: at + 1 for at, state in enumerate(STATES)}, frozenset({"done"}))

    assert filters.sentence(filters.Asked(**field), counts, found, more=False) == said


# The day of the schedules.


def row(name: str, **terms: Any) -> ScheduleRow:
    return ScheduleRow(name, "m:f", anchor=NOW, **terms)


def test_a_day_has_a_mark_for_each_run() -> None:
    rows = [
        row("often", every=1.0, next_due=NOW),
        row("hourly", cron="0 * * * *", next_due=NOW + timedelta(hours=1)),
        row("paused", cron="0 * * * *", next_due=NOW + timedelta(hours=1), paused=True),
        row("next week", cron="0 * * * *", next_due=NOW + timedelta(days=7)),
        row("broken", cron="0 * * *", next_due=NOW + timedelta(hours=2)),
        row("over", at=NOW),
    ]
    drawn = day.lanes_of(rows, now=NOW)

    assert [(lane.name, lane.dense) for lane in drawn.lanes] == [("often", True), ("hourly", False)]
    assert [mark.x for mark in drawn.lanes[1].marks][:2] == [60.0, 120.0]
    assert drawn.lanes[1].words == "24 times"


# The squares of the workers.


def worker(**values: Any) -> WorkerInfo:
    known: dict[str, Any] = {
        "id": new_id(), "server_name": "web-1", "pid": 7, "supervisor_id": None,
        "state": "running", "alive": True, "is_web": False, "queues": [], "concurrency": 100,
        "busy": 2, "version": "1", "memory_mb": 50, "counters": {}, "date_started": NOW,
        "last_heartbeat": NOW, "silent_for": 1.0, "drain": None,
        "tasks": [RunningTask(new_id(), "send", "mail", NOW - timedelta(seconds=3), True)],
    }  # fmt: skip
    return WorkerInfo(**{**known, **values})


def test_each_slot_is_a_square() -> None:
    (host,) = squares.hosts_of([worker()], now=NOW, most=400)
    (process,) = host.processes

    assert process.squares[0].tip == "send, 3.0 s, asked to stop"
    assert [len(process.squares), process.others.count("M"), process.idle.count("M")] == [1, 1, 98]
    assert (process.word, process.more, host.busy, host.slots) == ("busy", 0, 2, 100)


@pytest.mark.parametrize(("values", "word", "filled"), [
    ({"alive": False}, "silent", "blocked"),
    ({"state": "draining"}, "draining", "busy"),
    ({"busy": 0, "tasks": []}, "idle", "busy"),
])  # fmt: skip
def test_a_process_says_how_it_is(values: dict[str, Any], word: str, filled: str) -> None:
    (host,) = squares.hosts_of([worker(**values)], now=NOW, most=50)
    (process,) = host.processes

    assert (process.word, process.filled, process.more) == (word, filled, 50)


def test_of_ten_thousand_running_tasks_some_can_be_opened() -> None:
    tasks = [RunningTask(new_id(), "send", "mail", NOW, False)] * 100
    (host,) = squares.hosts_of([worker(busy=100, tasks=tasks)] * 100, now=NOW, most=400)

    assert sum(len(process.squares) for process in host.processes) == 2_000
    assert sum(process.others.count("M") for process in host.processes) == 8_000


# Words.


def test_numbers_and_spans_are_short() -> None:
    assert [words.number(n) for n in (None, 0, 1204, 0.25, 1_204_331)] == [
        "-", "0", "1,204", "0.2", "1.2 M"
    ]  # fmt: skip
    assert [words.span(s) for s in (None, 0, 0.00002, 0.003, 3.21, 65, 90_000)] == [
        "-", "0 ms", "20 µs", "3 ms", "3.2 s", "1 min 5 s", "1 d 1 h"
    ]  # fmt: skip


def test_moments_are_told_as_a_distance() -> None:
    assert "2 min 5 s ago" in words.ago(NOW, NOW + timedelta(seconds=125))
    assert "in 40 s" in words.ago(NOW, NOW - timedelta(seconds=40.4))
    assert words.ago(None, NOW) == "-"


def test_a_call_is_written_as_its_author_would_and_harms_no_page() -> None:
    assert words.call(["ann", {"a": 1}], {"retry": True}) == '"ann", {"a": 1}, retry=true'
    assert words.call("forged", None) == '"forged"'
    assert words.shorten("a\x00b\u202e", 20) == "a\\x00b\\u202e"
    assert words.shorten("x" * 30, 10) == "xxxxxxxxx…"
