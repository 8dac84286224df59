"""Limits: what they cost, and whether they hold while workers are killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import floor
from benchmarks.drain import NOTHING, drain
from benchmarks.harness import BenchmarkError, Lab, Pool, T, fill, pool, producer, settle
from benchmarks.limited import LEDGER, book, nothing, short, start
from benchmarks.report import Bar, Figures, Scenario, percentile, percentiles
from benchmarks.tasks import noop
from fastedgy.database import connect

DRAIN = 60_000
LOOSE = 1_000_000
"""A limit that no load reaches."""
KEYS = 50
LIMIT = 5
WORKERS = 4
HELD = 0.3
"""Seconds that a task with an entry in the ledger takes."""
LASTS = 30.0
KILL_EVERY = 5.0
RESCUED = 3.0
"""Seconds after the death of a worker in which its places may still be taken."""
RATE = 50
GREEDY = 100_000
MODEST = 60


# What a limit that does not bind costs.


async def _drained(lab: Lab, count: int, **options: Any) -> float:
    async with lab.database() as url:
        async with producer(url) as tasks:
            maker = tasks.task(**options)
            for first in range(0, count, 5_000):
                numbers = range(first, min(count, first + 5_000))
                ref = maker.add_tasks(nothing, [(number, number % KEYS) for number in numbers])[-1]
                await tasks.flush()
        await settle(url)
        assert ref.id is not None
        return (await drain(url, count, ref.id, workers=1, first=NOTHING)).rate


async def limited(lab: Lab) -> Figures:
    """The same drain without a limit, with one gate for all, and with many gates."""
    count = lab.count(DRAIN)
    plain = await _drained(lab, count)
    one = await _drained(lab, count, limit=LOOSE)
    many = await _drained(lab, count, limit=LOOSE, per="key:{key}")
    again = await _drained(lab, count)
    async with lab.database() as url:
        await fill(url, noop, count)
        await settle(url)
        raw = await floor.drain(url, count, connections=1)
    plain = (plain + again) / 2
    return {
        "value": one,
        "floor": raw,
        "plain": plain,
        "of_plain": one / plain,
        "of_plain_many_keys": many / plain,
    }


# The ledger.


@dataclass(slots=True)
class Ledger:
    """What the tasks said: per key, when each began and ended. Nanoseconds."""

    path: Path
    deaths: dict[int, int] = field(default_factory=dict)

    def read(self) -> dict[int, list[tuple[int, int]]]:
        """Per key the moments at which one more (1) or one less (-1) ran, in order."""
        running: dict[tuple[int, int], int] = defaultdict(int)
        moments: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for line in self.path.read_text().splitlines():
            sign, at, key, pid = line.split()
            step = 1 if sign == "+" else -1
            running[int(key), int(pid)] += step
            moments[int(key)].append((int(at), step))
        for (key, pid), left in running.items():  # what ended with its process
            if not left:
                continue
            if pid not in self.deaths:
                raise BenchmarkError(f"{left} tasks of process {pid} have no end, and it lives.")
            moments[key] += [(self.deaths[pid], -1)] * left
        return {key: sorted(steps) for key, steps in moments.items()}


@contextmanager
def ledger() -> Any:
    """A ledger whose path the workers inherit."""
    handle, name = tempfile.mkstemp(prefix="benchmarks-ledger-")
    os.close(handle)
    os.environ[LEDGER] = name
    try:
        yield Ledger(Path(name))
    finally:
        del os.environ[LEDGER]
        Path(name).unlink()


async def _kill_one(running: Pool, book: Ledger) -> bool:
    """Kill a worker, and note when it was gone for certain. Not if there are too few others."""
    pids = await running.pids()
    if len(pids) < WORKERS - 1:
        return False
    pid = random.choice(pids)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)

    async def gone() -> bool:
        try:
            return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True

    await running.until(gone, 10, every=0.0005)
    book.deaths[pid] = time.monotonic_ns()
    return True


def most_and_longest(
    steps: list[tuple[int, int]], limit: int, enough: int, deaths: Collection[int]
) -> tuple[int, float, float]:
    """How many ran at once at most, and for how many seconds fewer than `limit` did at a stretch,
    from the first on until `enough` had begun: as long as others waited. At any time, and at those
    times when no worker had died for `RESCUED` seconds.
    """
    running = begun = most = 0
    longest = longest_in_peace = 0
    below_since: int | None = None
    for at, step in steps:
        if begun >= enough:
            below_since = None
        if below_since is not None:
            longest = max(longest, at - below_since)
            if not any(below_since - RESCUED * 1e9 < death < at for death in deaths):
                longest_in_peace = max(longest_in_peace, at - below_since)
        running += step
        begun += step == 1
        most = max(most, running)
        if running >= limit:
            below_since = None
        elif below_since is None and begun < enough:
            below_since = at
    return most, longest / 1e9, longest_in_peace / 1e9


async def holds(lab: Lab) -> Figures:
    """Keys with a limit and more work than places, while workers are killed."""
    seconds = lab.seconds(LASTS, 4)
    each = round(LIMIT * seconds / HELD)
    async with lab.database() as url:
        with ledger() as kept:
            async with producer(url) as tasks:
                maker = tasks.task(limit=LIMIT, per="{key}")
                for first in range(0, each, 50):
                    number = min(50, each - first)
                    calls = [(key, HELD) for _ in range(number) for key in range(KEYS)]
                    maker.add_tasks(book, calls)
                    await tasks.flush()
            await settle(url)
            async with pool(url, WORKERS) as running:
                await running.ready(WORKERS)
                began = time.monotonic()
                kills = 0
                while time.monotonic() - began < 0.8 * seconds:
                    await asyncio.sleep(min(KILL_EVERY, seconds / 4))
                    kills += await _kill_one(running, kept)

                async def all_done() -> Any:
                    return await running.watch.fetchval(
                        f"SELECT NOT EXISTS (SELECT FROM {T.tasks}"
                        " WHERE state IN ('enqueued', 'doing', 'scheduled'))"
                    )

                await running.until(all_done, 8 * seconds + 60, every=0.1)
                took = time.monotonic() - began
            deaths = kept.deaths.values()
            found = [most_and_longest(steps, LIMIT, each, deaths) for steps in kept.read().values()]
    return {
        "value": float(max(most for most, _, _ in found)),
        "longest_below": max(longest for _, longest, _ in found),
        "longest_below_in_peace": max(longest for _, _, longest in found),
        "kills": float(kills),
        "of_ideal": each * HELD / LIMIT / took,
        "keys": float(len(found)),
    }


async def rate(lab: Lab) -> Figures:
    """Starts of tasks under a rate, beside what the rate is."""
    seconds = lab.seconds(LASTS, 4)
    async with lab.database() as url:
        with ledger() as kept:
            async with producer(url) as tasks:
                maker = tasks.task(rate=f"{RATE}/s")
                maker.add_tasks(start, [(n,) for n in range(round(1.3 * RATE * seconds))])
            await settle(url)
            async with pool(url, WORKERS) as running:
                await running.ready(WORKERS)

                async def over() -> bool:
                    lines = kept.path.read_text().splitlines()
                    if not lines:
                        return False
                    first, last = int(lines[0].split()[1]), int(lines[-1].split()[1])
                    return last - first > (seconds + 1) * 1e9

                await running.until(over, seconds + 60, every=0.2)
            starts = sorted(int(line.split()[1]) for line in kept.path.read_text().splitlines())
    began = starts[0]
    within = sum(at - began < seconds * 1e9 for at in starts)
    busiest = max(
        sum(first <= at < first + 1e9 for at in starts) for first in starts[:: max(1, RATE // 5)]
    )
    return {
        "value": within / seconds,
        "off_percent": abs(within / (RATE * seconds) - 1) * 100,
        "busiest_second": float(busiest),
    }


@asynccontextmanager
async def _four_workers(url: str) -> AsyncIterator[Pool]:
    async with pool(url, WORKERS) as running:
        await running.ready(WORKERS)
        yield running


async def _delays(url: str, count: int, options: dict[str, Any], seconds: float) -> list[float]:
    """Milliseconds from the call that adds the first task of a key to its body."""
    called = {}
    async with producer(url) as tasks:
        maker = tasks.task(**options)
        for number in range(count):
            await asyncio.sleep(0.05)
            began = time.monotonic_ns()
            ref = await maker.add_task(short, f"modest {number}", seconds)
            called[ref.id] = began
        await ref.wait(timeout=30)
    connection = await connect(url)
    rows = await connection.fetch(
        f"SELECT id, result::text::bigint AS began FROM {T.tasks} WHERE id = ANY ($1)"
        " AND state = 'done'",
        list(called),
    )
    await connection.close()
    if len(rows) != count:
        raise BenchmarkError(f"{len(rows)} of {count} tasks were done.")
    return [(row["began"] - called[row["id"]]) / 1e6 for row in rows]


async def _greedy(lab: Lab, function: Callable[..., Any], call: tuple[Any, ...],
                  options: dict[str, Any], seconds: float) -> list[float]:  # fmt: skip
    greedy = lab.count(GREEDY)
    async with lab.database() as url:
        async with producer(url) as tasks:
            maker = tasks.task(**options)
            for _ in range(0, greedy, 5_000):
                maker.add_tasks(function, [call] * min(5_000, greedy))
                await tasks.flush()
        await settle(url)
        async with _four_workers(url):
            await asyncio.sleep(0.5)
            return await _delays(url, lab.count(MODEST, least=10), options, seconds)


async def turns(lab: Lab) -> Figures:
    """How long the first task of a key waits while another key has very many."""
    bound = {"limit": LIMIT, "per": "{key}"}
    loose = {"limit": LOOSE, "per": "{key}"}
    async with lab.database() as url:
        await settle(url)
        async with _four_workers(url):
            quiet = await _delays(url, lab.count(MODEST, least=10), bound, 0.0)
    delays = await _greedy(lab, short, ("greedy", 0.01), bound, 0.0)
    flooded = await _greedy(lab, short, ("greedy", 0.0), loose, 0.0)
    figures = {"value": percentile(delays, 0.5), **percentiles(delays)}
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        alone = percentile(quiet, share)
        figures[f"quiet_{name}"] = alone
        figures[f"delayed_{name}"] = percentile(delays, share) - alone
        figures[f"flooded_{name}"] = percentile(flooded, share) - alone
    return figures


SCENARIOS = (
    Scenario(
        "limited",
        "tasks/s",
        "no-op tasks under a limit that does not bind, 1 worker",
        limited,
        (
            Bar("of_plain", 0.8, "of the same without a limit"),
            Bar("of_plain_many_keys", 0.8, "likewise, with many keys"),
        ),
    ),
    Scenario(
        "limit_holds",
        "at once",
        "limit=5, 50 keys, 4 workers, one killed every 5 s",
        holds,
        (
            Bar("value", LIMIT, "at once at most, in a ledger", at_most=True),
            Bar("longest_below", 10, "s below the limit at a stretch, with work", at_most=True),
            Bar("longest_below_in_peace", 2, "s likewise, with no death before", at_most=True),
        ),
    ),
    Scenario(
        "rate_holds",
        "starts/s",
        "rate=50/s, 4 workers, 30 s",
        rate,
        (Bar("off_percent", 5, "% off the rate", at_most=True),),
    ),
    Scenario(
        "turns",
        "ms",
        "first task of a key beside one with 100,000, 4 workers",
        turns,
        (
            Bar("delayed_p95", 100, "ms that the greedy key delays it (p95)", at_most=True),
            Bar("flooded_p95", 100, "ms likewise without a limit that binds", at_most=True),
        ),
    ),
)
