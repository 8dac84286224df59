"""What tests of models and migrations share: a project's own models, for one test only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from fastedgy.config import Settings
from fastedgy.database import bind, registry


@contextmanager
def own_models() -> Iterator[None]:
    """Begin without any model, and forget at the end what was declared meanwhile."""
    models, names = dict(registry.models), set(registry.admin_models)
    registry.models.clear()
    registry.refresh_metadata()
    try:
        yield
    finally:
        registry.models.clear()
        registry.models.update(models)
        registry.admin_models.clear()
        registry.admin_models.update(names)
        registry.refresh_metadata()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[None]:
    """The models' registry, connected to a database."""
    bind(url, Settings(database_url=url))
    async with registry:
        yield
