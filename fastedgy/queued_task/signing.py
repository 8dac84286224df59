"""Signed tasks: with `QUEUE_SIGNING_KEYS` set, a row runs only if somebody with a key made it.

Signed are the id, the function and the arguments, so that a signature is of no use for any other
row. The database stores arguments as `jsonb`, which keeps neither the order of keys nor the way a
number was written; the text that is signed is therefore made anew from the values, on both sides.

Results are not signed. Where one takes the place of a ref, the ref is signed, as an argument: which
task it is. What that one returned is data, which is never run, and comes from the table as it is.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from decimal import Context, Decimal
from typing import Any
from uuid import UUID

from fastedgy.errors import SignatureRefused

# Names what is signed, so that a signature made for something else is none for a task.
_PURPOSE = b"fastedgy task 1\x00"
# More digits than any float has, written out.
_EXACT = Context(prec=2_000)


def sign(keys: Sequence[str], id: UUID, function: str, args: str, kwargs: str) -> str:
    """The signature of a task by the first of `keys`, in hexadecimal. `args`, `kwargs`: JSON."""
    return _digest(keys[0], _text(id, function, args, kwargs))


def verify(
    keys: Sequence[str], signature: str | None, id: UUID, function: str, args: str, kwargs: str
) -> None:
    """Raise SignatureRefused unless one of `keys` signed exactly this task."""
    if signature is None:
        raise SignatureRefused(
            "The task is not signed, and this worker runs signed ones only: QUEUE_SIGNING_KEYS is "
            "set here and was not where the task was added, or the row was written by somebody "
            "else."
        )
    text = _text(id, function, args, kwargs)
    # All of them are computed, so that the time taken does not tell which one was near.
    matches = [hmac.compare_digest(signature.encode(), _digest(key, text).encode()) for key in keys]
    if not any(matches):
        raise SignatureRefused(
            "The task's signature is not of any of this worker's QUEUE_SIGNING_KEYS, or its id, "
            "function or arguments were changed after it was signed."
        )


def _digest(key: str, text: bytes) -> str:
    return hmac.digest(key.encode(), _PURPOSE + text, "sha256").hex()


def _text(id: UUID, function: str, args: str, kwargs: str) -> bytes:
    values = [str(id), function, _parse(args), _parse(kwargs)]
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _parse(text: str) -> Any:
    return _plain(json.loads(text, parse_int=Decimal, parse_float=Decimal))


def _plain(value: Any) -> Any:
    """The value in the one form that all ways to write it have in common.

    Numbers are compared as decimals, to the last digit: the database turns 1e3 into 1000 and -0.0
    into 0.0. They become text, and text is marked as such, so that "1" is not 1.
    """
    if isinstance(value, Decimal):
        return f"number {_EXACT.normalize(value)}" if value else "number 0"
    if isinstance(value, str):
        return f"text {value}"
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
