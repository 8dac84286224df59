"""Python's garbage collector, out of the way of those who make very much at once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Let Python's garbage collector rest while many objects are made that all stay.

    Else it goes over them every few hundred, soon takes them for long-lived ones, and then goes
    over all that the process has: a quarter of the time that making them takes. Other threads go
    without it for these milliseconds, too; where two rest at once, the first one ends it.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
