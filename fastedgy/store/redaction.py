"""Hiding arguments that are nobody's business, such as passwords, from everybody who looks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

REDACTED = "[redacted]"


def redact(args: Any, kwargs: Any, places: Iterable[str] | None) -> tuple[Any, Any]:
    """Arguments as they may be shown. A place is the index of a positional one, as text, or the
    name of a keyword.

    A row that was forged may hold anything: what is no list or object is hidden as a whole.
    """
    if not places:
        return args, kwargs
    named = set(places)
    shown: Any = REDACTED
    if isinstance(args, list):
        shown = [REDACTED if str(place) in named else each for place, each in enumerate(args)]
    if isinstance(kwargs, dict):
        kwargs = {name: REDACTED if name in named else each for name, each in kwargs.items()}
    else:
        kwargs = REDACTED
    return shown, kwargs
