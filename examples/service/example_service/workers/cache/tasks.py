"""Values that are dear to compute are computed by workers, and read by routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from example_service.models import CacheEntry, Figures, Order
from fastedgy.queued_task import set_context, task
from fastedgy.scheduler import scheduled

KEEP = timedelta(minutes=30)


async def _best_customers() -> Any:
    totals: dict[str, float] = {}
    async for order in Order.query.all():
        totals[order.customer] = totals.get(order.customer, 0.0) + float(order.amount)
    return sorted(totals.items(), key=lambda item: -item[1])[:10]


async def _this_week() -> Any:
    days = await Figures.query.filter(level="day").order_by("-start").limit(7)
    return {str(day.start.date()): float(day.revenue) for day in days}


COMPUTED: dict[str, Callable[[], Awaitable[Any]]] = {
    "customers:best": _best_customers,
    "figures:week": _this_week,
}


@scheduled(every=timedelta(minutes=15), name="warm the cache")
@task(queue="cache", unique_key="warm the cache")
async def warm(keys: list[str] | None = None) -> dict[str, int]:
    """Compute values anew: these, or all."""
    wanted = keys or list(COMPUTED)
    for number, key in enumerate(wanted):
        set_context("progress", 100 * number // len(wanted))
        value = await COMPUTED[key]()
        entry = {"value": value, "expires": datetime.now(UTC) + KEEP}
        await CacheEntry.query.update_or_create(key=key, defaults=entry)
    return {"warmed": len(wanted)}


@task(queue="cache")
async def invalidate(prefix: str) -> dict[str, int]:
    """Forget what begins with `prefix`."""
    return {"deleted": await CacheEntry.query.filter(key__startswith=prefix).delete()}


async def cached(key: str) -> Any:
    """What a route reads: the value, or None."""
    entry = await CacheEntry.query.get_or_none(key=key)
    return None if entry is None or entry.expires < datetime.now(UTC) else entry.value
