"""Each figure is computed from those below it and replaces what was there: a repetition, or orders
that came late, do no harm."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from example_service.models import Figures
from fastedgy.dependencies import Inject
from fastedgy.orm import Database
from fastedgy.queued_task import get_context, task
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.scheduler import scheduled

Level = Literal["hour", "day", "week", "month"]
BELOW = {"day": "hour", "week": "day", "month": "day"}  # months do not begin with weeks
LEVELS: tuple[Level, ...] = ("hour", "day", "week", "month")

_INTO = """
INSERT INTO figures (level, start, orders, revenue, largest)
SELECT :level, :start, {columns} FROM {table}
ON CONFLICT (level, start) DO UPDATE
   SET orders = excluded.orders, revenue = excluded.revenue, largest = excluded.largest
RETURNING orders, revenue
"""
FROM_ORDERS = _INTO.format(
    columns="count(*), coalesce(sum(amount), 0), coalesce(max(amount), 0)",
    table="orders WHERE placed >= :start AND placed < :end",
)
FROM_BELOW = _INTO.format(
    columns="coalesce(sum(orders), 0), coalesce(sum(revenue), 0), coalesce(max(largest), 0)",
    table="figures WHERE level = :below AND start >= :start AND start < :end",
)


@scheduled(cron="5 * * * *", name="figures", misfire_grace=None, coalesce=False)
@task(queue="analytics")
async def roll_up(
    moment: datetime | None = None, tasks: QueuedTasks = Inject(QueuedTasks)
) -> dict[str, str]:
    """Compute the hour before `moment`, and then the day, week and month that it is in."""
    due = get_context("schedule.due")
    now = moment or (datetime.fromisoformat(due) if due else datetime.now(UTC))
    hour = now - timedelta(hours=1)
    refs = {}
    parent = None
    for level in LEVELS[:2]:
        parent = tasks.add_task(aggregate, level, hour, parent=parent)
        refs[level] = parent
    for level in LEVELS[2:]:  # side by side, after the day
        refs[level] = tasks.add_task(aggregate, level, hour, parent=parent)
    return {level: str(ref.id) for level, ref in refs.items()}


@task(queue="analytics")
async def aggregate(
    level: Level, moment: datetime, database: Database = Inject(Database)
) -> dict[str, Any]:
    """Compute the hour, day, week or month (of UTC) that `moment` is in."""
    start, end = span(level, moment)
    values: dict[str, Any] = {"level": level, "start": start, "end": end}
    if level == "hour":
        row = await database.fetch_one(FROM_ORDERS, values)
    else:
        row = await database.fetch_one(FROM_BELOW, values | {"below": BELOW[level]})
    return {"start": start, "orders": row.orders, "revenue": row.revenue}


@task(queue="analytics")
async def compute_kpis(day: datetime) -> dict[str, float]:
    """What is worth knowing of a day: revenue per order, the best hour, growth since the day before
    (1.0 is as much again)."""
    start, end = span("day", day)
    today = await Figures.query.get_or_none(level="day", start=start)
    before = await Figures.query.get_or_none(level="day", start=start - timedelta(days=1))
    hours = await Figures.query.filter(level="hour", start__gte=start, start__lt=end)
    orders = today.orders if today else 0
    revenue = float(today.revenue) if today else 0.0
    base = float(before.revenue) if before else 0.0
    return {
        "orders": orders,
        "revenue": revenue,
        "revenue_per_order": round(revenue / orders, 2) if orders else 0.0,
        "best_hour": float(max((hour.revenue for hour in hours), default=0)),
        "growth": round(revenue / base - 1, 4) if base else 0.0,
    }


@task(queue="analytics")
async def trend(days: int = 28, ahead: int = 7) -> dict[str, Any]:
    """A straight line through the revenue of the last days, and where it leads."""
    last = await Figures.query.filter(level="day").order_by("-start").limit(days)
    values = [float(figure.revenue) for figure in reversed(last)]
    number = len(values)
    if number < 2:
        return {"days": number, "slope": 0.0, "forecast": []}
    middle, mean = (number - 1) / 2, sum(values) / number
    spread = sum((place - middle) ** 2 for place in range(number))
    slope = sum((place - middle) * (value - mean) for place, value in enumerate(values)) / spread
    line = [mean + slope * (number - 1 + step - middle) for step in range(1, ahead + 1)]
    return {
        "days": number,
        "slope": round(slope, 4),
        "forecast": [round(value, 2) for value in line],
    }


def span(level: str, moment: datetime) -> tuple[datetime, datetime]:
    """The start and the end of the hour, day, week (from Monday) or month that `moment` is in."""
    start = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if level == "hour":
        return start, start + timedelta(hours=1)
    start = start.replace(hour=0)
    if level == "day":
        return start, start + timedelta(days=1)
    if level == "week":
        start -= timedelta(days=start.weekday())
        return start, start + timedelta(days=7)
    start = start.replace(day=1)
    return start, (start + timedelta(days=32)).replace(day=1)
