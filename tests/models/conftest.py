from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from project import connected, own_models


@pytest.fixture(autouse=True)
def no_models() -> Iterator[None]:
    """Each test declares its own."""
    with own_models():
        yield


@pytest.fixture
async def connected_models(no_models: None, database_url: str) -> AsyncIterator[None]:
    """The models can be queried, in a database of this test's own."""
    async with connected(database_url):
        yield
