"""A TCP proxy on loopback, in front of Postgres, that can cut and freeze connections.

A frozen connection keeps what was sent, and delivers it when it thaws, also when the sender has
given up by then: statements that arrive late are what a queue has to survive.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class Link:
    """One connection through the proxy."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.writers = writers
        self.flowing = asyncio.Event()
        self.flowing.set()

    def cut(self) -> None:
        """Reset both sides at once; what is on its way is gone."""
        for writer in self.writers:
            writer.transport.abort()
        self.flowing.set()


class Proxy:
    """Runs in a thread of its own until `stop`. The other methods may be called by any thread."""

    def __init__(self, socket_path: str) -> None:
        """`socket_path` is the Unix socket of the server."""
        self._target = socket_path
        self._links: set[Link] = set()
        self._dark = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def start(self) -> int:
        """Listen; returns the port."""
        self._thread.start()

        async def listen() -> int:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            port: int = self._server.sockets[0].getsockname()[1]
            return port

        return asyncio.run_coroutine_threadsafe(listen(), self._loop).result(10)

    def stop(self) -> None:
        """Cut everything and end."""
        self.thaw()
        self.cut(1.0, random.Random(0))

        async def close() -> None:
            if self._server is not None:
                self._server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def cut(self, share: float, rng: random.Random) -> int:
        """Reset that share of the connections; returns how many."""

        def do() -> int:
            chosen = self._choose(share, rng)
            for link in chosen:
                link.cut()
            return len(chosen)

        return self._call(do)

    def freeze(self, share: float, rng: random.Random, *, dark: bool = False) -> int:
        """Stop that share of the connections until `thaw`. `dark`: new ones get no answer, too."""

        def do() -> int:
            self._dark = dark
            chosen = self._choose(share, rng)
            for link in chosen:
                link.flowing.clear()
            return len(chosen)

        return self._call(do)

    def thaw(self) -> None:
        """Let everything flow, what was held up first."""

        def do() -> None:
            self._dark = False
            for link in self._links:
                link.flowing.set()

        self._call(do)

    def _choose(self, share: float, rng: random.Random) -> list[Link]:
        links = list(self._links)
        return rng.sample(links, max(1, round(share * len(links)))) if links else []

    def _call(self, do: Callable[[], T]) -> T:
        async def call() -> T:
            return do()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(self._target)
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, up_writer)
        if self._dark:
            link.flowing.clear()
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pump(reader, up_writer, link), self._pump(up_reader, writer, link)
            )
        finally:
            self._links.discard(link)
            for side in (writer, up_writer):
                with suppress(OSError, RuntimeError):
                    side.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link
    ) -> None:
        """Carry one direction to its end, and hand the end on."""
        with suppress(OSError, RuntimeError):  # reset by one side: the other hears of it below
            while data := await reader.read(65536):
                await link.flowing.wait()
                writer.write(data)
                await writer.drain()
        await link.flowing.wait()
        with suppress(OSError, RuntimeError):
            writer.close()
