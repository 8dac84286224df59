"""What a chaos run has shown: the ledger held against the rows."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.chaos_fleet import Kill
from benchmarks.ledger import Book, read

ENDED = ("done", "failed", "cancelled")
BREATH = 0.1
"""Seconds after its SIGCONT in which a process may still do what was under way: its threads go on
at the same moment as the one that looks at the lease. Counted apart, as `last_breaths`."""
EXPECTED = {"hopeless": "ValueError", "orphan": "ParentFailed"}
"""Kinds that do not end as done, with the reason that their rows give."""

# Every end, every way out of an end, and everything that was taken back, as Postgres commits it.
AUDIT = """
CREATE TABLE chaos_audit (
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    id uuid NOT NULL, run integer NOT NULL, was text NOT NULL, became text NOT NULL, reason text
);
CREATE FUNCTION chaos_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_audit (id, run, was, became, reason)
    VALUES (new.id, new.run, old.state, new.state, new.error_type);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_audit AFTER UPDATE ON queued_tasks FOR EACH ROW
    WHEN (old.state IS DISTINCT FROM new.state
          AND (old.state IN ('done', 'failed', 'cancelled')
               OR new.state IN ('done', 'failed', 'cancelled')
               OR (old.state = 'doing' AND old.run <> new.run)))
    EXECUTE FUNCTION chaos_audit();
"""


@dataclass(slots=True)
class Figures:
    """`violations` are the promises that were broken; each has examples in `examples`."""

    acknowledged: int = 0
    lost: int = 0
    stuck: int = 0
    outcomes_twice: int = 0
    ran_after_done: int = 0
    phantom: int = 0
    overlapping_runs: int = 0
    ended_wrongly: int = 0
    worker_kills: int = 0
    restarts: int = 0
    recovery_ms_p99: int = 0
    recovery_ms_max: int = 0
    resume_ms_max: int = 0
    runs: int = 0
    failed_by_losses: int = 0
    fenced: int = 0
    last_breaths: int = 0
    complaints: list[str] = field(default_factory=list)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def is_clean(self) -> bool:
        """Whether every promise was kept."""
        return not (
            self.lost + self.stuck + self.outcomes_twice + self.ran_after_done + self.phantom
            + self.overlapping_runs + self.ended_wrongly + len(self.complaints)
        )  # fmt: skip

    def told(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


async def judge(
    url: str,
    ledger: Path,
    kills: list[Kill],
    thaws: list[tuple[int, float]],
    outages: list[tuple[float, float]],
) -> Figures:
    """Compare what was acknowledged and what ran with what the tables say."""
    connection = await asyncpg.connect(url)
    try:
        rows = {
            str(row["id"]): row
            for row in await connection.fetch(
                "SELECT id, state, run, losses, error_type, error_message, history::text"
                "  FROM queued_tasks"
            )
        }
        audit = await connection.fetch(
            "SELECT extract(epoch FROM at)::float8 AS at, id::text, run, was, became, reason"
            "  FROM chaos_audit ORDER BY at"
        )
        fenced = await connection.fetchval(
            "SELECT coalesce(sum((counters->>'fenced')::integer), 0) FROM queued_task_workers"
        )
    finally:
        await connection.close()
    book = read(ledger)
    figures = Figures(fenced=fenced, worker_kills=sum(k.what != "supervisor" for k in kills))
    for id, kind, parent, run in book.children:
        row = rows.get(parent)
        if row is not None and row["state"] == "done" and row["run"] == run:
            book.acknowledged[id] = kind
        else:
            book.unsure[id] = kind
    figures.acknowledged = len(book.acknowledged)
    figures.runs = sum(map(len, book.runs.values()))
    _judge_rows(figures, book, rows)
    _judge_runs(figures, book, rows, thaws)
    _judge_audit(figures, audit)
    _measure(figures, book, audit, kills, outages)
    return figures


def _blame(figures: Figures, what: str, story: str) -> None:
    setattr(figures, what, getattr(figures, what) + 1)
    stories = figures.examples.setdefault(what, [])
    if len(stories) < 5:
        stories.append(story)


def _judge_rows(figures: Figures, book: Book, rows: dict[str, Any]) -> None:
    for id, kind in book.acknowledged.items():
        row = rows.get(id)
        if row is None:
            _blame(figures, "lost", f"{id} ({kind}) was acknowledged and has no row")
            continue
        how = [run.how for run in book.runs.get(id, ())]
        story = f"{id} ({kind}): {dict(row)}, runs {book.runs.get(id, ())}"
        if row["state"] not in ENDED:
            _blame(figures, "stuck", story)
        elif row["state"] == "done" and "ok" not in how:
            _blame(figures, "lost", f"done, but never ran to its end: {story}")
        elif row["state"] == "failed" and row["error_type"] == "WorkerLost":
            figures.failed_by_losses += 1
        elif row["error_type"] != EXPECTED.get(kind):
            _blame(figures, "ended_wrongly", story)
    for id in book.undone & rows.keys():
        _blame(figures, "phantom", f"{id} was undone and has a row: {dict(rows[id])}")


def _judge_runs(
    figures: Figures, book: Book, rows: dict[str, Any], thaws: list[tuple[int, float]]
) -> None:
    known = book.acknowledged.keys() | book.unsure.keys()
    for id, runs in book.runs.items():
        if id not in known:
            _blame(figures, "phantom", f"{id} ran and was never asked for: {runs}")
        for run, later in pairwise(runs):
            beside = [at for at in run.notes if at > later.start]
            breaths = [at for pid, at in thaws if pid == run.pid]
            if any(not any(0 <= at - thaw < BREATH for thaw in breaths) for at in beside):
                _blame(figures, "overlapping_runs", f"{id}: {run} and {later}")
            elif beside:
                figures.last_breaths += 1
        row = rows.get(id)
        if row is not None and row["state"] in ENDED and runs[-1].number > row["run"]:
            _blame(figures, "ran_after_done", f"{id}: {runs}, row {dict(row)}")


def _judge_audit(figures: Figures, audit: list[Any]) -> None:
    ended: dict[str, Any] = {}
    for entry in audit:
        id = entry["id"]
        if entry["was"] in ENDED or (entry["became"] in ENDED and id in ended):
            _blame(figures, "outcomes_twice", f"{dict(entry)} after {dict(ended.get(id, {}))}")
        if entry["became"] in ENDED:
            ended[id] = entry


def _measure(
    figures: Figures,
    book: Book,
    audit: list[Any],
    kills: list[Kill],
    outages: list[tuple[float, float]],
) -> None:
    taken_back = {
        (entry["id"], entry["run"] - 1): entry["at"] for entry in audit if entry["was"] == "doing"
    }
    hurt: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for id, runs in book.runs.items():
        for run in runs:
            if not run.how:
                hurt[run.pid].append((id, run.number))
    times = []
    for kill in kills:
        for claim in hurt.get(kill.pid, ()):
            if (back := taken_back.get(claim)) is not None:
                times.append(max(0.0, back - _after_outages(kill.at, back, outages)) * 1000)
    times.sort()
    if times:
        figures.recovery_ms_p99 = round(times[math.ceil(0.99 * len(times)) - 1])
        figures.recovery_ms_max = round(times[-1])
    ends = [entry["at"] for entry in audit if entry["became"] == "done"]
    resumed = [next((at for at in ends if at > over), over) - over for _, over in joined(outages)]
    figures.resume_ms_max = round(1000 * max(resumed, default=0))


def joined(outages: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that overlap as one."""
    whole: list[tuple[float, float]] = []
    for began, over in sorted(outages):
        if whole and began <= whole[-1][1]:
            whole[-1] = (whole[-1][0], max(over, whole[-1][1]))
        else:
            whole.append((began, over))
    return whole


def _after_outages(at: float, until: float, outages: list[tuple[float, float]]) -> float:
    """From when on a rescue could be expected: nobody can rescue while the database is away."""
    for began, over in joined(outages):
        if began <= until and over > at and began <= at + 10:
            at = max(at, over)
    return min(at, until)
