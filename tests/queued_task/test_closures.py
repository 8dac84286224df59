"""Functions that travel in their row."""

from __future__ import annotations

import pickle
import sys
import threading
from typing import Any

import pytest
import task_samples as samples

from fastedgy.errors import ClosureRefused, InvalidFunction
from fastedgy.queued_task import closures
from fastedgy.queued_task.closures import pack, unpack

KEYS = ["new key", "old key"]


def test_a_closure_travels_with_what_it_closes_over() -> None:
    number = 20

    def add(more: int) -> int:
        return number + more

    assert unpack(pack(add, KEYS), KEYS)(1) == 21
    assert unpack(pack(lambda: number, KEYS), KEYS)() == 20


def test_the_first_key_signs_and_all_verify() -> None:
    assert unpack(pack(samples.make_nested(), ["old key"]), KEYS)
    blob = pack(samples.make_nested(), KEYS)
    assert unpack(blob, ["new key"])
    with pytest.raises(ClosureRefused, match="none of this worker's QUEUE_SIGNING_KEYS"):
        unpack(blob, ["old key"])


class Bomb:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('it ran')",)


def test_what_is_not_signed_is_never_unpickled() -> None:
    blob = pack(samples.make_nested(), KEYS)
    bomb = pickle.dumps(Bomb())
    signed = closures._signature(bomb, KEYS[0])
    for forged in (
        b"",
        bomb,
        b"\x00" * 32 + bomb,
        blob[:32] + bomb,
        blob[:-1],
        blob + b"x",
        blob[1:],
        blob[:31],
        signed[:31] + bytes([signed[31] ^ 1]) + bomb,
    ):
        with pytest.raises(ClosureRefused):
            unpack(forged, KEYS)


def test_without_keys_nothing_is_packed_or_unpacked() -> None:
    with pytest.raises(InvalidFunction, match="QUEUE_SIGNING_KEYS"):
        pack(lambda: 1, [])
    with pytest.raises(ClosureRefused, match="has no QUEUE_SIGNING_KEYS"):
        unpack(pack(lambda: 1, KEYS), [])
    with pytest.raises(ClosureRefused, match="An empty key"):
        pack(lambda: 1, [""])


def test_without_cloudpickle_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(InvalidFunction, match=r"pip install 'fastedgy\[closures\]'"):
        pack(lambda: 1, KEYS)


def test_what_cannot_be_pickled_is_refused_with_its_cause() -> None:
    lock = threading.Lock()
    with pytest.raises(InvalidFunction, match="because of what it closes over"):
        pack(lambda: lock, KEYS)


@pytest.mark.parametrize("func", [print, samples.Service, samples.Service().method, 7])
def test_only_functions_can_be_packed(func: Any) -> None:
    with pytest.raises(InvalidFunction):
        pack(func, KEYS)


def test_a_signed_pickle_that_is_no_function_is_refused() -> None:
    for content in (pickle.dumps(7), b"no pickle"):
        with pytest.raises(ClosureRefused, match="cannot rebuild"):
            unpack(closures._signature(content, "k") + content, ["k"])
