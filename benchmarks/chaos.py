"""Break everything on purpose, and count what was lost: nothing.

    python -m benchmarks.chaos --seconds 60 --seed 1 [--json]

Producers add tasks through routes and transactions while a seeded schedule kills and freezes
workers and supervisors, cuts and freezes connections, and restarts Postgres. A ledger outside the
queue notes what was acknowledged and what ran. Linux only; ends by itself within two minutes after
its seconds. Exit code 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import asyncpg

from benchmarks.chaos_app import LEDGER
from benchmarks.chaos_faults import PER_MINUTE, Scene, play
from benchmarks.chaos_figures import AUDIT, Figures, judge
from benchmarks.chaos_fleet import Fleet
from benchmarks.proxy import Proxy
from fastedgy import migrate
from fastedgy.database_url import parse_url
from fastedgy.embedded import server

LEASE = 6
SETTINGS = {
    "QUEUE_HEARTBEAT": "1",
    "QUEUE_LEASE": str(LEASE),
    "QUEUE_STATEMENT_TIMEOUT": "2",
    "QUEUE_RETRY_BACKOFF": "0.5",
    "QUEUE_RETRY_BACKOFF_MAX": "2",
    "QUEUE_TASK_TIMEOUT": "60",
    "QUEUE_DRAIN_TIMEOUT": "5",
    "DATABASE_CONNECT_TIMEOUT": "5",
    "FASTEDGY_LOG_LEVEL": "info",
}
HOSTS = 3
START_WITHIN = 60.0
SETTLE_WITHIN = 75.0
"""Seconds in which everything that was acknowledged must have come to its end."""
OPEN = """
SELECT count(*) FROM queued_tasks WHERE state NOT IN ('done', 'failed', 'cancelled')
"""


def make_folder(prefix: str) -> Path:
    """A temporary folder that others may enter: else root's server, which runs as `nobody`, would
    live elsewhere, and stay there."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o755)
    return folder


def environment(port: int, ledger: Path) -> dict[str, str]:
    """What a process of the run is told. Nothing of the caller's own queue."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("QUEUE", "FASTEDGY", "DATABASE", "PG"))
    }
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    return {**kept, **SETTINGS, "DATABASE_URL": url, LEDGER: str(ledger)}


async def run(
    seconds: float, seed: int, rate: float, folder: Path, faults: dict[str, float] = PER_MINUTE
) -> Figures:
    """The whole run in a folder of its own. `faults`: how many of each kind a minute."""
    ledger = folder / "ledger"
    postgres = server(folder / "postgres")
    url = await asyncio.to_thread(postgres.start)
    proxies: list[Proxy] = []
    fleet = None
    producer = None
    try:
        await migrate.upgrade(url)
        await execute(url, AUDIT)
        proxies += [Proxy(socket_of(url)) for _ in range(HOSTS + 1)]
        ports = [proxy.start() for proxy in proxies]
        *hosts, producers = [environment(port, ledger) for port in ports]
        fleet = Fleet(hosts, folder)
        fleet.start()
        await ready(url, 2 * HOSTS)
        producer = produce(seconds, seed, rate, producers, folder)
        scene = Scene(fleet, proxies, postgres, url, LEASE, random.Random(seed))
        await play(scene, seconds, faults)
        await asyncio.to_thread(producer.wait, 90)
        settled = await settle(url, fleet)
        complaints = await asyncio.to_thread(fleet.stop, 30)
        if producer.returncode != 0:
            complaints.append(f"the producer ended with {producer.returncode}")
        (folder / "faults.log").write_text("\n".join(sorted(scene.log)))
        figures = await judge(url, ledger, fleet.kills, fleet.thaws, scene.outages)
        figures.restarts = scene.restarts
        figures.complaints = complaints
        print(f"settled in {settled:.1f} s", file=sys.stderr)
        return figures
    finally:
        if producer is not None and producer.poll() is None:
            producer.kill()
            producer.wait()
        if fleet is not None:
            fleet.kill_all()
        for proxy in proxies:
            proxy.stop()
        await asyncio.to_thread(postgres.stop)


def socket_of(url: str) -> str:
    """The Unix socket of an embedded server."""
    address = parse_url(url)
    return f"{address.hosts[0][0]}/.s.PGSQL.{address.hosts[0][1]}"


def produce(
    seconds: float, seed: int, rate: float, environment: dict[str, str], folder: Path
) -> subprocess.Popen[bytes]:
    """Start the producer."""
    command = [sys.executable, "-m", "benchmarks.chaos_app"]
    command += ["--seconds", str(seconds), "--seed", str(seed), "--rate", str(rate)]
    with (folder / "producer.log").open("ab") as log:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


async def execute(url: str, script: str) -> None:
    """Run a script on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(script)
    finally:
        await connection.close()


async def ready(url: str, workers: int) -> None:
    """Wait until so many workers have registered."""
    deadline = time.monotonic() + START_WITHIN
    connection = await asyncpg.connect(url)
    try:
        while True:
            number = await connection.fetchval(
                "SELECT count(*) FROM queued_task_workers WHERE state = 'running'"
            )
            if number >= workers:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"only {number} of {workers} workers started")
            await asyncio.sleep(0.1)
    finally:
        await connection.close()


async def settle(url: str, fleet: Fleet) -> float:
    """Wait until every task has ended, for a while; returns the seconds that took."""
    began = time.monotonic()
    connection = await asyncpg.connect(url)
    try:
        while time.monotonic() < began + SETTLE_WITHIN:
            fleet.look()
            if await connection.fetchval(OPEN) == 0:
                break
            await asyncio.sleep(0.25)
    finally:
        await connection.close()
    return time.monotonic() - began


def show(figures: Figures) -> None:
    """The figures for people."""
    for name, value in figures.told().items():
        if name == "examples":
            for what, stories in value.items():
                for story in stories:
                    print(f"  {what}: {story}")
        elif name == "complaints":
            for complaint in value:
                print(f"  complaint: {complaint}")
        else:
            print(f"{name:>20} {value:>10,}")


def main() -> int:
    """Run and report; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="benchmarks.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="How long to break things.")
    parser.add_argument("--seed", type=int, default=1, help="Which schedule of faults.")
    parser.add_argument("--rate", type=float, default=250, help="Tasks added a second.")
    parser.add_argument(
        "--only", action="append", choices=PER_MINUTE, help="Only this kind of fault, often."
    )
    parser.add_argument("--json", action="store_true", help="One JSON object on stdout.")
    parser.add_argument("--keep", action="store_true", help="Keep the logs and the ledger.")
    given = parser.parse_args()
    faults = dict.fromkeys(given.only, 6.0) if given.only else PER_MINUTE
    folder = make_folder("fastedgy-chaos-")
    try:
        figures = asyncio.run(run(given.seconds, given.seed, given.rate, folder, faults))
    finally:
        if given.keep:
            print(f"kept {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if given.json:
        print(json.dumps(figures.told()))
    else:
        show(figures)
    return 0 if figures.is_clean() else 1


if __name__ == "__main__":
    sys.exit(main())
