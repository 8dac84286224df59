"""The scenarios, as they are measured for a peer: like ours, with its own table as the witness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from asyncpg import Connection, PostgresError

from benchmarks.enqueue import ONE
from benchmarks.harness import Lab
from benchmarks.latency import PAUSE, TASKS, TRIPS
from benchmarks.peers.conversation import Driver, PeerFailed, PeerQueue, driver
from benchmarks.report import Figures, percentile, percentiles
from fastedgy.database import connect

LOOK_EVERY = 0.005
"""Seconds between two looks at a table, as for our own drains."""
WARM_UP = 20
TRIP_SECONDS = 15.0
"""How long round trips are repeated where one takes a second."""


async def enqueue_one(lab: Lab, peer: PeerQueue) -> Figures:
    """One after the other, each committed."""
    count = lab.count(ONE)
    async with _prepared(lab, peer) as (url, producer):
        seconds = await producer.ask("singly", count=count)
        await _expect(url, peer.facts["waiting"], count + 1, "are there to be run")
    return {"value": count / seconds}


async def enqueue_many(lab: Lab, peer: PeerQueue) -> Figures:
    """In bulk, in the peer's own way."""
    count = lab.count(peer.facts["many"], least=peer.facts["chunk"])
    async with _prepared(lab, peer) as (url, producer):
        await producer.ask("singly", count=0)
        seconds = await producer.ask("fill", count=count)
        await _expect(url, peer.facts["waiting"], count + 1, "are there to be run")
    return {"value": count / seconds}


async def drain_1(lab: Lab, peer: PeerQueue) -> Figures:
    """One worker process."""
    return await _drain(lab, peer, 1)


async def drain_2(lab: Lab, peer: PeerQueue) -> Figures:
    """Two."""
    return await _drain(lab, peer, 2)


async def _drain(lab: Lab, peer: PeerQueue, count_workers: int) -> Figures:
    count = lab.count(peer.facts["drain"])
    async with _prepared(lab, peer) as (url, producer):
        await producer.ask("fill", count=count, within=_limit(count))
        await _settle(url)
        async with _workers(peer, url, count_workers) as workers, _looking(url) as watch:
            for worker in workers:
                worker.send("work")
            if peer.facts["ring"]:
                await watch.execute(peer.facts["ring"])
            for worker in workers:
                await worker.answer("work")
            await _until(workers, lambda: sum(w.ran for w in workers) >= count, _limit(count))
            ended = await _idle(watch, peer, count)
            books = await asyncio.gather(*[worker.ask("stop") for worker in workers])
        ran = sorted(number for book in books for number in book["numbers"])
        if ran != list(range(count)):
            raise PeerFailed(f"of {count} tasks, {len(set(ran))} ran, in {len(ran)} runs")
        if peer.facts["finished"]:
            await _expect(url, peer.facts["finished"], count, "are recorded as done")
    began = min(book["began"] for book in books if book["numbers"])
    return {"value": count / ((ended - began) / 1e9)}


async def _idle(watch: Connection, peer: PeerQueue, count: int) -> int:
    """When its table shows nothing unfinished any more, on the machine's monotonic clock."""
    look = peer.facts["idle"]
    parameters = [count] if "$1" in look else []
    until = time.monotonic() + _limit(count)
    while not await watch.fetchval(look, *parameters):
        if time.monotonic() > until:
            raise PeerFailed("all tasks ran, and its table still shows unfinished ones")
        await asyncio.sleep(LOOK_EVERY)
    return time.monotonic_ns()


async def latency(lab: Lab, peer: PeerQueue) -> Figures:
    """An idle worker, one task every 20 ms: enqueue call to body start."""
    count = lab.count(TASKS, least=50)
    async with _prepared(lab, peer) as (url, producer), _workers(peer, url, 1, stamps=True) as held:
        (worker,) = held
        await worker.ask("work")
        called = await producer.ask("paced", count=count, pause=PAUSE, warm_up=WARM_UP)
        await _until(held, lambda: worker.ran >= count + WARM_UP, 30)
        book = await worker.ask("stop")
    began = dict(zip(book["numbers"], book["times"], strict=True))
    if sorted(book["numbers"]) != list(range(-WARM_UP, count)):
        raise PeerFailed(
            f"of {count + WARM_UP} tasks, {len(began)} ran, in {len(book['times'])} runs"
        )
    taken = [(began[number] - called[number]) / 1e6 for number in range(count)]
    return {"value": percentile(taken, 0.5), **percentiles(taken)}


async def round_trip(lab: Lab, peer: PeerQueue) -> Figures:
    """Enqueue call to the outcome at the caller, waiting as the peer does by default."""
    count = lab.count(TRIPS, least=50)
    async with _prepared(lab, peer, results=True) as (url, producer):  # noqa: SIM117
        async with _workers(peer, url, 1, results=True) as (worker,):
            await worker.ask("work")
            taken = await producer.ask(
                "trips", count=count, pause=PAUSE, seconds=lab.seconds(TRIP_SECONDS, least=3)
            )
            await worker.ask("stop")
    return {"value": percentile(taken, 0.5), **percentiles(taken)}


SCENARIOS = {
    "enqueue_one": enqueue_one,
    "enqueue_many": enqueue_many,
    "drain_1": drain_1,
    "drain_2": drain_2,
    "latency": latency,
    "round_trip": round_trip,
}


def _limit(count: int) -> float:
    """Seconds that so many tasks may take: a tenth of the slowest peer's throughput."""
    return 60 + count / 50


@asynccontextmanager
async def _prepared(
    lab: Lab, peer: PeerQueue, *, results: bool = False
) -> AsyncIterator[tuple[str, Driver]]:
    """A fresh database with the peer's tables, and a producer for it."""
    async with replace(lab, template=peer.template).database() as url:
        await _settle(url)
        async with driver(peer) as producer:
            await producer.ask("open", url=url, results=results)
            yield url, producer


@asynccontextmanager
async def _workers(
    peer: PeerQueue, url: str, count: int, *, results: bool = False, stamps: bool = False
) -> AsyncIterator[list[Driver]]:
    """Worker processes that are connected, and held."""
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(driver(peer)) for _ in range(count)]
        for worker in workers:
            worker.send("prepare", url=url, results=results, stamps=stamps)
        for worker in workers:
            await worker.answer("prepare")
        yield workers


async def _until(workers: list[Driver], check: Callable[[], bool], within: float) -> None:
    until = time.monotonic() + within
    while not check():
        if time.monotonic() > until:
            ran = sum(worker.ran for worker in workers)
            raise PeerFailed(f"only {ran:,} tasks had run after {within:g} s")
        for worker in workers:
            worker.check()
        await asyncio.sleep(0.002)


@asynccontextmanager
async def _looking(url: str) -> AsyncIterator[Connection]:
    connection = await connect(url, application_name="benchmarks watch", timeout=30)
    try:
        yield connection
    finally:
        await connection.close()


async def _expect(url: str, count: str, wanted: int, words: str) -> None:
    async with _looking(url) as connection:
        found = await connection.fetchval(count)
    if found != wanted:
        raise PeerFailed(f"{found:,} tasks {words}, and not {wanted:,}")


async def _settle(url: str) -> None:
    """VACUUM ANALYZE of the peer's tables and CHECKPOINT, as for ours."""
    async with _looking(url) as connection:
        names: list[Any] = await connection.fetch(
            "SELECT format('%I.%I', schemaname, relname) AS name FROM pg_stat_user_tables"
        )
        await connection.execute(f"VACUUM (ANALYZE) {', '.join(row['name'] for row in names)}")
        with suppress(PostgresError):
            await connection.execute("CHECKPOINT")
