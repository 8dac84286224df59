"""What was measured of everybody, and how ours compares with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks import drain, enqueue, latency
from benchmarks.report import PERCENTILES, Figures, Result, Scenario, rounded

OURS = "fastedgy"
TURNS = {"latency": 4}
"""Into how many turns a repetition is cut, each with its part of the tasks. What an idle processor
takes to wake changes with the machine's state, within minutes: everybody is to meet every state."""
NAMES = ("enqueue_one", "enqueue_many", "drain_1", "drain_2", "latency", "round_trip")
SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for module in (enqueue, drain, latency)
    for scenario in module.SCENARIOS
    if scenario.name in NAMES
}


@dataclass(frozen=True, slots=True)
class Against:
    """A bar on the ratio of our figure to the best peer's; `goal` is where we want to be."""

    scenario: str
    figure: str
    bar: float
    goal: float | None = None
    at_most: bool = False

    @property
    def words(self) -> str:
        """What is compared."""
        what = f"{self.figure} " if self.figure != "value" else ""
        return f"{what}times the {'best' if self.at_most else 'fastest'} peer"


AGAINST = (
    Against("enqueue_one", "value", 1.2),
    Against("enqueue_many", "value", 1.5, goal=2.0),
    Against("drain_1", "value", 2.0, goal=3.0),
    Against("drain_2", "value", 1.8, goal=2.5),
    Against("latency", "p50", 0.8, at_most=True),
    Against("latency", "p99", 1.0, at_most=True),
)


@dataclass(slots=True)
class Contender:
    """Somebody who is measured. `reason`: why nothing of it could be."""

    name: str
    title: str
    versions: dict[str, str] = field(default_factory=dict)
    python: str = ""
    settings: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    reason: str = ""

    @property
    def label(self) -> str:
        """Its name and version."""
        return " ".join([self.title, *list(self.versions.values())[:1]])


@dataclass(slots=True)
class Cell:
    """One scenario of one contender: its repetitions, or the reasons why there are none."""

    runs: list[Figures] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    cannot: str = ""

    @property
    def reason(self) -> str:
        """Why there is no figure, or not as many as asked for; empty when all is well."""
        if self.cannot or not self.failures:
            return self.cannot
        return (
            f"{len(self.failures)} of {len(self.failures) + len(self.runs)} runs failed: "
            + (self.failures[0])
        )

    def figure(self, name: str) -> float | None:
        """The median of a figure over the repetitions."""
        found = [run[name] for run in self.runs if name in run]
        return median(found) if found else None

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        values = [run["value"] for run in self.runs]
        return min(values), max(values)


@dataclass(slots=True)
class Verdict:
    """A bar, and what was measured. `rival` is the peer that it was measured against."""

    scenario: str
    words: str
    value: float
    bar: float
    at_most: bool
    goal: float | None = None
    rival: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is met."""
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    @property
    def reaches_goal(self) -> bool:
        """Whether it is where we want to be; without a goal, no."""
        return self.goal is not None and (
            self.value <= self.goal if self.at_most else self.value >= self.goal
        )

    def as_json(self) -> dict[str, Any]:
        """One object, for a line of its own."""
        return {
            "scenario": self.scenario,
            "what": self.words,
            "value": rounded(self.value),
            "bar": self.bar,
            "goal": self.goal,
            "at_most": self.at_most,
            "holds": self.holds,
            "rival": self.rival or None,
        }


@dataclass(slots=True)
class Comparison:
    """All contenders, ours first, and all their cells."""

    contenders: dict[str, Contender]
    scenarios: list[str]
    environment: dict[str, Any]
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)

    def cell(self, contender: str, scenario: str) -> Cell:
        """What was measured of somebody."""
        return self.cells.setdefault((contender, scenario), Cell())

    @property
    def peers(self) -> list[Contender]:
        """Everybody but us."""
        return [found for name, found in self.contenders.items() if name != OURS]

    def best(self, scenario: str, figure: str, *, least: bool) -> tuple[float, str] | None:
        """The best median of a figure among the peers, and whose it is."""
        found = [
            (value, peer.name)
            for peer in self.peers
            if (value := self.cell(peer.name, scenario).figure(figure)) is not None
        ]
        if not found:
            return None
        return min(found) if least else max(found)

    def verdicts(self) -> Iterator[Verdict]:
        """Every bar that can be judged: against the peers, and against raw SQL in the same run."""
        for name in self.scenarios:
            ours = self.cell(OURS, name)
            if not ours.runs:
                continue
            for against in AGAINST:
                best = self.best(name, against.figure, least=against.at_most)
                value = ours.figure(against.figure)
                if against.scenario == name and best is not None and value is not None:
                    yield Verdict(
                        name, against.words, value / best[0], against.bar, against.at_most,
                        against.goal, best[1],
                    )  # fmt: skip
            for bar in Result.of(SCENARIOS[name], ours.runs).bars:
                yield Verdict(name, bar["what"], bar["value"], bar["bar"], bar["at_most"])

    def reasons(self) -> Iterator[tuple[Contender, str, str]]:
        """Who has no figure, or fewer than asked for, in which scenarios, and why."""
        for contender in self.contenders.values():
            if contender.reason:
                yield contender, "all", contender.reason
                continue
            told: dict[str, list[str]] = {}
            for name in self.scenarios:
                if reason := self.cell(contender.name, name).reason:
                    told.setdefault(reason, []).append(name)
            for reason, names in told.items():
                yield contender, ", ".join(names), reason

    def lines(self) -> Iterator[dict[str, Any]]:
        """Everything, one object a line. `Comparison.read` understands them."""
        yield {"environment": self.environment}
        for contender in self.contenders.values():
            yield {"contender": {name: getattr(contender, name) for name in Contender.__slots__}}
        for (contender_name, name), cell in self.cells.items():
            shown = {
                figure: rounded(value)
                for figure in ("value", "floor", *PERCENTILES)
                if (value := cell.figure(figure)) is not None
            }
            yield {
                "peer": contender_name,
                "scenario": name,
                "unit": SCENARIOS[name].unit,
                **shown,
                "spread": [rounded(value) for value in cell.spread] if cell.runs else None,
                "reason": cell.reason or self.contenders[contender_name].reason or None,
                "runs": cell.runs,
                "failures": cell.failures,
                "cannot": cell.cannot,
            }
        for verdict in self.verdicts():
            yield {"verdict": verdict.as_json()}

    @classmethod
    def read(cls, lines: Iterable[dict[str, Any]]) -> Comparison:
        """What `lines` wrote."""
        found = cls({}, [], {})
        for line in lines:
            if "environment" in line:
                found.environment = line["environment"]
            elif "contender" in line:
                found.contenders[line["contender"]["name"]] = Contender(**line["contender"])
            elif "peer" in line:
                cell = Cell(line["runs"], line["failures"], line["cannot"])
                found.cells[line["peer"], line["scenario"]] = cell
        found.scenarios = [name for name in NAMES if any(key[1] == name for key in found.cells)]
        return found
