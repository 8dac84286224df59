"""Rates as people write them: `"10/s"`, `"100/minute"`, `"5/h"`."""

from __future__ import annotations

import math
import re
from typing import Any

_RATE = re.compile(r"\s*(?P<number>\d+(\.\d+)?)\s*/\s*(?P<unit>[a-z]+)\s*")
_SECONDS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3_600,
            "hour": 3_600, "d": 86_400, "day": 86_400}  # fmt: skip
_MOST = 1_000_000.0
_LEAST = 1 / (366 * 86_400)


def rate_of(value: Any) -> float:
    """Starts a second. Raises ValueError, saying what is wrong."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError('it must be text such as "10/s", "100/m" or "5/h"')
    if isinstance(value, str):
        found = _RATE.fullmatch(value.lower())
        seconds = _SECONDS.get(found["unit"]) if found else None
        if found is None or seconds is None:
            raise ValueError('it must be a number and a unit, such as "10/s", "100/m" or "5/h"')
        value = float(found["number"]) / seconds
    rate = float(value)
    if not math.isfinite(rate) or not _LEAST <= rate <= _MOST:
        raise ValueError("it must be between one a year and a million a second")
    return rate
