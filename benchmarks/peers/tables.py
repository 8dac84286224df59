"""A comparison for the terminal, and the words that the page has in common with it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from benchmarks.peers.results import OURS, SCENARIOS, Comparison, Contender, Verdict

HEADS = {
    "enqueue_one": "enqueue_one /s",
    "enqueue_many": "enqueue_many /s",
    "drain_1": "drain_1 /s",
    "drain_2": "drain_2 /s",
    "latency": "latency p50 / p99 ms",
    "round_trip": "round trip p50 ms",
}
DASH = "–"  # noqa: RUF001
FLOOR = "raw SQL floor"


def number(value: float) -> str:
    """Three or four digits that mean something."""
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def figure(comparison: Comparison, contender: str, scenario: str) -> str:
    """The median, or a dash."""
    cell = comparison.cell(contender, scenario)
    value = cell.figure("value")
    if value is None:
        return DASH
    tail = cell.figure("p99") if scenario == "latency" else None
    return number(value) if tail is None else f"{number(value)} / {number(tail)}"


def spread(comparison: Comparison, contender: str, scenario: str) -> str:
    """From the lowest to the highest repetition; empty where there is only one."""
    cell = comparison.cell(contender, scenario)
    if len(cell.runs) < 2:
        return ""
    return "–".join(number(value) for value in cell.spread)  # noqa: RUF001


def floor(comparison: Comparison, scenario: str) -> str:
    """What raw SQL did in the same run, on the same table as ours."""
    cell = comparison.cell(OURS, scenario)
    value, tail = cell.figure("floor"), cell.figure("floor_p99")
    if value is None:
        return DASH
    both = scenario == "latency" and tail is not None
    return f"{number(value)} / {number(tail or 0)}" if both else number(value)


def best(comparison: Comparison, scenario: str) -> str | None:
    """Who is best of all, ours included."""
    least = SCENARIOS[scenario].unit == "ms"
    found = [
        (value, name)
        for name in comparison.contenders
        if (value := comparison.cell(name, scenario).figure("value")) is not None
    ]
    if not found:
        return None
    return (min(found) if least else max(found))[1]


def verdict_words(verdict: Verdict, contenders: dict[str, Contender]) -> str:
    """What a bar compares, with the name of the peer."""
    if not verdict.rival:
        return verdict.words
    return f"{verdict.words} ({contenders[verdict.rival].title})"


def rows(comparison: Comparison) -> Iterator[tuple[Contender, list[str], list[str]]]:
    """Everybody with figures and spreads, in the order of the scenarios."""
    for contender in comparison.contenders.values():
        yield (
            contender,
            [figure(comparison, contender.name, name) for name in comparison.scenarios],
            [spread(comparison, contender.name, name) for name in comparison.scenarios],
        )


def show(comparison: Comparison, console: Console) -> None:
    """Two tables, and the reasons for the dashes."""
    repeat = comparison.environment["repeat"]
    table = Table(title=f"Medians of {repeat}; best in bold, spread below", title_justify="left")
    table.add_column("queue", no_wrap=True)
    for name in comparison.scenarios:
        table.add_column(HEADS[name], justify="right")
    winners = {name: best(comparison, name) for name in comparison.scenarios}
    for contender, figures, spreads in rows(comparison):
        shown = [
            (f"[bold]{value}[/]" if winners[name] == contender.name else value)
            + (f"\n[dim]{around}[/]" if around else "")
            for name, value, around in zip(comparison.scenarios, figures, spreads, strict=True)
        ]
        style = "green" if contender.name == OURS else ""
        table.add_row(f"[{style}]{contender.label}[/]" if style else contender.label, *shown)
    table.add_row(
        f"[dim]{FLOOR}[/]",
        *[f"[dim]{floor(comparison, name)}[/]" for name in comparison.scenarios],
    )
    console.print(table)
    bars = Table(title="Our bars", title_justify="left")
    for head in ("scenario", "what"):
        bars.add_column(head)
    for head in ("measured", "bar", "goal"):
        bars.add_column(head, justify="right")
    for verdict in comparison.verdicts():
        colour, mark = ("green", "✓") if verdict.holds else ("red", "✗")
        sign = "≤" if verdict.at_most else "≥"
        bars.add_row(
            verdict.scenario,
            verdict_words(verdict, comparison.contenders),
            f"[{colour}]{mark}[/] {number(verdict.value)}",
            f"{sign} {verdict.bar:g}",
            f"{sign} {verdict.goal:g}" if verdict.goal else "",
        )
    console.print(bars)
    for contender, names, reason in comparison.reasons():
        console.print(f"{DASH} {contender.title}, {names}: {reason}", style="dim", markup=False)
