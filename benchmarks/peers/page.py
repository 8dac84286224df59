"""A comparison as a page of the documentation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import SERVER_SETTINGS
from benchmarks.peers.plots import draw
from benchmarks.peers.results import NAMES, OURS, Comparison, Verdict
from benchmarks.peers.tables import DASH, FLOOR, HEADS, best, floor, number, rows, verdict_words

IMAGES = "images"
WHAT = {
    "enqueue_one": "One task after the other, each committed before the next.",
    "enqueue_many": "Many tasks by the queue's own bulk call; without one, 500 calls at a time.",
    "drain_1": "No-op `async def` tasks that are already there, with one worker process. It is "
    "started, held, and released; time runs from the first body to the moment the queue's own "
    "table shows nothing unfinished.",
    "drain_2": "The same with two worker processes, released together.",
    "latency": "An idle worker, and one task every 20 ms: from the call that enqueues to the first "
    "line of the body.",
    "round_trip": "From the call that enqueues to the outcome at the caller, waiting as the queue "
    "waits by default.",
}


def write_page(
    comparison: Comparison, path: Path, others: Sequence[dict[str, Any]] = ()
) -> list[Path]:
    """Write the page, and its plots to `images/` beside it. `others`: results of our own scenarios,
    as `python -m benchmarks all --json` prints them."""
    images = draw(comparison, path.parent / IMAGES)
    shown = [
        f"![{words}]({os.path.relpath(image, path.parent)})".replace(os.sep, "/")
        for image, words in images
    ]
    path.write_text("\n".join(_page(comparison, shown, others)) + "\n", encoding="utf-8")
    return [path, *(image for image, _ in images)]


def _page(
    comparison: Comparison, images: Sequence[str], others: Sequence[dict[str, Any]]
) -> Iterator[str]:
    yield "# Benchmarks"
    yield ""
    yield (
        "fastedgy beside the other Postgres queues for Python: the same server, the same tasks, "
        "one after the other on one machine. The page is written by `python -m benchmarks compare`."
    )
    yield ""
    if comparison.environment["scale"] != 1:
        yield (
            f"> This was a quick look, with {comparison.environment['scale']:g} times the usual "
            "number of tasks: its figures say little."
        )
        yield ""
    yield from _figures(comparison)
    for image in images:
        yield image
        yield ""
    yield from _bars(comparison, others)
    yield from _what(comparison)
    yield from _who(comparison)
    yield from _repeat(comparison)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _table(heads: Sequence[str], body: Sequence[Sequence[str]], right: int) -> Iterator[str]:
    """`right`: from which column on figures stand."""
    yield _row(heads)
    yield _row(["---" if place < right else "---:" for place in range(len(heads))])
    for cells in body:
        yield _row(cells)
    yield ""


def _figures(comparison: Comparison) -> Iterator[str]:
    names = comparison.scenarios
    winners = {name: best(comparison, name) for name in names}
    body = []
    for contender, figures, spreads in rows(comparison):
        cells = []
        for name, figure, around in zip(names, figures, spreads, strict=True):
            shown = f"**{figure}**" if winners[name] == contender.name else figure
            cells.append(f"{shown}<br><sub>{around}</sub>" if around else shown)
        label = f"**{contender.label}**" if contender.name == OURS else contender.label
        body.append([label, *cells])
    body.append([f"*{FLOOR}*", *[f"*{floor(comparison, name)}*" for name in names]])
    yield "## Figures"
    yield ""
    yield (
        f"Medians of {comparison.environment['repeat']}, the lowest and the highest below; the "
        f"best in bold. {_turns(comparison)}The floor is the best raw SQL that we know, through "
        "asyncpg, on our own table: what Postgres allows."
    )
    yield ""
    yield from _table(["queue", *[HEADS[name] for name in names]], body, 1)
    reasons = [
        f"- {contender.title}, {where}: {reason}."
        for contender, where, reason in comparison.reasons()
    ]
    if reasons:
        yield f"Why there is a dash ({DASH}), or a figure from fewer runs:"
        yield ""
        yield from reasons
        yield ""


def _turns(comparison: Comparison) -> str:
    """What was measured more often than the rest."""
    repeat = comparison.environment["repeat"]
    counts = {name: len(comparison.cell(OURS, name).runs) for name in comparison.scenarios}
    more = [f"{name} in {count}" for name, count in counts.items() if count > repeat]
    return f"More and shorter turns: {', '.join(more)}. " if more else ""


def _bars(comparison: Comparison, others: Sequence[dict[str, Any]]) -> Iterator[str]:
    verdicts = list(comparison.verdicts())
    for other in others:
        if other["scenario"] not in NAMES:
            verdicts += [
                Verdict(other["scenario"], bar["what"], bar["value"], bar["bar"], bar["at_most"])
                for bar in other["bars"]
            ]
    body = []
    for verdict in verdicts:
        sign = "≤" if verdict.at_most else "≥"
        body.append([
            verdict.scenario,
            verdict_words(verdict, comparison.contenders),
            number(verdict.value),
            f"{sign} {verdict.bar:g}",
            f"{sign} {verdict.goal:g}" if verdict.goal else "",
            _judged(verdict),
        ])  # fmt: skip
    yield "## Our bars"
    yield ""
    yield (
        "What we ask of ourselves, as ratios within one run, so that they mean the same on any "
        "machine. The bar is what must hold, the goal where we want to be."
    )
    yield ""
    yield from _table(["scenario", "what", "measured", "bar", "goal", ""], body, 2)
    if others and (rest := [each for each in others if each["scenario"] not in NAMES]):
        yield "The scenarios that only concern us, with the figures behind those ratios:"
        yield ""
        yield from _table(
            ["scenario", "value", "unit", "floor", "ratio"],
            [
                [each["scenario"], number(each["value"]), each["unit"],
                 *[DASH if each[name] is None else number(each[name])
                   for name in ("floor", "ratio")]]
                for each in rest
            ],
            1,
        )  # fmt: skip


def _judged(verdict: Verdict) -> str:
    if not verdict.holds:
        return "**missed**"
    return "holds, goal reached" if verdict.reaches_goal else "holds"


def _what(comparison: Comparison) -> Iterator[str]:
    yield "## What is measured"
    yield ""
    for name in comparison.scenarios:
        yield f"- `{name}`: {WHAT[name]}"
    yield ""
    facts = comparison.environment
    settings = ", ".join(f"`{name} = {value}`" for name, value in SERVER_SETTINGS.items())
    where = " ".join(str(facts[name]) for name in ("system", "machine") if facts.get(name))
    server = f"The embedded server of the package, with {settings}."
    if not facts["embedded"]:
        server = "A server that was there, with its own settings."
    yield (
        f"PostgreSQL {facts['postgres']} on {facts['cpus']} CPUs"
        f"{' (' + facts['cpu'] + ')' if facts.get('cpu') else ''}, {where}. Commits are durable: "
        f"`fsync`, `full_page_writes` and `synchronous_commit` are on. {server} Postgres, the "
        "producer and the workers share the CPUs."
    )
    yield ""
    yield (
        "Every measurement has a fresh database, `VACUUM (ANALYZE)` and a `CHECKPOINT` before it. "
        "The queues take turns: everybody once, then everybody again. Everybody runs on uvloop. "
        "After each drain it is checked that every task ran exactly once and is recorded as done, "
        "where the queue keeps a record; a drain where that does not hold has no figure. The "
        "peers' bodies note their number for it, which takes a tenth of a microsecond."
    )
    yield ""


def _who(comparison: Comparison) -> Iterator[str]:
    yield "## Versions and settings"
    yield ""
    yield (
        "Everything else is the default. Each peer is used as its authors advise for throughput, "
        "with the setting that was fastest in a calibration."
    )
    yield ""
    body = []
    for contender in comparison.contenders.values():
        versions = ", ".join(f"{name} {found}" for name, found in contender.versions.items())
        tasks = contender.counts.get("drain")
        body.append([
            contender.title,
            versions or DASH,
            contender.python or DASH,
            contender.settings or contender.reason,
            f"{tasks:,}" if tasks else "60,000",
        ])  # fmt: skip
    yield from _table(["queue", "versions", "Python", "settings", "tasks of a drain"], body, 4)


def _repeat(comparison: Comparison) -> Iterator[str]:
    yield "## How to repeat it"
    yield ""
    yield "From a checkout of the repository, on a quiet machine:"
    yield ""
    yield "```console"
    yield "$ pip install -e '.[embedded,bench]'"
    yield "$ python -m benchmarks compare --upgrade --write docs/benchmarks.md"
    yield "```"
    yield ""
    yield (
        "The peers are installed from the package index, their newest releases, each into a "
        "virtual environment of its own in `~/.cache/fastedgy-benchmarks` (`--venvs DIR` for "
        "another place). A full run takes about half an hour; `--scale 0.1 --repeat "
        "1` is a quick look, `--only pgqueuer,awa` a narrow one, and `--json` prints every "
        "repetition. Set `DATABASE_URL` to measure on a server of yours. How each peer is used "
        "stands in `benchmarks/peers/drivers/`, one short script for each."
    )
    yield ""
    yield (
        "Figures of different machines cannot be compared, those of one run can: differences "
        "under 15 % are noise."
    )
