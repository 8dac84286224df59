"""The HTTP API: mount it by `queue_router`."""

from __future__ import annotations

from fastedgy.admin.api.router import queue_router

__all__ = ["queue_router"]
