"""The application under `benchmarks.chaos`: its tasks note what they do, its routes add them.

    python -m benchmarks.chaos_app --seconds 60 --seed 1 --rate 200       the producer

The producer calls the routes without a network between (ASGI), and notes for each task whether its
route answered 200, was undone on purpose, or failed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from benchmarks.ledger import Ledger
from fastedgy.app import FastEdgy
from fastedgy.dependencies import Inject
from fastedgy.queued_task import get_current_task, task
from fastedgy.queued_tasks import QueuedTaskRef, QueuedTasks

LEDGER = "FASTEDGY_CHAOS_LEDGER"
CLIENTS = 8
"""Requests at a time."""
TICK = 0.05

app = FastEdgy()
ledger = Ledger(os.environ.get(LEDGER, os.devnull))


class Undone(Exception):
    """Raised on purpose: what came with it must never run."""


@contextmanager
def noted() -> Iterator[tuple[str, int]]:
    """Note the start and the end of this run."""
    me = get_current_task()
    assert me is not None
    ledger.run("S", me.id, me.run)
    how = "stopped"
    try:
        yield str(me.id), me.run
        how = "ok"
    except Exception:
        how = "error"
        raise
    finally:
        ledger.run("E", me.id, me.run, how)


@task
async def short() -> None:
    with noted():
        pass


@task
async def long(seconds: float) -> str:
    with noted() as (id, run):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(TICK)
            ledger.run("T", id, run)
    return "long"


@task
def threaded(seconds: float) -> str:
    with noted() as (id, run):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(TICK)
            ledger.run("T", id, run)
    return "threaded"


@task(max_retries=2)
async def failing(times: int) -> None:
    """Fails so many times; three is once too often."""
    with noted():
        me = get_current_task()
        assert me is not None
        if me.attempt <= times:
            raise ValueError(f"attempt {me.attempt} fails")


@task
async def child() -> None:
    with noted():
        pass


@task(max_retries=3)
async def spawning(undone: bool, tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
    """Adds a task. If `undone`, the first attempt then fails, and what it added must not exist."""
    with noted() as (id, run):
        me = get_current_task()
        assert me is not None
        added = tasks.add_task(short)
        if undone and me.attempt == 1:
            ledger.note("R", added.id)
            raise Undone
        ledger.note("C", added.id, "short", id, run)


def add_some(tasks: QueuedTasks, rng: random.Random) -> list[tuple[QueuedTaskRef, str]]:
    """Tasks of every kind, most of them short."""
    added = [(tasks.add_task(short), "short") for _ in range(rng.randint(4, 40))]
    match rng.random():
        case dice if dice < 0.15:
            added.append((tasks.add_task(long, rng.uniform(0.5, 4)), "long"))
        case dice if dice < 0.25:
            added.append((tasks.add_task(threaded, rng.uniform(0.1, 1.5)), "threaded"))
        case dice if dice < 0.4:
            times = rng.randint(1, 3)
            added.append((tasks.add_task(failing, times), "failing" if times < 3 else "hopeless"))
        case dice if dice < 0.6:
            parents = [tasks.add_task(short), tasks.add_task(long, rng.uniform(0.1, 1))]
            below = tasks.add_task(child, parent=parents)
            added += [(parents[0], "short"), (parents[1], "long"), (below, "child")]
            added.append((tasks.add_task(child, parent=below), "child"))
        case dice if dice < 0.65:
            parent = tasks.add_task(failing, 3)
            added += [(parent, "hopeless"), (tasks.add_task(child, parent=parent), "orphan")]
        case dice if dice < 0.8:
            delay = rng.uniform(0.1, 5)
            added.append((tasks.task(delay=delay).add_task(short), "scheduled"))
        case dice if dice < 0.9:
            undone = rng.random() < 0.5
            added.append((tasks.add_task(spawning, undone), "spawning"))
        case _:
            added.append((tasks.task(priority=rng.randint(-2, 5)).add_task(short), "short"))
    return added


def told(request: dict[str, Any]) -> random.Random:
    return random.Random(request["seed"])


Ids = list[tuple[str, str]]
added_by: dict[int, Ids] = {}
"""What each request has added, by its number: the client that sent it looks here."""


def remember(number: int, added: list[tuple[QueuedTaskRef, str]]) -> None:
    added_by[number] = [(str(ref.id), kind) for ref, kind in added]


@app.post("/plain")
async def plain(request: dict[str, Any], tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
    remember(request["number"], add_some(tasks, told(request)))


@app.post("/raises")
async def raises(request: dict[str, Any], tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
    remember(request["number"], add_some(tasks, told(request)))
    raise Undone


@app.post("/transaction")
async def in_transaction(request: dict[str, Any], tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
    async with tasks.transaction():
        remember(request["number"], add_some(tasks, told(request)))


@app.post("/rollback")
async def rolls_back(request: dict[str, Any], tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
    """The rows are written, and then their transaction is rolled back."""
    async with tasks.transaction():
        remember(request["number"], add_some(tasks, told(request)))
        await tasks.flush()
        raise Undone


ROUTES = ("/plain",) * 6 + ("/raises",) + ("/transaction",) * 2 + ("/rollback",)


class Producer:
    """Calls the routes at a steady rate until its time is over."""

    def __init__(self, seconds: float, seed: int, rate: float) -> None:
        self._until = time.monotonic() + seconds
        self._rng = random.Random(seed)
        self._rate = rate
        self._added = 0
        self._began = time.monotonic()
        self._number = 0

    async def run(self) -> None:
        """Start the application, produce, and stop it."""
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://chaos") as client,
        ):
            await asyncio.gather(*(self._client(client) for _ in range(CLIENTS)))

    async def _client(self, client: httpx.AsyncClient) -> None:
        while (now := time.monotonic()) < self._until:
            if self._added > self._rate * (now - self._began):
                await asyncio.sleep(0.01)
                continue
            self._number += 1
            number, route = self._number, self._rng.choice(ROUTES)
            request = {"number": number, "seed": self._rng.getrandbits(32)}
            status = (await client.post(route, json=request, timeout=60)).status_code
            self._note(route, status, added_by.pop(number, []))

    def _note(self, route: str, status: int, ids: Ids) -> None:
        self._added += len(ids)
        undone = route in ("/raises", "/rollback")
        for id, kind in ids:
            if undone:
                ledger.note("R", id)
            else:
                ledger.note("A" if status == 200 else "U", id, kind)


def main() -> None:
    """Produce for a while."""
    parser = argparse.ArgumentParser(description="The producer of benchmarks.chaos.")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate", type=float, default=200)
    given = parser.parse_args()
    asyncio.run(Producer(given.seconds, given.seed, given.rate).run())


if __name__ == "__main__":
    # Under its import name, so that the tasks have the names by which workers find them.
    from benchmarks import chaos_app

    chaos_app.main()
