"""The overview: a sentence, the states, plots, and what is slow, failing, busy or old."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from fastedgy.admin.auth import Identity
from fastedgy.admin.pages.plots import Plot, Series, bar_plot, buckets, line_plot, merged
from fastedgy.admin.pages.site import Site
from fastedgy.admin.pages.words import milliseconds, number
from fastedgy.admin.service import QueueAdmin
from fastedgy.admin.types import Point
from fastedgy.dependencies import Inject

RANGES = {"15m": ("15 min", 15), "1h": ("1 h", 60), "6h": ("6 h", 360), "24h": ("24 h", 1440)}
_WAITS = (("p50", "wait_ms_p50"), ("p95", "wait_ms_p95"), ("p99", "wait_ms_p99"))
_MOST_QUEUES = 10


def add_routes(router: APIRouter, site: Site) -> None:
    """Add it to the pages' router."""

    @router.get("/")
    async def overview(
        request: Request,
        who: Annotated[Identity, Depends(site.auth.read)],
        span: Annotated[str, Query(alias="range")] = "15m",
        admin: QueueAdmin = Inject(QueueAdmin),
    ) -> Response:
        """The queue in one look."""
        span = span if span in RANGES else "15m"
        view = await admin.overview()
        points = await admin.throughput(RANGES[span][1])
        depths = sorted(view.queues, key=lambda queue: queue.depth, reverse=True)[:_MOST_QUEUES]
        return site.page(
            request, "overview.html", who, view=view, range=span,
            ranges=[(word, label) for word, (label, _) in RANGES.items()],
            throughput=throughput_plot(points), pick_up=pick_up_plot(points),
            depths=depths, deepest=max([1, *(queue.depth for queue in depths)]),
        )  # fmt: skip


def throughput_plot(points: Sequence[Point]) -> Plot:
    """What was done and what failed, over time."""
    size = buckets(len(points))
    series = [
        Series(word, word, merged([float(getattr(point, word)) for point in points], size, sum))
        for word in ("done", "failed")
    ]
    unit = _unit(points, size)
    return bar_plot(f"Throughput, {unit}", _moments(points, size), series, number)


def pick_up_plot(points: Sequence[Point]) -> Plot:
    """How long tasks waited from being due to being started, over time."""
    size = buckets(len(points))
    series = [
        Series(word, word, merged([getattr(point, name) for point in points], size, max))
        for word, name in _WAITS
    ]
    return line_plot("Pick-up", _moments(points, size), series, milliseconds)


def _moments(points: Sequence[Point], size: int) -> list[Any]:
    return [point.minute for point in points[::size]]


def _unit(points: Sequence[Point], size: int) -> str:
    minutes = (points[0].seconds if points else 60) * size // 60
    if minutes == 1:
        return "a minute"
    return f"in {minutes} minutes" if minutes != 60 else "an hour"
