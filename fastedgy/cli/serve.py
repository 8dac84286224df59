"""`fastedgy serve`: the application over HTTP, by uvicorn, with a pool of workers beside it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastedgy.cli.context import CliContext, one_line, pass_cli_context, say
from fastedgy.cli.options import served_app_option
from fastedgy.cli.root import Command
from fastedgy.discovery import find_app
from fastedgy.errors import ConfigurationError, FastEdgyError
from fastedgy.logs import configure_logging

# What the pool needs beyond QUEUE_DRAIN_TIMEOUT: to write outcomes, and to see its processes end.
MARGIN = 20.0


@click.command("serve", cls=Command)
@served_app_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--reload", is_flag=True, help="Start anew when a file changes, for development.")
@click.option("-w", "--workers", type=click.IntRange(min=0), help="Worker processes beside it.")
@click.option("--no-http", is_flag=True, help="Only the workers, as `queue start` does.")
@pass_cli_context
def serve(
    context: CliContext,
    app: str | None,
    host: str,
    port: int,
    reload: bool,
    workers: int | None,
    no_http: bool,
) -> None:
    """Serve the application over HTTP.

    No tasks are run unless --workers says by how many processes. SIGTERM or Ctrl-C ends both:
    requests first, then the workers drain.
    """
    settings, drain = context.settings, context.config.drain_timeout
    spec = app or context.app or settings.app
    pool = pool_command(spec, workers, reload=reload)
    if no_http:
        if workers == 0:
            raise ConfigurationError("--no-http with --workers=0 leaves nothing to do.")
        os.execv(pool[0], pool)
    context.app = spec
    application = context.import_application(required=True)
    assert application is not None
    listener = listen(host, port)
    options: dict[str, Any] = {"host": host, "port": port, "log_level": settings.log_level}
    configure_logging(settings.log_format, settings.log_level)
    if settings.log_format == "json":
        options["log_config"] = None
    with stopped_at_the_end(Pool(pool, drain + MARGIN) if workers else None) as started:
        if reload:
            listener.close()
            os.environ["FASTEDGY_APP"] = spec or ""
            started(None)
            uvicorn.run("fastedgy.cli.serve:reloaded", factory=True, reload=True, **options)
        else:
            run(application, listener, started, options)


def run(
    app: FastAPI,
    listener: socket.socket,
    started: Callable[[uvicorn.Server | None], None],
    options: dict[str, Any],
) -> None:
    """Serve until a signal comes. `started` is called when requests are accepted.

    Raises what the application's start raised, if it is an error of ours.
    """
    guard = Guard(app)

    def now_started(server: uvicorn.Server) -> None:
        held.release()
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        held.logger.info("Serving at http://%s:%d (Press CTRL+C to quit)", shown, port)
        started(server)

    server = Server(uvicorn.Config(guard, **options), now_started)
    held = HeldBack(logging.getLogger("uvicorn.error"))
    try:
        server.run(sockets=[listener])
    except SystemExit:
        if guard.error is None:
            raise
    finally:
        held.release(drop=guard.error is not None)
        listener.close()
    if guard.error is not None:
        raise guard.error
    if not server.started:
        raise click.exceptions.Exit(3)


def reloaded() -> ASGIApp:
    """What uvicorn's reloader imports in each of its processes."""
    try:
        return find_app(os.environ.get("FASTEDGY_APP"))
    except FastEdgyError as error:
        say(f"Error: {one_line(error)}")
        raise SystemExit(1) from None


class Server(uvicorn.Server):
    """uvicorn, which tells when it has started."""

    def __init__(self, config: uvicorn.Config, started: Callable[[uvicorn.Server], None]) -> None:
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, accept requests, then the rest."""
        await super().startup(sockets)
        if self.started:
            self._tell(self)


class Guard:
    """The application, whose errors of ours at its start are one line instead of a traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.error: FastEdgyError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        failed: Message | None = None

        async def wait_for_the_error(message: Message) -> None:
            nonlocal failed
            if message["type"] == "lifespan.startup.failed":
                failed = message
            else:
                await send(message)

        try:
            await self.app(scope, receive, wait_for_the_error)
        except FastEdgyError as error:
            if failed is None:
                raise
            self.error = error
            await send({"type": "lifespan.startup.failed", "message": ""})
        except BaseException:
            if failed is not None:
                await send(failed)
            raise
        else:
            if failed is not None:
                await send(failed)


class HeldBack:
    """What uvicorn says of the start, kept until it is known whether an error of ours ends it.

    So that the error is the one line that there is.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self.records: list[logging.LogRecord] = []
        logger.addFilter(self._hold)

    def _hold(self, record: logging.LogRecord) -> bool:
        if record.exc_info or "Traceback" in record.getMessage():
            self.release()
            return True
        self.records.append(record)
        return False

    def release(self, *, drop: bool = False) -> None:
        """Say it now, unless it is dropped, and hold nothing back any more."""
        self.logger.removeFilter(self._hold)
        records, self.records = self.records, []
        for record in records if not drop else ():
            self.logger.handle(record)


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve at. Raises ConfigurationError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # At once, as two that are only bound would not notice each other.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise ConfigurationError(
            f"Cannot listen at {host} port {port}: {reason}. Stop what uses it, or choose another "
            "with --host and --port."
        ) from error
    listener.set_inheritable(False)
    return listener


def pool_command(spec: str | None, workers: int | None, *, reload: bool) -> list[str]:
    """The command line of the pool of workers."""
    command = [sys.executable, "-m", "fastedgy", "queue", "start"]
    command += ["--app", spec] if spec else []
    command += ["--workers", str(workers)] if workers else []
    return [*command, "--reload"] if reload else command


class Pool:
    """The pool of workers in a process of its own, which Ctrl-C reaches through us only."""

    def __init__(self, command: list[str], patience: float) -> None:
        """`patience`: seconds from SIGTERM until it is killed."""
        self.command = command
        self.patience = patience
        self.process: subprocess.Popen[bytes] | None = None
        self.stopping = False
        self.exit_code: int | None = None

    def start(self, server: uvicorn.Server | None) -> None:
        """Start it. When it fails, the server ends, too; not so when it was told to drain."""
        self.process = subprocess.Popen(self.command, start_new_session=True)
        threading.Thread(target=self._watch, args=(server,), daemon=True).start()

    def _watch(self, server: uvicorn.Server | None) -> None:
        assert self.process is not None
        code = self.process.wait()
        if self.stopping:
            return
        if code == 0:
            say("The workers were told to end, and have. The server goes on without them.")
            return
        self.exit_code = code
        if server is not None:
            server.should_exit = True

    def stop(self) -> None:
        """Let it drain, and wait for its end."""
        self.stopping = True
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(self.patience)
        except subprocess.TimeoutExpired:
            say("The workers did not end in time, and are killed.")
            self.process.kill()
            self.process.wait()

    def hurry(self) -> None:
        """Let running tasks be handed back at once."""
        if self.stopping and self.process is not None and self.process.poll() is None:
            self.process.terminate()


@contextmanager
def stopped_at_the_end(pool: Pool | None) -> Iterator[Callable[[uvicorn.Server | None], None]]:
    """Stop the pool whatever ends the block: a signal, an error, or its own end.

    Gives what starts it, to be called with the server once that runs.
    """
    running: list[uvicorn.Server] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if pool is not None and pool.stopping:
            pool.hurry()
        elif not any(server.should_exit for server in running):
            raise SystemExit(0)
        # Else uvicorn, which ends well by itself, has sent itself the signal once more.

    def start(server: uvicorn.Server | None) -> None:
        if server is not None:
            running.append(server)
        if pool is not None:
            pool.start(server)

    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, on_signal) for number in signals}
    try:
        yield start
    finally:
        try:
            if pool is not None:
                pool.stop()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if pool is not None and pool.exit_code is not None:
        raise ConfigurationError(
            f"The workers ended by themselves (exit code {pool.exit_code}); what they said is "
            "above. The server is stopped, too."
        )
