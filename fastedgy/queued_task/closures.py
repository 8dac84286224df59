"""Functions without an import name as tasks: pickled, and signed so that no row can forge one.

Unpickling runs code, so nothing is unpickled before its signature was found to be ours.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Any

from fastedgy.errors import ClosureRefused, InvalidFunction
from fastedgy.queued_task.callables import check

# Names what is signed, so that a signature made for something else is none for a closure.
_PURPOSE = b"fastedgy closure 1\x00"
_SIZE = hashlib.sha256().digest_size

_NO_KEYS = (
    "Functions without an import name (lambdas, nested functions) can be tasks only with "
    "QUEUE_SIGNING_KEYS, which sign them. Set it, or move the function to a module's top level."
)


def pack(func: Any, keys: Sequence[str]) -> bytes:
    """A function with all that it closes over, signed by the first of `keys`.

    Raises InvalidFunction when it is no function, there is no key, cloudpickle is missing, or what
    it closes over cannot be pickled.
    """
    check(func)
    if not keys:
        raise InvalidFunction(_NO_KEYS)
    try:
        import cloudpickle
    except ImportError:
        raise InvalidFunction(
            "Functions without an import name need cloudpickle: pip install 'fastedgy[closures]'."
        ) from None
    try:
        pickled: bytes = cloudpickle.dumps(func)
    except Exception as error:
        raise InvalidFunction(
            f"{func.__qualname__} cannot travel, because of what it closes over: "
            f"{type(error).__name__}: {error}. Pass that as arguments."
        ) from None
    return _signature(pickled, keys[0]) + pickled


def unpack(blob: bytes, keys: Sequence[str]) -> Callable[..., Any]:
    """The function that `pack` made bytes of, if one of `keys` signed it.

    Raises ClosureRefused when none did, or when this process cannot rebuild it.
    """
    if not keys:
        raise ClosureRefused(
            "The task is a closure, and this worker has no QUEUE_SIGNING_KEYS to verify it with."
        )
    given, pickled = bytes(blob[:_SIZE]), bytes(blob[_SIZE:])
    # All of them are computed, so that the time taken does not tell which one was near.
    matches = [hmac.compare_digest(given, _signature(pickled, key)) for key in keys]
    if not any(matches):
        raise ClosureRefused(
            "The task is a closure that none of this worker's QUEUE_SIGNING_KEYS has signed."
        )
    try:
        import cloudpickle

        func = cloudpickle.loads(pickled)
        check(func)
    except Exception as error:
        raise ClosureRefused(
            f"The task is a closure that this worker cannot rebuild: {type(error).__name__}: "
            f"{error}. Its Python or its packages may differ from the producer's."
        ) from error
    rebuilt: Callable[..., Any] = func
    return rebuilt


def _signature(pickled: bytes, key: str) -> bytes:
    if not key:
        raise ClosureRefused("An empty key signs nothing.")
    return hmac.digest(key.encode(), _PURPOSE + pickled, "sha256")
