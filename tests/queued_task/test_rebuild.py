"""Arguments that come back from JSON as the function's annotations describe them."""

from __future__ import annotations

import datetime as dt
import logging
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import task_samples as samples

from fastedgy.errors import InvalidArguments
from fastedgy.queued_task.encoding import loads
from fastedgy.queued_task.functions import describe

ID = UUID("0190a4d2-0000-7000-8000-000000000001")
NOW = dt.datetime(2024, 2, 3, 4, 5, 6, 789, tzinfo=dt.UTC)
ORDER = samples.Order(
    id=ID,
    ordered=NOW,
    lines=[samples.Line(sku="a", price=Decimal("2.50"), tags={"new"})],
    customerName="Ann",
    n="gift",
)


def travel(func: Any, *args: Any, **kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    """What the function gets in the worker."""
    described = describe(func)
    sent_args, sent_kwargs = described.bind(args, kwargs)
    return described.rebuild(loads(sent_args), loads(sent_kwargs))


EVERYTHING = {
    "when": NOW,
    "day": dt.date(2024, 2, 3),
    "id": ID,
    "amount": Decimal("1.50"),
    "color": samples.Color.BLUE,
    "size": samples.Size.LARGE,
    "point": samples.Point(2, 3, "secret"),
    "order": ORDER,
}


def test_every_type_makes_the_round_trip_by_name_and_by_position() -> None:
    assert travel(samples.everything, **EVERYTHING) == ([], EVERYTHING)
    args, kwargs = travel(samples.everything, *EVERYTHING.values())
    assert args == list(EVERYTHING.values())
    assert kwargs == {}
    assert [type(value) for value in args] == [type(value) for value in EVERYTHING.values()]
    assert args[6].area == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("maybe", NOW),
        ("maybe", None),
        ("old_maybe", ID),
        ("many", [Decimal("1.10"), Decimal(2)]),
        ("named", {"a": samples.Point(1), "b": samples.Point(2, 2)}),
        ("pair", (1, dt.date(2024, 1, 1))),
        ("implicit", None),
        ("implicit", NOW),
        ("new", ID),
        ("limited", Decimal("0.5")),
        ("quoted", [samples.Color.RED]),
    ],
)
def test_containers_and_optionals_are_rebuilt_inside(name: str, value: Any) -> None:
    _, kwargs = travel(samples.containers, **{name: value})
    assert kwargs == {name: value}
    assert type(kwargs[name]) is type(value)


def test_rest_parameters_are_rebuilt_one_by_one() -> None:
    days = [dt.date(2024, 1, day) for day in (1, 2)]
    args, kwargs = travel(samples.typed_rest, 1, *days, here=samples.Point(1), there={"x": 2})
    assert args == [1, *days]
    assert kwargs == {"here": samples.Point(1), "there": samples.Point(2)}


def test_a_wrapped_function_is_rebuilt_by_its_own_annotations() -> None:
    assert travel(samples.wrapped, NOW) == ([NOW], {})


def test_plain_annotations_cost_nothing() -> None:
    args: list[Any] = [1, None, [{"a": 1}], "x"]
    kwargs: dict[str, Any] = {"f": "2024-01-01"}
    rebuilt = describe(samples.plain).rebuild(args, kwargs)
    assert rebuilt[0] is args
    assert rebuilt[1] is kwargs


def test_what_was_given_as_plain_json_becomes_the_annotated_type() -> None:
    _, kwargs = travel(
        samples.everything,
        **{**EVERYTHING, "point": {"x": 1}, "order": {"id": str(ID), "ordered": NOW.isoformat(),
                                                      "customerName": "Bob", "n": "x"}},
    )  # fmt: skip
    assert kwargs["point"] == samples.Point(1)
    assert (kwargs["order"].customer, kwargs["order"].note) == ("Bob", "x")


def test_a_type_that_nothing_can_rebuild_is_left_as_it_is() -> None:
    assert travel(samples.service_annotation, {"a": 1}) == ([{"a": 1}], {})


def test_an_annotation_that_cannot_be_evaluated_is_reported_and_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    day = dt.date(2024, 1, 1)
    with caplog.at_level(logging.WARNING, "queued_task"):
        assert travel(samples.unknown_annotation, "x", day) == (["x", day], {})
    assert "Import it outside of `if TYPE_CHECKING`" in caplog.text


@pytest.mark.parametrize(
    ("args", "kwargs", "reason", "parameter"),
    [
        (["no date"], {}, "'when' cannot be rebuilt", "when"),
        ([{"a": 1}], {}, "'when' cannot be rebuilt", "when"),
        ([], {}, "the argument 'when' is missing", "when"),
        ([1, 2], {}, "it takes at most 1", None),
        ([], {"when": "2024-01-01T00:00:00Z", "x": 1}, "has no parameter 'x'", "x"),
        ({}, {}, "args must be a JSON list", None),
        ([], [], "kwargs an object", None),
        (None, None, "args must be a JSON list", None),
        ("text", {}, "args must be a JSON list", None),
    ],
)
def test_a_row_whose_arguments_do_not_fit_is_refused(
    args: Any, kwargs: Any, reason: str, parameter: str | None
) -> None:
    def strict(when: dt.datetime) -> None: ...

    from fastedgy.queued_task.functions import describe_closure

    with pytest.raises(InvalidArguments, match=reason) as caught:
        describe_closure(strict).rebuild(args, kwargs)
    assert caught.value.parameter == parameter
