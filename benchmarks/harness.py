"""The laboratory: a server, a fresh database for each measurement, worker processes, waiting."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from asyncpg import Connection, PostgresError

from benchmarks.app import GATE, GATED
from fastedgy import migrate
from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.connections import Connections
from fastedgy.database import connect
from fastedgy.database_url import parse_url
from fastedgy.embedded import server
from fastedgy.embedded.probe import is_running
from fastedgy.models.tables import Tables
from fastedgy.queued_tasks import QueuedTasks

ROOT = Path(__file__).resolve().parent.parent
T = Tables()
ALL_TABLES = f"{T.tasks}, {T.links}, {T.logs}, {T.workers}"
FOLDER = "fastedgy-benchmarks-"
OURS = ("QUEUE_", "QUEUED_TASK_", "DATABASE_", "FASTEDGY_", "LOG_LEVEL", "LOG_FORMAT")

# The conditions under which the peers were measured (PEERS.md), beside the embedded defaults.
SERVER_SETTINGS = {"shared_buffers": "512MB"}

START_LIMIT = 60.0  # seconds for worker processes to come up
STOP_LIMIT = 45.0  # seconds for them to drain


class BenchmarkError(Exception):
    """A measurement that would say nothing: not durable, not finished, or not correct."""


def forget_settings() -> list[str]:
    """Take the queue's settings out of the environment: the defaults are measured. Their names."""
    names = sorted(name for name in os.environ if name.startswith(OURS))
    for name in names:
        del os.environ[name]
    return names


@contextmanager
def embedded_server(
    folder: Path | None = None, settings: dict[str, str] | None = None
) -> Iterator[str]:
    """A server of our own, stopped and removed at the end. `folder`: where its data is put."""
    _remove_leftovers(folder)
    place = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-", dir=folder))
    embedded = server(place)
    try:
        url = embedded.start()
        wanted = SERVER_SETTINGS if settings is None else settings
        if wanted:
            asyncio.run(_configure(url, wanted))
            embedded.stop()
            embedded.start()
        yield url
    finally:
        embedded.stop()
        shutil.rmtree(place, ignore_errors=True)


async def _configure(url: str, settings: dict[str, str]) -> None:
    connection = await connect(url)
    for name, value in settings.items():
        await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    await connection.close()


def _remove_leftovers(folder: Path | None) -> None:
    """Stop the servers of runs that were killed."""
    for place in Path(folder or tempfile.gettempdir()).glob(f"{FOLDER}*"):
        run = place.name.removeprefix(FOLDER).split("-")[0]
        if not run.isdigit() or not place.is_dir():
            continue
        if place.stat().st_uid == os.geteuid() and not is_running(int(run)):
            server(place).stop()
            shutil.rmtree(place, ignore_errors=True)


@dataclass(slots=True)
class Lab:
    """What a scenario measures with. `url` is any database of a server on which we may make some.

    `scale` multiplies all counts and durations: below 1 for a quick look, whose figures say little.
    """

    url: str
    scale: float = 1.0
    repeat: int = 3
    say: Callable[[str], None] = lambda line: None
    template: str = ""

    def count(self, full: int, least: int = 100) -> int:
        """A number of tasks at this scale."""
        return max(least, round(full * self.scale))

    def seconds(self, full: float, least: float) -> float:
        """A duration at this scale."""
        return max(least, full * self.scale)

    @asynccontextmanager
    async def opened(self, *, allow_volatile: bool = False) -> AsyncIterator[dict[str, Any]]:
        """Check the server, and make the template of all databases. Yields what the server is.

        Raises BenchmarkError when commits are not durable there.
        """
        facts = await self._look()
        if not facts["durable"] and not allow_volatile:
            raise BenchmarkError(
                "Commits on this server are not durable (fsync, synchronous_commit or "
                "full_page_writes is off), so figures from it say nothing. Switch them on, or look "
                "at it anyway with --allow-volatile."
            )
        name = f"fastedgy_benchmarks_{uuid4().hex[:12]}"
        await self._admin(f'CREATE DATABASE "{name}" TEMPLATE template0')
        try:
            await migrate.upgrade(self._named(name))
            self.template = name
            yield facts
        finally:
            await self._admin(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    async def _look(self) -> dict[str, Any]:
        connection = await connect(self.url)
        names = ("fsync", "synchronous_commit", "full_page_writes", "server_version")
        found = {name: await connection.fetchval(f"SHOW {name}") for name in names}
        await connection.close()
        durable = (
            found["fsync"] == "on"
            and found["full_page_writes"] == "on"
            and found["synchronous_commit"] != "off"
        )
        return {
            "durable": durable,
            "postgres": found["server_version"].split()[0],
            "python": sys.version.split()[0],
            "cpus": os.cpu_count(),
        }

    async def _admin(self, statement: str) -> None:
        connection = await connect(self.url, timeout=30)
        await connection.execute(statement)
        await connection.close()

    def _named(self, name: str) -> str:
        return parse_url(self.url).named(name).url

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """A fresh database with the queue's tables, gone at the end."""
        name = f"fastedgy_benchmarks_{uuid4().hex[:12]}"
        await self._admin(f'CREATE DATABASE "{name}" TEMPLATE "{self.template}"')
        try:
            yield self._named(name)
        finally:
            await self._admin(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def settle(url: str) -> None:
    """VACUUM ANALYZE and CHECKPOINT, so that every measurement begins alike."""
    connection = await connect(url)
    await connection.execute(f"VACUUM (ANALYZE) {ALL_TABLES}")
    with suppress(PostgresError):  # on a managed server it is not ours to ask for
        await connection.execute("CHECKPOINT")
    await connection.close()


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[QueuedTasks]:
    """The service, as `async with QueuedTasks()` gives it to a script."""
    config = QueuedTaskConfig()
    tasks = QueuedTasks(Connections(url, Settings(database_url=url), config), config)
    try:
        async with tasks:
            yield tasks
    finally:
        await tasks.close()


async def fill(url: str, function: Callable[..., Any], count: int, chunk: int = 5_000) -> Any:
    """Enqueue calls of `function` with the numbers from 0 on; the id of the last one."""
    last: Any = None
    async with producer(url) as tasks:
        for start in range(0, count, chunk):
            calls = [(number,) for number in range(start, min(count, start + chunk))]
            last = tasks.add_tasks(function, calls)[-1]
            await tasks.flush()
    return last.id


class Pool:
    """A running `queue start`."""

    def __init__(self, process: asyncio.subprocess.Process, watch: Connection, log: Path) -> None:
        self._process = process
        self.watch = watch
        self._log = log

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self._process.pid

    def check(self) -> None:
        """Raise BenchmarkError when it has ended."""
        if self._process.returncode is not None:
            tail = self._log.read_text(errors="replace")[-2_000:]
            raise BenchmarkError(f"The workers ended: {self._process.returncode}\n{tail}")

    async def until(
        self, check: Callable[[], Awaitable[Any]], within: float, every: float = 0.01
    ) -> Any:
        """Repeat `check` until it says yes. Raises BenchmarkError after `within` seconds."""
        deadline = time.monotonic() + within
        while not (answer := await check()):
            self.check()
            if time.monotonic() > deadline:
                tail = self._log.read_text(errors="replace")[-2_000:]
                raise BenchmarkError(f"Nothing came of it within {within:g} s.\n{tail}")
            await asyncio.sleep(every)
        return answer

    async def pids(self) -> list[int]:
        """The worker processes that are registered."""
        rows = await self.watch.fetch(f"SELECT pid FROM {T.workers} WHERE state = 'running'")
        return [row["pid"] for row in rows]

    async def ready(self, count: int) -> None:
        """Return when so many workers take tasks."""

        async def there() -> bool:
            return len(await self.pids()) >= count

        await self.until(there, START_LIMIT, every=0.05)

    async def release(self, count: int) -> None:
        """Wait until so many workers stand at the gate, and let them go at the same moment."""

        async def gathered() -> bool:
            waiting = await self.watch.fetchval(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                "   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                "   AND objid = $1",
                GATE,
            )
            return bool(waiting >= count)

        await self.until(gathered, START_LIMIT, every=0.02)
        await self.watch.execute("SELECT pg_advisory_unlock($1)", GATE)

    async def stop(self) -> None:
        """Drain, as SIGTERM does; without mercy when that takes too long."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), STOP_LIMIT)
            except TimeoutError:
                # The workers hold its lifeline: they end when it does.
                self._process.kill()
                await self._process.wait()


@asynccontextmanager
async def pool(url: str, workers: int, *, gated: bool = False) -> AsyncIterator[Pool]:
    """Worker processes as `fastedgy queue start` starts them, with default settings."""
    watch = await connect(url, application_name="benchmarks watch", timeout=30)
    if gated:
        await watch.execute("SELECT pg_advisory_lock($1)", GATE)
    handle, name = tempfile.mkstemp(prefix="benchmarks-", suffix=".log")
    os.close(handle)
    log = Path(name)
    env = {**os.environ, "DATABASE_URL": url, **({GATED: "1"} if gated else {})}
    command = [sys.executable, "-m", "fastedgy", "queue", "start", "--app", "benchmarks.app:app",
               "--workers", str(workers)]  # fmt: skip
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=output,
            stderr=output,
        )  # fmt: skip
    started = Pool(process, watch, log)
    try:
        yield started
    finally:
        watch_close = asyncio.ensure_future(watch.close())  # lets go of the gate, too
        await asyncio.wait([watch_close], timeout=5)
        await started.stop()
        log.unlink(missing_ok=True)


def cpu_seconds(pid: int) -> float:
    """CPU time that the threads of a process have used so far (Linux)."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def rss_megabytes(pid: int) -> float:
    """Memory that a process has in RAM (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6
