"""The faults of `benchmarks.chaos`, and the schedule that a seed makes of them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from dataclasses import dataclass, field

import asyncpg

from benchmarks.chaos_fleet import Fleet, born
from benchmarks.proxy import Proxy
from fastedgy.embedded import EmbeddedPostgres

PER_MINUTE = {
    "kill worker": 5,
    "kill supervisor": 1,
    "kill host": 0.5,
    "freeze worker": 1,
    "freeze host": 1,
    "terminate backends": 1.5,
    "cut": 2,
    "freeze connections": 1.5,
    "blackout": 0.5,
    "restart fast": 0.6,
    "restart immediate": 0.6,
}
LEAD = 4.0
"""Seconds at the start and at the end without a new fault."""


@dataclass(slots=True)
class Scene:
    """What faults act on, and what they note. `outages` are by the wall clock."""

    fleet: Fleet
    proxies: list[Proxy]
    server: EmbeddedPostgres
    url: str
    lease: float
    rng: random.Random
    outages: list[tuple[float, float]] = field(default_factory=list)
    restarts: int = 0
    log: list[str] = field(default_factory=list)


def schedule(
    seconds: float, rng: random.Random, rates: dict[str, float]
) -> list[tuple[float, str]]:
    """When to do what. Each kind at least once, however short the run."""
    faults = []
    for kind, rate in rates.items():
        for _ in range(max(1, round(rate * seconds / 60))):
            faults.append((rng.uniform(LEAD, max(LEAD + 1, seconds - LEAD)), kind))
    return sorted(faults)


async def play(scene: Scene, seconds: float, rates: dict[str, float]) -> None:
    """Do what the schedule says. Faults that last overlap with those that follow."""
    began = time.monotonic()
    lasting: list[asyncio.Task[None]] = []
    restarting = asyncio.Lock()
    for at, kind in schedule(seconds, scene.rng, rates):
        while (left := began + at - time.monotonic()) > 0:
            scene.fleet.look()
            await asyncio.sleep(min(left, 0.25))
        rng = random.Random(scene.rng.getrandbits(32))
        lasting.append(asyncio.create_task(_do(kind, scene, rng, restarting, at)))
    while time.monotonic() < began + seconds:
        scene.fleet.look()
        await asyncio.sleep(0.25)
    await asyncio.gather(*lasting)


async def _do(
    kind: str, scene: Scene, rng: random.Random, restarting: asyncio.Lock, at: float
) -> None:
    note = kind
    match kind:
        case "kill worker":
            note = scene.fleet.kill_worker(rng)
        case "kill supervisor":
            note = scene.fleet.kill_supervisor(rng)
        case "kill host":
            note = scene.fleet.kill_host(rng)
        case "freeze worker" | "freeze host":
            pids, note = scene.fleet.freeze(rng, host=kind == "freeze host")
            scene.log.append(f"{at:6.1f} {note}")
            await asyncio.sleep(rng.uniform(0.3, 2) * scene.lease)
            scene.fleet.thaw(pids)
            note = f"continue {pids}"
        case "terminate backends":
            note = await _terminate(scene, rng)
        case "cut":
            number = sum(proxy.cut(rng.uniform(0.2, 1), rng) for proxy in scene.proxies)
            note = f"cut {number} connections"
        case "freeze connections" | "blackout":
            note = await _freeze(kind == "blackout", scene, rng, at)
        case _:
            async with restarting:
                note = await asyncio.to_thread(_restart, scene, kind == "restart immediate")
    scene.log.append(f"{at:6.1f} {note}")


async def _freeze(dark: bool, scene: Scene, rng: random.Random, at: float) -> str:
    """Some connections of one host, or all of all hosts."""
    proxies = scene.proxies if dark else [rng.choice(scene.proxies)]
    began = time.time()
    number = sum(p.freeze(1 if dark else rng.uniform(0.3, 1), rng, dark=dark) for p in proxies)
    what = f"{'blackout' if dark else 'freeze'} of {number} connections"
    scene.log.append(f"{at:6.1f} {what}")
    await asyncio.sleep(rng.uniform(0.3, 1.5) * scene.lease)
    for proxy in proxies:
        proxy.thaw()
    if dark:
        scene.outages.append((began, time.time()))
    return f"{what} is over"


async def _terminate(scene: Scene, rng: random.Random) -> str:
    try:
        connection = await asyncpg.connect(scene.url, timeout=5)
    except (OSError, asyncpg.PostgresError, TimeoutError):
        return "terminate backends: the server is away"
    try:
        number = await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name LIKE 'fastedgy%' AND random() < $1",
            rng.choice((0.3, 1.0)),
        )
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return "terminate backends: cut short"
    finally:
        connection.terminate()
    return f"terminated {number} backends"


def _restart(scene: Scene, immediate: bool) -> str:
    """Stop Postgres as `pg_ctl -m fast` or `-m immediate` does, and start it again."""
    began = time.time()
    if immediate:
        pid = scene.server.status().pid
        if pid is None:
            return "restart: the server is away"
        birth = born(pid)
        os.kill(pid, signal.SIGQUIT)
        while born(pid) == birth:
            time.sleep(0.01)
    else:
        scene.server.stop()
    time.sleep(scene.rng.uniform(0, 3))
    scene.server.start()
    scene.outages.append((began, time.time()))
    scene.restarts += 1
    return f"restart {'immediate' if immediate else 'fast'}, {time.time() - began:.1f} s away"
