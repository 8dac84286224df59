"""What travels as JSON, and how what does not is refused."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections import OrderedDict, namedtuple
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
import task_samples as samples
from hypothesis import given
from hypothesis import strategies as st

from fastedgy.queued_task.encoding import NotEncodable, clean, dumps, excess, loads

ID = UUID("0190a4d2-0000-7000-8000-000000000001")
UTC = dt.UTC


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(2**63), 2**64 - 1, 1.5, "", "é", [], {}, [None],
     {"a": {"b": [1, None, "null"]}}, "\\u0000", "null", {"null": "\\\\u0000"}],
)  # fmt: skip
def test_json_comes_back_as_it_went_in(value: object) -> None:
    assert loads(dumps(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((1, 2), [1, 2]),
        (dt.datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC), "2024-02-03T04:05:06+00:00"),
        (dt.datetime(2024, 2, 3), "2024-02-03T00:00:00"),
        (dt.date(2024, 2, 3), "2024-02-03"),
        (dt.time(4, 5), "04:05:00"),
        (ID, str(ID)),
        (Decimal("1.50"), "1.50"),
        (samples.Color.RED, "red"),
        (samples.Size.LARGE, 2),
        (samples.Point(2, 3), {"x": 2, "y": 3, "_hidden": "kept"}),
        (OrderedDict(a=1), {"a": 1}),
        ({samples.Word.YES: 1}, {"yes": 1}),
        ([None, samples.Point(1), ID], [None, {"x": 1, "y": 0, "_hidden": "kept"}, str(ID)]),
    ],
)
def test_known_types_become_json(value: object, text: object) -> None:
    assert json.loads(dumps(value)) == text


def test_a_model_travels_by_its_fields_without_what_is_computed() -> None:
    order = samples.Order(
        id=ID,
        ordered=dt.datetime(2024, 1, 1, tzinfo=UTC),
        lines=[samples.Line(sku="a", price=Decimal("2.50"), tags={"new"})],
        customerName="Ann",
        n="gift",
    )
    assert loads(dumps({"order": order, "more": None})) == {
        "order": {
            "id": str(ID),
            "ordered": "2024-01-01T00:00:00Z",
            "lines": [{"sku": "a", "price": "2.50", "tags": ["new"]}],
            "customer": "Ann",
            "note": "gift",
        },
        "more": None,
    }


def _itself() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


def _deep() -> object:
    value: object = 1
    for _ in range(2_000):
        value = [value]
    return value


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({1}, "", "a set cannot travel as JSON; pass a list"),
        ({"a": [0, {2}]}, "['a'][1]", "a set"),
        ({"a": b"x"}, "['a']", "a bytes cannot travel as JSON; pass text"),
        ([object()], "[0]", "a object cannot travel"),
        ([dict], "[0]", "the class dict cannot travel"),
        ([samples.Point], "[0]", "the class Point cannot travel"),
        ([samples.Line], "[0]", "the class Line cannot travel"),
        ([1j], "[0]", "a complex"),
        (dt.timedelta(1), "", "a timedelta"),
        ([Path("x")], "[0]", "cannot travel"),
        ([Pair(1, 2)], "[0]", "a Pair"),
        ([math.nan], "[0]", "nan is not a number in JSON"),
        ([-math.inf], "[0]", "-inf is not a number in JSON"),
        ({"n": None, "x": math.nan}, "['x']", "nan"),
        ([Decimal("NaN")], "[0]", "Decimal('NaN') is not a number"),
        ([2**64], "[0]", "beyond 64 bits"),
        ([2**70], "[0]", "beyond 64 bits"),
        ([-(2**63) - 1], "[0]", "beyond 64 bits"),
        (["a\x00b"], "[0]", "NUL"),
        ({"a\x00b": 1}, "", "NUL"),
        (["\ud800"], "[0]", "lone surrogate"),
        ({"\udfff": 1}, "", "lone surrogate"),
        ({1: 2}, "", "the key 1 is not text"),
        ({"a": {None: 2}}, "['a']", "the key None is not text"),
        ({(1, 2): 3}, "", "is not text"),
        (_itself(), "", "nested too deeply, or contains itself"),
        (_deep(), "", "nested too deeply, or contains itself"),
        (samples.Point(math.nan), "['x']", "nan"),  # type: ignore[arg-type]
        (samples.Login(user="a", password="b"), ".password", "would arrive as asterisks"),
    ],
)
def test_what_cannot_travel_is_refused_with_its_place(
    value: object, path: str, reason: str
) -> None:
    with pytest.raises(NotEncodable) as caught:
        dumps(value)
    assert caught.value.path == path
    assert reason in caught.value.reason


async def test_a_coroutine_is_refused_by_its_name() -> None:
    coroutine = samples.send("a", "b")
    with pytest.raises(NotEncodable, match="a coroutine cannot travel as JSON; await it first"):
        dumps([coroutine])
    coroutine.close()


def test_a_model_that_cannot_be_dumped_is_refused() -> None:
    order = samples.Line.model_construct(sku=object(), price=Decimal(1))
    with pytest.raises(NotEncodable, match="Line cannot be dumped as JSON"):
        dumps(order)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
))  # fmt: skip
def test_either_it_is_refused_or_it_comes_back_unchanged(value: object) -> None:
    try:
        text = dumps(value)
    except NotEncodable:
        return
    assert "\\u0000" not in text.replace("\\\\", "")
    assert loads(text) == value


@pytest.mark.parametrize(
    ("text", "limit", "cleaned"),
    [
        ("fine é", None, "fine é"),
        ("a\x00b", None, "a\\x00b"),
        ("\ud800é", None, "\\ud800é"),
        ("x" * 10, 4, "xxxx… (6 more characters)"),
        ("xxxx", 4, "xxxx"),
    ],
)
def test_text_of_others_is_made_storable(text: str, limit: int | None, cleaned: str) -> None:
    assert clean(text, limit) == cleaned


@pytest.mark.parametrize(
    ("limit", "texts", "size"),
    [
        (3, ("abc",), None), (2, ("abc",), "3"), (3, ("ab", "cd"), "4"), (4, ("éé",), None),
        (3, ("éé",), "4"), (1_000, ("é" * 500, ""), None), (999, ("é" * 500,), "1,000"),
    ],
)  # fmt: skip
def test_sizes_are_bytes_as_they_are_stored(
    limit: int, texts: tuple[str, ...], size: str | None
) -> None:
    words = None if size is None else f"{size} bytes as JSON; QUEUE_MAX_RESULT_SIZE is {limit:,}"
    assert excess(limit, *texts) == words
