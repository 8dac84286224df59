"""A wire tap between a process and Postgres: counts round trips, loses answers, cuts the line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from fastedgy.database_url import DatabaseAddress, parse_url

SYNC, SIMPLE_QUERY, COPY_DATA = b"S", b"Q", b"d"


class Proxy:
    """Stands where the server is, so it sees what arrives there, whoever sent it.

    `round_trips` counts the messages after which a client waits for an answer. `statements` are the
    texts of what was prepared or sent since the count was reset.
    """

    def __init__(self, target: DatabaseAddress, host: str = "127.0.0.1") -> None:
        self._target = target
        self._host = host
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._relays: set[asyncio.Task[None]] = set()
        self._losing: bytes | None = None
        self._copied = 0
        self._moving = asyncio.Event()
        self._moving.set()
        self.port = 0
        self.round_trips = 0
        self.statements: list[str] = []
        self.opened = 0
        self.lost = 0

    @property
    def url(self) -> str:
        """The database's URL, by way of this."""
        options = {"sslmode": "disable"}
        return replace(self._target, hosts=((self._host, self.port),), options=options).url

    def reset(self) -> None:
        """Count from 0 again."""
        self.round_trips = 0
        self.statements.clear()

    def lose_answer(self, text: str) -> None:
        """Let the next statement with that text be executed, but cut the line before its answer."""
        self._losing = text.encode()

    def stall_copies(self, after: int) -> None:
        """Take no more of the next COPY after so many bytes, until the line is cut."""
        self._copied = after
        self._moving.clear()

    async def copied(self, size: int) -> None:
        """So much of a COPY has come; returns when the next may."""
        self._copied -= size
        if self._copied < 0:
            await self._moving.wait()

    async def open(self) -> None:
        """Let clients through, on the same port as before."""
        self._server = await asyncio.start_server(self._relay, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Cut all lines, and let nobody through."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()
        if self._relays:
            await asyncio.wait(self._relays)

    def cut(self) -> None:
        """Cut all lines. New ones may be opened."""
        self._moving.set()
        for writer in self._writers:
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        self.opened += 1
        host, port = self._target.hosts[0]
        try:
            if folder := self._target.socket_folder:
                upstream = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port or 5432}")
            else:
                upstream = await asyncio.open_connection(host, port or 5432)
            self._writers |= {writer, upstream[1]}
            line = _Line(self, writer, upstream[1])
            with suppress(OSError, asyncio.IncompleteReadError):
                await asyncio.gather(line.requests(reader), line.answers(upstream[0]))
            for end in (writer, upstream[1]):
                self._writers.discard(end)
                end.transport.abort()
        finally:
            self._relays.discard(task)


class _Line:
    def __init__(
        self, proxy: Proxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._doomed = False
        self._names: dict[bytes, bytes] = {}

    async def requests(self, reader: asyncio.StreamReader) -> None:
        """Pass on what the client says, a message at a time. The first one has no type."""
        size = await reader.readexactly(4)
        self._server.write(size + await reader.readexactly(int.from_bytes(size) - 4))
        while True:
            head = await reader.readexactly(5)
            body = await reader.readexactly(int.from_bytes(head[1:]) - 4)
            self._note(head[:1], body)
            if head[:1] == COPY_DATA:
                await self._proxy.copied(len(body))
            self._server.write(head + body)
            await self._server.drain()

    def _note(self, kind: bytes, body: bytes) -> None:
        proxy = self._proxy
        if kind in (SYNC, SIMPLE_QUERY):
            proxy.round_trips += 1
        text = b""
        if kind == SIMPLE_QUERY:
            text = body[:-1]
            proxy.statements.append(text.decode())
        elif kind == b"P":
            name, text = body.split(b"\0", 2)[:2]
            self._names[name] = text
        elif kind == b"B":
            text = self._names.get(body.split(b"\0", 2)[1], b"")
            proxy.statements.append(text.decode())
        losing = proxy._losing
        if losing is not None and losing in text and kind in (b"B", SIMPLE_QUERY):
            proxy._losing = None
            self._doomed = True

    async def answers(self, reader: asyncio.StreamReader) -> None:
        """Pass on what the server says, unless this line is to lose its answer."""
        while data := await reader.read(65_536):
            if self._doomed:
                # The server has executed it, or is about to: it says nothing before that.
                self._proxy.lost += 1
                self._client.transport.abort()
                return
            self._client.write(data)
            await self._client.drain()
        raise ConnectionResetError


@asynccontextmanager
async def proxy(url: str, host: str = "127.0.0.1") -> AsyncIterator[Proxy]:
    """An open proxy to a database, on this address of the machine."""
    made = Proxy(parse_url(url), host)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
