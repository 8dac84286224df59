"""JSON as it travels in a row: what is let through, and what is refused with its place and cure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from inspect import isawaitable
from typing import Any
from uuid import UUID

import orjson

# Dataclasses come to `_default`, since orjson would leave out fields that start with "_".
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS

# orjson itself gives up at 254.
_DEEPEST = 250

_CURES = {
    set: "pass a list",
    frozenset: "pass a list",
    bytes: "pass text (base64, for instance), or where the data is stored",
    bytearray: "pass text (base64, for instance), or where the data is stored",
    complex: "pass two numbers",
    range: "pass a list, or its bounds",
}


REFERENCE = "$ref"
"""The one key of the object that stands for a task's result in the arguments of another.

Only where a row says that it takes results. There, a dict of the caller's own that looks like one
(or like one that is escaped) has a further "$" before its key.
"""

REFERENCES = "$refs"
"""Likewise for a list of nothing but results: a join of thousands is read much faster like this."""

_LOOKS_LIKE_ONE = re.compile(r"\$+refs?")

IdOf = Callable[[Any], UUID]
"""The id of a task that is among the arguments."""


class NotEncodable(ValueError):
    """A value that cannot travel as JSON.

    `path` leads to it from the value that was to be encoded, as in `["items"][3]`; it is empty when
    it is that value itself. `reason` says what is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


class HoldsTask(NotEncodable):
    """There is a task among the values. Arguments may hold some: see `dumps_references`."""


def dumps(value: Any) -> str:
    """`value` as JSON text that Postgres takes as jsonb.

    Takes JSON types, and datetime, date, time, UUID, Decimal, Enum, dataclasses and Pydantic
    models. Raises NotEncodable on anything else, and on what JSON or jsonb would change or refuse:
    NaN and infinity, NUL characters, lone surrogates, keys that are not text, integers beyond
    64 bits, more than 250 levels.
    """
    try:
        # Text, since looking for bytes in bytes raises an error inside, in Python 3.11.
        encoded = orjson.dumps(value, _default, _OPTIONS).decode()
    except TypeError:  # orjson says what, but not where
        return _careful(value)
    # orjson writes NaN as null and NUL as an escape: both may also be what they look like.
    if "null" in encoded or "\\u0000" in encoded:
        return _careful(value)
    return encoded


def dumps_references(value: Any, id_of: IdOf) -> str:
    """Like `dumps`, for arguments with tasks among them, each written as the place of its result.

    Raises NotEncodable.
    """
    try:
        return orjson.dumps(_plain(value, "", 0, id_of)).decode()
    except RecursionError:
        raise NotEncodable("", "is nested too deeply, or contains itself") from None


def references(value: Any) -> list[Any]:
    """What stands in the places for results in the arguments of a row: the ids of tasks, as text,
    unless somebody forged them.
    """
    found: list[Any] = []
    _find([value], found)
    return found


def _find(within: list[Any] | dict[str, Any], found: list[Any]) -> None:
    for item in within.values() if isinstance(within, dict) else within:
        if _is_place(item):
            found.append(item[REFERENCE])
        elif _is_place(item, REFERENCES):
            ids = item[REFERENCES]
            found += ids if type(ids) is list else [None]  # no id at all, whatever it is
        elif type(item) is dict or type(item) is list:
            _find(item, found)


def filled(value: Any, result_of: Callable[[str], Any]) -> Any:
    """The arguments of a row that takes results, with `result_of(id)` in their places."""
    if type(value) is list:
        return [filled(item, result_of) for item in value]
    if type(value) is dict:
        if len(value) == 1:
            [(key, item)] = value.items()
            if key == REFERENCE:
                return result_of(item)
            if key == REFERENCES:
                return list(map(result_of, item))
            if _LOOKS_LIKE_ONE.fullmatch(key):
                return {key[1:]: filled(item, result_of)}
        return {key: filled(item, result_of) for key, item in value.items()}
    return value


def loads(text: str | bytes) -> Any:
    """The value of JSON text. Raises ValueError when it is none."""
    return orjson.loads(text)


def excess(limit: int, *texts: str) -> str | None:
    """How texts have more bytes than `limit` in all, as they are stored (UTF-8); None: they fit."""
    if sum(map(len, texts)) * 4 <= limit:  # no character has more than four
        return None
    size = sum(len(text) if text.isascii() else len(text.encode()) for text in texts)
    if size <= limit:
        return None
    return f"{size:,} bytes as JSON; QUEUE_MAX_RESULT_SIZE is {limit:,}"


def clean(text: str, limit: int | None = None) -> str:
    """`text` as Postgres can store it: NUL and lone surrogates escaped, cut after `limit`."""
    if limit is not None and len(text) > limit:
        text = f"{text[:limit]}… ({len(text) - limit:,} more characters)"
    if "\x00" in text:
        text = text.replace("\x00", "\\x00")
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    return text


def fault_of(text: str) -> str | None:
    """Why Postgres could not store `text`, or None."""
    if "\x00" in text:
        return "text with a NUL character cannot be stored by Postgres"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            broken = text[error.start]
            return f"text with a lone surrogate ({broken!a}) is not valid Unicode"
    return None


def _careful(value: Any) -> str:
    try:
        return orjson.dumps(_plain(value, "", 0)).decode()
    except RecursionError:
        raise NotEncodable("", "is nested too deeply, or contains itself") from None


def _default(value: Any) -> Any:
    """What stands for a value that orjson does not know."""
    kind = type(value)
    if hasattr(kind, "__queued_task__"):
        raise HoldsTask("", "a task cannot travel as JSON here; wait for its result, and pass that")
    if hasattr(kind, "__pydantic_serializer__") and not isinstance(value, type):
        return _model(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise NotEncodable("", f"Decimal({str(value)!r}) is not a number")
        return str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise NotEncodable("", _why_not(value))


def _model(value: Any) -> Any:
    """A Pydantic model or dataclass, by the names of its fields, so that it can be rebuilt."""
    try:
        dumped = type(value).__pydantic_serializer__.to_python(
            value, mode="json", by_alias=False, round_trip=True, warnings=False
        )
    except RecursionError:
        raise
    except Exception as error:
        reason = f"{type(value).__name__} cannot be dumped as JSON: {error}"
        raise NotEncodable("", clean(reason, 500)) from None
    if _MASK in str(dumped):
        _refuse_secrets(value, "", 0)
    return dumped


_JSON = frozenset({str, int, float, list, dict, tuple})

# What Pydantic writes for a secret. Stored like this, the task would get asterisks for a password.
_MASK = "**********"


def _refuse_secrets(value: Any, path: str, depth: int) -> None:
    if callable(getattr(type(value), "get_secret_value", None)):
        raise NotEncodable(
            path,
            f"a {type(value).__name__} would arrive as asterisks; pass where the secret is kept, "
            "or its text together with @task(redact=…)",
        )
    if depth > _DEEPEST:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_secrets(item, f"{path}[{key!r}]", depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(value):
            _refuse_secrets(item, f"{path}[{index}]", depth + 1)
    elif hasattr(type(value), "__pydantic_serializer__") or is_dataclass(value):
        for name, item in vars(value).items() if hasattr(value, "__dict__") else ():
            _refuse_secrets(item, f"{path}.{name}", depth + 1)


def _plain(value: Any, path: str, depth: int, id_of: IdOf | None = None) -> Any:
    """`value` in JSON's own types. Raises NotEncodable at the first place that cannot be."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind not in _JSON and isinstance(value, Enum):
        return _plain(value.value, path, depth, id_of)
    if isinstance(value, str):
        reason = fault_of(value)
        if reason is not None:
            raise NotEncodable(path, reason)
        return value if kind is str else str.__str__(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise NotEncodable(path, "an integer beyond 64 bits does not fit; pass it as text")
        return value if kind is int else int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotEncodable(path, f"{float(value)} is not a number in JSON; pass None")
        return value if kind is float else float(value)
    if depth >= _DEEPEST:
        raise NotEncodable("", "is nested too deeply, or contains itself")
    if isinstance(value, dict):
        plain = {
            _key(key, path): _plain(item, f"{path}[{key!r}]", depth + 1, id_of)
            for key, item in value.items()
        }
        if id_of is not None and len(plain) == 1:
            [(key, item)] = plain.items()
            if _LOOKS_LIKE_ONE.fullmatch(key):
                return {f"${key}": item}
        return plain
    if isinstance(value, list) or kind is tuple:
        items = [
            _plain(item, f"{path}[{index}]", depth + 1, id_of) for index, item in enumerate(value)
        ]
        # The arguments themselves stay a list, whatever they are.
        if id_of is not None and depth > 0 and items and all(map(_is_place, items)):
            return {REFERENCES: [item[REFERENCE] for item in items]}
        return items
    if id_of is not None and hasattr(kind, "__queued_task__"):
        return _referred(value, path, depth, id_of)
    try:
        stand_in = _default(value)
    except NotEncodable as error:
        raise type(error)(path + error.path, error.reason) from None
    return _plain(stand_in, path, depth + 1, id_of)


def _is_place(plain: Any, key: str = REFERENCE) -> bool:
    return type(plain) is dict and len(plain) == 1 and key in plain


def _referred(value: Any, path: str, depth: int, id_of: IdOf) -> Any:
    """What is written for a task, or for a bundle of them."""
    meant = value.__queued_task__()
    if meant is value:
        return {REFERENCE: str(id_of(value))}
    return _plain(meant, path, depth + 1, id_of)


def _key(key: Any, path: str) -> str:
    if isinstance(key, Enum):
        key = key.value
    if not isinstance(key, str):
        raise NotEncodable(
            path, f"the key {key!r} is not text, and would come back as text; write str({key!r})"
        )
    reason = fault_of(key)
    if reason is not None:
        raise NotEncodable(path, f"in the key {key!a}: {reason}")
    return str.__str__(key)


def _why_not(value: Any) -> str:
    if isawaitable(value):
        return "a coroutine cannot travel as JSON; await it first"
    kind = value if isinstance(value, type) else type(value)
    what = f"the class {kind.__name__}" if value is kind else f"a {kind.__name__}"
    cure = _CURES.get(kind) or "pass an id, or the plain values that the task needs"
    return f"{what} cannot travel as JSON; {cure}"
