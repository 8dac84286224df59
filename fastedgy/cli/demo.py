"""`fastedgy demo`: the whole thing at work, in one command."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import click

from fastedgy.cli.context import CliContext, pass_cli_context
from fastedgy.cli.demo_page import Screen, end_page, keep_page, measure
from fastedgy.cli.demo_processes import Process, Processes, ask, environment
from fastedgy.cli.options import as_json
from fastedgy.cli.output import print_json
from fastedgy.cli.root import Command
from fastedgy.errors import DatabaseUnavailable, FastEdgyError, SchemaOutdated
from fastedgy.store.find import ENDED, TaskRow

if TYPE_CHECKING:
    from asyncpg import Connection

    from fastedgy.config import Settings
    from fastedgy.database import Connections

APP = "fastedgy.demo.app:app"
QUEUE = "demo"
WORKERS = 2
SLOTS = 4  # parsing is work for the CPU: more threads would only get into each other's way
LOOK = 0.2  # seconds between two looks at the table
STANDSTILL = 120.0  # seconds without any change after which the demo gives up
MOST = 100_000  # tasks


class Place(NamedTuple):
    """The database of the demo. `stop` ends the server if the demo has started it."""

    url: str
    description: str
    stop: Callable[[], object] | None


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
    from fastedgy.cli.serve import listen
    from fastedgy.database import Connections

    with listen("127.0.0.1", port) as listener:  # to find a free port, or that this one is not
        port = listener.getsockname()[1]
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(_database(context.settings))
        screen.tell("Database", place.description)
        connections = Connections(place.url, context.settings, context.config)
        stack.push_async_callback(connections.close)
        await _migrate(place.url, connections)

        folder = Path(tempfile.mkdtemp(prefix="fastedgy-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        processes = Processes(folder, environment(place.url), say=screen.warn)
        interruption.in_a_hurry = processes.kill
        stack.push_async_callback(processes.stop)

        server, pool = await _start(processes, connections, port)
        url = f"http://127.0.0.1:{port}"
        screen.tell("Server", f"{url}, process {server.pid}")
        screen.tell(
            "Workers", f"{WORKERS} processes with {SLOTS} slots each, of supervisor {pool.pid}"
        )
        answer = await ask(f"{url}/index", method="POST")
        root = UUID(answer["task"])
        screen.tell("Request", f"POST /index was answered with task {root}")
        try:
            tasks = await _watch(connections, root, processes, screen)
        except BaseException:
            await processes.stop()
            await _cancel(connections, root)
            raise

        report = await _report(connections, tasks)
        measured = measure(tasks, report)
        if screen.as_json:
            print_json(measured.as_json())
        else:
            end_page(measured, root=root, slots=WORKERS * SLOTS)
        if keep:
            await connections.close()
            stack.pop_all()
            keep_page(url, [server.pid, pool.pid], folder, embedded=not context.settings.database_url)
        return measured.done == measured.tasks


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Place]:
    """The configured database. An embedded server that is started here is stopped at the end.

    Unless somebody else has connected to it meanwhile.
    """
    from fastedgy.database import resolve_url
    from fastedgy.database_url import parse_url
    from fastedgy.embedded import server

    if settings.database_url and settings.database_url.strip():
        url = await resolve_url(settings)
        yield Place(url, str(parse_url(url)), None)
        return
    embedded = server(Path(settings.data_dir))
    ours = not (await asyncio.to_thread(embedded.status)).running
    starting = asyncio.ensure_future(asyncio.to_thread(embedded.start))
    try:
        url = await asyncio.shield(starting)
        yield Place(url, f"embedded Postgres in {embedded.data_dir}", embedded.stop)
    finally:
        with suppress(FastEdgyError):
            await starting
        if ours and not await _is_used(embedded.url):
            await asyncio.to_thread(embedded.stop)
