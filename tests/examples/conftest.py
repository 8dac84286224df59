"""The examples, served on real sockets, in a city whose services are real, too."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from city import open_city

HERE = Path(__file__).parent
for place in (HERE.parent / "tasks", HERE.parents[1] / "examples"):
    if str(place) not in sys.path:
        sys.path.append(str(place))

from served import Example  # noqa: E402
from serving import serving  # noqa: E402


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Example]:
    """The example that the test module names in `EXAMPLE`."""
    import asyncio

    import bcrypt
    import surroundings

    # A hash that is safe takes a quarter of a second of the processor.
    monkeypatch.setattr(bcrypt, "gensalt", partial(bcrypt.gensalt, 4))
    module = importlib.import_module(request.module.EXAMPLE)
    surroundings.db.reset()
    with open_city() as (city, httpx), serving(module.app) as site:
        found = Example(module, site, city, surroundings.db)

        async def sleep(seconds: float) -> None:
            found.pauses.append(seconds)

        for name in ("surroundings", "registration", module.__name__):
            if name in sys.modules:
                monkeypatch.setattr(sys.modules[name], "httpx", httpx)
        if hasattr(module, "asyncio"):
            quick = SimpleNamespace(sleep=sleep, gather=asyncio.gather, Lock=asyncio.Lock)
            monkeypatch.setattr(module, "asyncio", quick)
        yield found
