"""`fastedgy demo`: the whole thing at work, in one command."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from fastedgy.cli.context import CliContext, pass_cli_context, say
from fastedgy.cli.demo_page import Screen, end_page, keep_page, measure
from fastedgy.cli.demo_processes import Process, Processes, ask, environment
from fastedgy.cli.options import as_json
from fastedgy.cli.output import print_json
from fastedgy.cli.root import Command
from fastedgy.errors import DatabaseError, FastEdgyError, SchemaOutdated, TaskNotFound
from fastedgy.models import queue_tables
from fastedgy.store import actions, details, overview
from fastedgy.store.find import ENDED, TaskRow

if TYPE_CHECKING:
    from fastedgy.config import Settings
    from fastedgy.connections import Connections
    from fastedgy.store.notify import Channels
    from fastedgy.store.overview import WorkerRow

APP = "fastedgy.demo.app:app"
QUEUE = "demo"
WORKERS = 2
SLOTS = 4  # parsing is work for the CPU: more threads would only get into each other's way
LOOK = 0.2  # seconds between two looks at the table
START = 90.0  # seconds until the server and the workers must be ready
STANDSTILL = 120.0  # seconds without any change after which the demo gives up
MOST = 100_000  # tasks


@click.command("demo", cls=Command)
@click.option(
    "--port",
    default=0,
    type=click.IntRange(0, 65535),
    help="Where the example application listens. Default: any free port.",
)
@click.option("--keep", is_flag=True, help="Leave the server and the workers running.")
@as_json
@pass_cli_context
async def demo(context: CliContext, port: int, keep: bool, as_json: bool) -> None:
    """See it work: a server, two workers and real tasks, in less than a minute.

    A request asks an example application to index Python's standard library: a task lists the
    source files, one task for each of them parses it, and the last one, which waits for all of
    these, writes a report. The exit code is 0 if every task is done.

    The database is that of your other commands: DATABASE_URL, or else the embedded Postgres of
    this folder. Its tables are made if they are not there, and the tasks, in the queue `demo`, stay
    to be looked at. Nothing else in it is touched.
    """
    with interruptible() as interruption:
        ok = await _demo(context, port, keep, Screen(as_json=as_json), interruption)
    if not ok:
        raise click.exceptions.Exit(1)


class Interruption:
    """What a signal does: the first ends the demo in order, the next one at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.in_a_hurry: Callable[[], None] = lambda: None

    def arrived(self, number: int, main: asyncio.Task[Any]) -> None:
        """Handle a signal on the event loop."""
        if self.signal is None:
            self.signal = number
            main.cancel()
        else:
            self.in_a_hurry()


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Turn signals into the cancellation of this task, and that into the usual exit codes."""
    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    assert main is not None
    interruption = Interruption()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, interruption.arrived, number, main)
    try:
        yield interruption
    except asyncio.CancelledError:
        if interruption.signal is None:
            raise
        click.echo("Stopped.", err=True)
        raise click.exceptions.Exit(128 + interruption.signal) from None
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def _demo(
    context: CliContext, port: int, keep: bool, screen: Screen, interruption: Interruption
) -> bool:
    """Run it from the start to the last page; whether every task is done."""
    from fastedgy.cli.serve import listen
    from fastedgy.connections import Connections

    with listen("127.0.0.1", port) as listener:  # which port is free, or that this one is not
        port = listener.getsockname()[1]
    settings = context.settings
    async with AsyncExitStack() as at_the_end:
        url, place = await _database(settings, at_the_end)
        connections = Connections(url, settings, context.config)
        at_the_end.push_async_callback(connections.close)
        await _migrate(url, connections)
        screen.tell("Database", place)

        logs = Path(tempfile.mkdtemp(prefix="fastedgy-demo-"))
        at_the_end.callback(shutil.rmtree, logs, ignore_errors=True)
        processes = Processes(logs, environment(url), say=say)
        interruption.in_a_hurry = processes.kill
        at_the_end.push_async_callback(processes.stop)

        address = f"http://127.0.0.1:{port}"
        server, pool = await _start(processes, connections, address, port)
        screen.tell("Server", f"{address}, process {server.pid}")
        screen.tell("Workers", f"{WORKERS} processes of {SLOTS} slots, supervisor {pool.pid}")
        try:
            root = UUID((await ask(f"{address}/index", method="POST"))["task"])
        except FastEdgyError as error:
            raise FastEdgyError(f"{error} Last words of it: {server.last_words()}") from error
        screen.tell("Request", f"POST /index, answered with task {root}")
        try:
            tasks = await _watch(connections, root, processes, screen)
        except BaseException:
            await processes.stop()
            await _cancel(connections, root, context.channels)
            raise

        measured = measure(tasks, await _report(connections, tasks))
        if screen.as_json:
            print_json(measured.as_json())
        else:
            end_page(measured, root=root, slots=WORKERS * SLOTS)
        if keep:
            await connections.close()
            at_the_end.pop_all()
            embedded = not settings.database_url
            keep_page(address, (server.pid, pool.pid), logs, embedded=embedded, err=screen.as_json)
        return measured.done == measured.tasks


async def _database(settings: Settings, at_the_end: AsyncExitStack) -> tuple[str, str]:
    """The URL of the configured database, and what to call it.

    An embedded server that is started here is stopped at the end, unless others have come to use
    it.
    """
    from fastedgy.database import resolve_url
    from fastedgy.database_url import parse_url
    from fastedgy.embedded import server

    if settings.database_url and settings.database_url.strip():
        url = await resolve_url(settings)
        return url, str(parse_url(url))
    embedded = server(settings.data_dir)

    async def stop() -> None:
        with suppress(FastEdgyError):
            await starting
        if not await _has_other_clients(embedded.url):
            await asyncio.to_thread(embedded.stop)

    if not (await asyncio.to_thread(embedded.status)).running:
        at_the_end.push_async_callback(stop)
    starting = asyncio.ensure_future(asyncio.to_thread(embedded.start))
    # A thread cannot be cancelled: it ends its work, and what it has started is stopped.
    url = await asyncio.shield(starting)
    return url, f"embedded Postgres in {embedded.data_dir}"


async def _has_other_clients(url: str) -> bool:
    from fastedgy.database import connect
    from fastedgy.store.sessions import count_others

    try:
        connection = await connect(url)
    except DatabaseError:
        return False
    try:
        for _ in range(20):  # our own were closed just now, and the server may not know yet
            if not await count_others(connection):
                return False
            await asyncio.sleep(0.05)
    finally:
        await connection.close()
    return True


async def _migrate(url: str, connections: Connections) -> None:
    """Make the queue's tables, if they are not there. A project's own revisions are not applied."""
    from fastedgy import migrate

    async with connections.acquire() as connection:
        try:
            return await migrate.check(connection)
        except SchemaOutdated:
            await migrate.upgrade(url, migrate.NEEDED_REVISION)
        try:
            await migrate.check(connection)
        except SchemaOutdated as error:
            raise SchemaOutdated(
                f"The demo cannot use this database: {error} Or set DATABASE_URL to an empty "
                "database for it."
            ) from error


async def _start(
    processes: Processes, connections: Connections, address: str, port: int
) -> tuple[Process, Process]:
    """Start the server and the pool of workers, and return when both are ready."""
    known = {worker.id for worker in await _workers(connections)}
    server = processes.start("server", "serve", "--app", APP, "--port", str(port))
    number = str(WORKERS)
    pool = processes.start(
        "workers", "queue", "start", "--app", APP, "--queues", QUEUE, "--workers", number,
        "--min-workers", number, "--concurrency", str(SLOTS),
    )  # fmt: skip
    served = False
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        processes.check()
        with suppress(FastEdgyError):
            served = served or bool(await ask(address))
        ours = [
            worker
            for worker in await _workers(connections)
            if worker.id not in known and worker.queues == [QUEUE]
        ]
        if served and len(ours) >= WORKERS:
            return server, pool
        await asyncio.sleep(0.05)
    late = server if not served else pool
    raise FastEdgyError(
        f"No {late.name} after {START:g} s. The last that was said: {late.last_words()}"
    )


async def _workers(connections: Connections) -> list[WorkerRow]:
    async with connections.acquire() as connection:
        return await overview.list_workers(connection, queue_tables())


async def _watch(
    connections: Connections, root: UUID, processes: Processes, screen: Screen
) -> list[TaskRow]:
    """Show how the tasks of this run go, and return them when all have ended.

    The first task adds the others before it is done, so there are no more when none is left.
    """
    before: Counter[str] = Counter()
    deadline = 0.0
    with screen.progress() as bar:
        while True:
            tasks = await _family(connections, root)
            states = Counter(task.state for task in tasks)
            bar.show(states)
            if all(state in ENDED for state in states):
                return tasks
            processes.check()
            if states != before:
                before, deadline = states, time.monotonic() + STANDSTILL
            elif time.monotonic() > deadline:
                raise FastEdgyError(
                    f"Nothing has happened for {STANDSTILL:g} s, with "
                    f"{sum(states[state] for state in states if state not in ENDED):,} tasks left."
                )
            await asyncio.sleep(LOOK)


async def _family(connections: Connections, root: UUID) -> list[TaskRow]:
    async with connections.acquire() as connection:
        family = await details.tree(connection, queue_tables(), root, limit=MOST)
    return family.tasks


async def _report(connections: Connections, tasks: list[TaskRow]) -> dict[str, Any] | None:
    """What the last task has returned."""
    async with connections.acquire() as connection:
        last = await details.task_details(connection, queue_tables(), tasks[-1].id, relatives=0)
    return last.result if last.state == "done" and isinstance(last.result, dict) else None


async def _cancel(connections: Connections, root: UUID, channels: Channels) -> None:
    """Cancel what is left of an interrupted run, so that nobody runs it later."""
    with suppress(DatabaseError, TaskNotFound):
        left = [task.id for task in await _family(connections, root) if task.state not in ENDED]
        async with connections.acquire() as connection:
            await actions.cancel(
                connection, queue_tables(), left, reason="The demo was stopped.", channels=channels
            )
