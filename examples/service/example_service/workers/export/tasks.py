"""The file is complete when it has its name: until then it is a temporary one."""

from __future__ import annotations

import csv
import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from example_service.models import Order
from example_service.settings import ServiceSettings
from fastedgy.dependencies import Inject
from fastedgy.queued_task import get_current_task, set_context, task

PAGE = 500


@task(queue="export", timeout=1800)
async def export_orders(
    format: Literal["csv", "json"] = "csv",
    since: datetime | None = None,
    until: datetime | None = None,
    settings: ServiceSettings = Inject(ServiceSettings),
) -> dict[str, str | int]:
    """Write orders to a file: CSV, or one JSON list. Returns its path and the number of rows."""
    me = get_current_task()
    name = f"orders-{me.id if me else 'here'}.{format}"
    part = settings.folder("tmp") / f"{name}.part"
    with part.open("w", newline="", encoding="utf-8") as file:
        write = _csv if format == "csv" else _json
        rows = await write(file, _orders(since, until))
    path: Path = part.replace(settings.folder("exports") / name)
    return {"path": str(path), "rows": rows, "bytes": path.stat().st_size}


async def _orders(since: datetime | None, until: datetime | None) -> AsyncIterator[dict[str, str]]:
    """Page by page, by the key: an export of millions needs no more memory than one of hundreds."""
    wanted = Order.query.order_by("id")
    if since is not None:
        wanted = wanted.filter(placed__gte=since)
    if until is not None:
        wanted = wanted.filter(placed__lt=until)
    last = done = 0
    while page := await wanted.filter(id__gt=last).limit(PAGE):
        for order in page:
            yield {
                "id": str(order.id),
                "customer": order.customer,
                "amount": str(order.amount),
                "placed": order.placed.isoformat(),
            }
        last, done = page[-1].id, done + len(page)
        set_context("rows", done)


async def _csv(file, orders) -> int:  # type: ignore[no-untyped-def]
    writer = csv.DictWriter(file, ("id", "customer", "amount", "placed"))
    writer.writeheader()
    rows = 0
    async for order in orders:
        writer.writerow(order)
        rows += 1
    return rows


async def _json(file, orders) -> int:  # type: ignore[no-untyped-def]
    rows = 0
    file.write("[")
    async for order in orders:
        file.write(",\n" if rows else "\n")
        json.dump(order, file)
        rows += 1
    file.write("\n]\n")
    return rows
