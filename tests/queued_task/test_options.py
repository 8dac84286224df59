"""The options of tasks: what they may be, and what is said about what they may not."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from fastedgy.errors import InvalidFunction, InvalidOption
from fastedgy.queued_task import task
from fastedgy.queued_task.options import NO_OPTIONS, TaskOptions, options_of

SOON = datetime(2030, 1, 1, tzinfo=UTC)


def test_the_decorator_leaves_the_function_as_it_is() -> None:
    def func(a: int) -> int:
        return a + 1

    assert task(func) is func
    assert options_of(func) is NO_OPTIONS
    assert task(queue="mail")(func) is func
    assert options_of(func) == TaskOptions(queue="mail")
    assert func(1) == 2
    assert options_of(print) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"channel": "mail"}, {"queue": "mail"}),
        ({"delay": timedelta(minutes=1)}, {"delay": 60.0}),
        ({"delay": 0}, {"delay": 0.0}),
        ({"timeout": 0.5}, {"timeout": 0.5}),
        ({"at": SOON}, {"at": SOON}),
        ({"priority": -5}, {"priority": -5}),
        ({"max_retries": 0}, {"max_retries": 0}),
        ({"unique_key": "a{b}"}, {"unique_key": "a{b}"}),
        ({"on_duplicate": "error"}, {"on_duplicate": "error"}),
        ({"on_parent_failure": "run"}, {"on_parent_failure": "run"}),
        ({"auto_remove": True, "queue": None}, {"auto_remove": True}),
        ({}, {}),
    ],
)
def test_options_of_one_task(words: dict[str, Any], expected: dict[str, Any]) -> None:
    assert TaskOptions.of_call(words) == TaskOptions(**expected)


def test_options_of_a_function() -> None:
    options = TaskOptions.of_function(
        {"retry_on": OSError, "no_retry_on": [KeyError], "redact": "a", "backoff": 3}
    )
    assert options.retry_on == (OSError,)
    assert options.no_retry_on == (KeyError,)
    assert options.redact == frozenset({"a"})
    assert options.backoff is not None
    assert options.backoff(1) == 3


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"queue": ""}, "queue='' makes no sense: it must not be empty"),
        ({"queue": "a,b"}, "has no comma"),
        ({"queue": " a"}, "no space at its ends"),
        ({"queue": "a\nb"}, "no line break"),
        ({"queue": 1}, "it must be text"),
        ({"queue": "x" * 101}, "at most 100"),
        ({"queue": "a\x00"}, "NUL"),
        ({"channel": "\ud800"}, r"channel='\\ud800' makes no sense"),
        ({"queue": "a", "channel": "b"}, "the same option"),
        ({"queue": "x" * 100_000}, r"queue='x{199}… makes no sense"),
        ({"name": "  "}, "must not be empty"),
        ({"priority": "high"}, "must be an integer"),
        ({"priority": True}, "must be an integer"),
        ({"priority": 1.0}, "must be an integer"),
        ({"priority": 2**31}, "between"),
        ({"max_retries": -1}, "between 0 and"),
        ({"delay": -1}, "not a finite, positive number"),
        ({"delay": math.nan}, "not a finite"),
        ({"delay": math.inf}, "not a finite"),
        ({"delay": "60"}, "neither a number of seconds nor a timedelta"),
        ({"delay": True}, "neither a number"),
        ({"delay": 10**400}, "not a finite"),
        ({"delay": 1e12}, "more than 100 years"),
        ({"timeout": 0}, "must be above 0"),
        ({"timeout": timedelta(seconds=-1)}, "not a finite"),
        ({"at": datetime(2030, 1, 1)}, "it has no time zone"),
        ({"at": "tomorrow"}, "must be a datetime"),
        ({"at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))}, "no such moment"),
        ({"at": SOON, "delay": 1}, "say the same thing"),
        ({"unique_key": 7}, "must be text"),
        ({"unique_key": ""}, "must not be empty"),
        ({"unique_key": "x" * 501}, "at most 500"),
        ({"on_duplicate": "ignore"}, "one of existing, replace, error"),
        ({"on_parent_failure": ["run"]}, "one of cancel, run, fail"),
        ({"auto_remove": 1}, "True or False"),
        ({"backoff": 1}, r"write @task\(backoff=…\) above its definition"),
        ({"redact": "a"}, r"write @task\(redact=…\)"),
        ({"parent": 1}, "parent= belongs to add_task"),
        ({"prority": 1}, "Did you mean priority="),
        ({"chanel": 1}, "Did you mean channel="),
        ({"countdown": 1}, "Did you mean delay="),
        ({"retries": 1}, "Did you mean max_retries="),
        ({"zzz": 1}, "has no option zzz=. There are: at, auto_remove"),
    ],
)
def test_impossible_options_of_one_task(words: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidOption, match=reason) as caught:
        TaskOptions.of_call(words)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"retry_on": "OSError"}, "must be an exception class"),
        ({"no_retry_on": [OSError, 1]}, "must be an exception class"),
        ({"retry_on": OSError()}, "must be an exception class"),
        ({"backoff": "fast"}, "is not a back-off"),
        ({"backoff": []}, "an empty list"),
        ({"backoff": [1, -1]}, "not a finite"),
        ({"backoff": -1}, "not a finite"),
        ({"backoff": timedelta}, "not its class"),
        ({"redact": 7}, "must be names of parameters"),
        ({"redact": [""]}, "must be names of parameters"),
        ({"redact": "zzz"}, "redact= names 'zzz', which is no parameter"),
        ({"unique_key": "x:{zzz}"}, "names 'zzz', which is no parameter"),
        ({"unique_key": "x:{"}, "is no template"),
        ({"unique_key": "x:{}"}, "must name parameters in its braces"),
        ({"tiemout": 3}, "Did you mean timeout="),
    ],
)
def test_impossible_options_of_a_function(words: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidOption, match=reason):

        @task(**words)
        def func(a: int) -> None: ...


def test_only_functions_can_be_decorated() -> None:
    class Thing:
        pass

    for value in (Thing, 7, staticmethod(len), print):
        with pytest.raises(InvalidFunction):
            task(value)  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match="options are given by name"):
        task("mail")  # type: ignore[call-overload]


def test_what_is_said_last_wins() -> None:
    base = TaskOptions(queue="a", priority=1, delay=5.0, auto_remove=True)
    assert base.merge(NO_OPTIONS) is base
    assert NO_OPTIONS.merge(base) is base
    merged = base.merge(TaskOptions(priority=0, at=SOON, auto_remove=False))
    assert merged == TaskOptions(queue="a", priority=0, at=SOON, auto_remove=False)
    assert merged.merge(TaskOptions(delay=1.0)).at is None
