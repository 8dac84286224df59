"""Figures, bars and verdicts: what a scenario is, and how its result is shown."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Lab

Figures = dict[str, float]
"""What one repetition measured. `value` is the scenario's figure, `floor` that of raw SQL; the rest
are named by the scenario. Keys `p50`, `p95` and `p99` are percentiles."""

PERCENTILES = ("p50", "p95", "p99")


@dataclass(frozen=True, slots=True)
class Bar:
    """A limit on one figure: at least, or `at_most`. `words` say what is compared."""

    figure: str
    limit: float
    words: str
    at_most: bool = False

    def holds(self, value: float) -> bool:
        """Whether the figure meets it."""
        return value <= self.limit if self.at_most else value >= self.limit


@dataclass(frozen=True, slots=True)
class Scenario:
    """`once` measures one repetition. `note` says which bars cannot be judged here."""

    name: str
    unit: str
    words: str
    once: Callable[[Lab], Awaitable[Figures]]
    bars: tuple[Bar, ...] = ()
    note: str = ""
    repeats: Callable[[Lab], Awaitable[list[Figures]]] | None = None
    """Instead of calling `once` repeatedly, where something is shared by the repetitions."""

    async def run(self, lab: Lab) -> Result:
        """All repetitions, and their medians."""
        if self.repeats is not None:
            runs = await self.repeats(lab)
        else:
            runs = []
            for number in range(lab.repeat):
                lab.say(f"{self.name}: {number + 1} of {lab.repeat}")
                runs.append(await self.once(lab))
        return Result.of(self, runs)


@dataclass(slots=True)
class Result:
    """The medians of a scenario's repetitions, judged.

    `ratio` is the median of the repetitions' ratios, not the ratio of the medians: us and the floor
    are compared as they were measured, one right after the other.
    """

    scenario: Scenario
    figures: Figures
    spread: tuple[float, float]
    environment: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, scenario: Scenario, runs: Sequence[Figures]) -> Result:
        """Medians of what was measured in every repetition."""
        for run in runs:
            if run.get("floor"):
                run.setdefault("ratio", run["value"] / run["floor"])
        names = [name for name in runs[0] if all(name in run for run in runs)]
        values = [run["value"] for run in runs]
        return cls(
            scenario,
            {name: median(run[name] for run in runs) for name in names},
            (min(values), max(values)),
        )

    @property
    def bars(self) -> list[dict[str, Any]]:
        """Each bar with what was measured."""
        return [
            {
                "what": bar.words,
                "value": rounded(self.figures[bar.figure]),
                "bar": bar.limit,
                "at_most": bar.at_most,
                "holds": bar.holds(self.figures[bar.figure]),
            }
            for bar in self.scenario.bars
        ]

    @property
    def holds(self) -> bool | None:
        """Whether all bars hold; None without any."""
        judged = [bar["holds"] for bar in self.bars]
        return all(judged) if judged else None

    def as_json(self) -> dict[str, Any]:
        """One object, for a line of its own. `bar` is the first one; `bars` has them all."""
        shown = {name: rounded(value) for name, value in self.figures.items()}
        rest = {
            name: value
            for name, value in shown.items()
            if name not in ("value", "floor", "ratio", *PERCENTILES)
        }
        return {
            "scenario": self.scenario.name,
            "value": shown["value"],
            "unit": self.scenario.unit,
            "floor": shown.get("floor"),
            "ratio": shown.get("ratio"),
            "bar": self.scenario.bars[0].limit if self.scenario.bars else None,
            "holds": self.holds,
            "bars": self.bars,
            **{name: shown[name] for name in PERCENTILES if name in shown},
            "spread": [rounded(value) for value in self.spread],
            "figures": rest,
            "note": self.scenario.note,
            "environment": self.environment,
        }


def rounded(value: float) -> float:
    """Four significant digits."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, max(0, 3 - math.floor(math.log10(abs(value)))))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def percentiles(values: Sequence[float]) -> Figures:
    """The median and the two tails that people ask for."""
    return {name: percentile(values, float(name[1:]) / 100) for name in PERCENTILES}


def show(results: Sequence[Result], console: Console) -> None:
    """A table for people, and the notes below it."""
    table = Table(title="Medians; the floor is raw SQL in the same run", title_justify="left")
    table.add_column("scenario", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("spread", no_wrap=True)
    table.add_column("floor", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("bars")
    for result in results:
        shown = result.as_json()
        low, high = shown["spread"]
        tails = [f"{name} {_number(shown[name])}" for name in PERCENTILES if name in shown]
        table.add_row(
            shown["scenario"],
            f"{_number(shown['value'])} {shown['unit']}",
            "\n".join([f"{_number(low)} to {_number(high)}", *tails]),
            "-" if shown["floor"] is None else _number(shown["floor"]),
            "-" if shown["ratio"] is None else f"{shown['ratio']:.2f}",
            "\n".join(_bar(bar) for bar in shown["bars"]),
        )
    console.print(table)
    for result in results:
        scenario = result.scenario
        console.print(f"{scenario.name}: {scenario.words}. {scenario.note}", style="dim")


def _bar(bar: dict[str, Any]) -> str:
    colour, mark = ("green", "✓") if bar["holds"] else ("red", "✗")
    sign = "≤" if bar["at_most"] else "≥"
    return f"[{colour}]{mark}[/] {_number(bar['value'])} {sign} {bar['bar']:g} {bar['what']}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:,.4g}"
