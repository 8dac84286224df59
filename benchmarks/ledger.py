"""The ledger: what producers were told and what task bodies did, noted outside the queue.

One file, opened for appending by every process; one line is one `write`, so lines of several
processes do not mix, and a process that is killed loses nothing it has noted. Times are readings of
the monotonic clock, which all processes of a machine share.

    A id kind                   acknowledged to the producer
    R id                        its route raised, or its transaction was rolled back
    U id kind                   the producer got an error: it may exist or not
    C id kind parent run        added by a running task: exists if that run's outcome is `done`
    S id run pid time           a run starts
    T id run pid time           it is still at work
    E id run pid time how       it ends: ok, error or stopped
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path


class Ledger:
    """The writing side."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._pid = os.getpid()

    def note(self, *words: object) -> None:
        """Append one line."""
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())

    def run(self, what: str, id: object, run: int, *more: object) -> None:
        """Append one line about a run, with this process and the time."""
        self.note(what, id, run, self._pid, f"{time.monotonic():.6f}", *more)


@dataclass(slots=True)
class Run:
    """One run of a task as its body noted it. `notes` are the times of its notes at work.

    Being stopped is no work: a process that was frozen and goes on after its lease has to leave its
    tasks somehow, while they may run elsewhere.
    """

    number: int
    pid: int
    start: float
    notes: list[float] = field(default_factory=list)
    how: str = ""


@dataclass(slots=True)
class Book:
    """The ledger as it is read at the end."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    undone: set[str] = field(default_factory=set)
    unsure: dict[str, str] = field(default_factory=dict)
    children: list[tuple[str, str, str, int]] = field(default_factory=list)
    runs: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))


def read(path: Path) -> Book:
    """Read the ledger of a run that has ended."""
    book = Book()
    open_runs: dict[tuple[str, str, str], Run] = {}
    with path.open() as lines:
        for line in lines:
            what, id, *rest = line.split()
            if what == "A":
                book.acknowledged[id] = rest[0]
            elif what == "R":
                book.undone.add(id)
            elif what == "U":
                book.unsure[id] = rest[0]
            elif what == "C":
                book.children.append((id, rest[0], rest[1], int(rest[2])))
            elif what == "S":
                at = float(rest[2])
                run = Run(int(rest[0]), int(rest[1]), at, [at])
                # By process, too: should two of them ever run under one number, that is seen.
                open_runs[id, rest[0], rest[1]] = run
                book.runs[id].append(run)
            else:
                run = open_runs[id, rest[0], rest[1]]
                if what == "E":
                    run.how = rest[3]
                if run.how != "stopped":
                    run.notes.append(float(rest[2]))
    for runs in book.runs.values():
        runs.sort(key=lambda run: run.start)
    return book
