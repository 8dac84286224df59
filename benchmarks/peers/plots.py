"""The plots of a comparison, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from benchmarks.peers.results import OURS, Comparison
from benchmarks.peers.tables import number

OURS_COLOUR, PEER_COLOUR, TEXT, FAINT = "#0f766e", "#b6bec9", "#1f2937", "#6b7280"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "text.color": TEXT,
    "axes.labelcolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": TEXT,
    "ytick.major.size": 0,
}
DPI = 160
THROUGHPUT = ("enqueue_one", "enqueue_many", "drain_1", "drain_2")
TITLES = {
    "enqueue_one": "enqueue_one, tasks/s: one commit each",
    "enqueue_many": "enqueue_many, tasks/s: in bulk",
    "drain_1": "drain_1, tasks/s: 1 worker process",
    "drain_2": "drain_2, tasks/s: 2 worker processes",
    "latency": "latency, ms: enqueue call to body start (median to 99th percentile)",
    "round_trip": "round trip, ms: enqueue call to the outcome at the caller (median to 99th "
    "percentile)",
}


def draw(comparison: Comparison, folder: Path) -> list[tuple[Path, str]]:
    """Write the plots that there are figures for; each with the words that describe it."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with mpl.rc_context(STYLE):
        for name, words, scenarios, columns in (
            ("benchmarks-throughput.png", "Throughput of each queue", THROUGHPUT, 2),
            ("benchmarks-latency.png", "Latency of each queue", ("latency", "round_trip"), 1),
        ):
            shown = [each for each in scenarios if _ranking(comparison, each)]
            if shown:
                _figure(comparison, shown, columns, folder / name)
                drawn.append((folder / name, words))
    return drawn


def _figure(comparison: Comparison, scenarios: Sequence[str], columns: int, path: Path) -> None:
    rows = -(-len(scenarios) // columns)
    tallest = max(len(_ranking(comparison, name)) for name in scenarios)
    figure, grid = plt.subplots(
        rows, columns, figsize=(9, rows * (0.28 * tallest + 0.9)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    places = list(grid.flat)
    for place, name in zip(places, scenarios, strict=False):
        if name in THROUGHPUT:
            _bars(place, comparison, name)
        else:
            _dumbbells(place, comparison, name)
        place.set_title(TITLES[name])
    for place in places[len(scenarios) :]:
        place.set_visible(False)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)


def _ranking(comparison: Comparison, scenario: str) -> list[tuple[str, float]]:
    """Names and medians, the best first."""
    found = [
        (name, value)
        for name in comparison.contenders
        if (value := comparison.cell(name, scenario).figure("value")) is not None
    ]
    return sorted(found, key=lambda pair: pair[1], reverse=scenario in THROUGHPUT)


def _colours(names: Sequence[str]) -> list[str]:
    return [OURS_COLOUR if name == OURS else PEER_COLOUR for name in names]


def _label(place: Any, comparison: Comparison, names: Sequence[str]) -> None:
    place.set_yticks(range(len(names)), [comparison.contenders[name].title for name in names])
    for tick, name in zip(place.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if name == OURS else "normal")
    place.set_ylim(len(names) - 0.4, -0.6)


def _bars(place: Any, comparison: Comparison, scenario: str) -> None:
    names, values = zip(*_ranking(comparison, scenario), strict=True)
    rows = range(len(names))
    place.barh(rows, values, height=0.68, color=_colours(names))
    spreads = [comparison.cell(name, scenario).spread for name in names]
    for row, value, (low, high) in zip(rows, values, spreads, strict=True):
        if high > low:
            place.plot([low, high], [row, row], color=TEXT, linewidth=0.8)
        _note(place, number(value), high, row, 4)
    floor = comparison.cell(OURS, scenario).figure("floor")
    place.set_xlim(0, max(*(high for _, high in spreads), floor or 0) * 1.16)
    place.locator_params(axis="x", nbins=5)
    place.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if floor is not None:
        _floor(place, floor)
    _label(place, comparison, names)


def _note(place: Any, text: str, x: float, row: int, distance: int) -> None:
    place.annotate(
        text, (x, row), (distance, 0), textcoords="offset points", va="center", fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )  # fmt: skip


def _dumbbells(place: Any, comparison: Comparison, scenario: str) -> None:
    names = [name for name, _ in _ranking(comparison, scenario)]
    for row, (name, colour) in enumerate(zip(names, _colours(names), strict=True)):
        cell = comparison.cell(name, scenario)
        low, high = cell.figure("p50") or 0.0, cell.figure("p99") or 0.0
        place.plot([low, high], [row, row], color=colour, linewidth=4, solid_capstyle="round")
        place.plot([low], [row], "o", color=colour, markersize=8)
        _note(place, f"{number(low)} / {number(high)}", high, row, 8)
    floor = comparison.cell(OURS, scenario).figure("floor")
    place.set_xscale("log")
    low, high = place.get_xlim()
    place.set_xlim(min(low, floor or low) * 0.9, high * 1.6)
    place.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    place.xaxis.set_minor_formatter(lambda value, _: "")
    if floor is not None:
        _floor(place, floor)
    _label(place, comparison, names)


def _floor(place: Any, value: float) -> None:
    place.axvline(value, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    place.annotate(
        "raw SQL", (value, 0), (3, 2), xycoords=("data", "axes fraction"),
        textcoords="offset points", fontsize=7, color=FAINT, va="bottom",
    )  # fmt: skip
