"""The cache: warmed before anybody asks, emptied when what it is made of changes."""

from example_service.workers.cache.tasks import invalidate, warm

__all__ = ["invalidate", "warm"]
