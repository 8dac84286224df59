"""What happens in the queue, for all who follow it in this process: one LISTEN, one reader.

    workers ── hints, four a second at most ──► LISTEN ─► reader ─► groups ─► followers
                                                            │
                                          one statement for all tasks that have changed

Hints say which tasks have changed; what has changed is read from the rows, once for all who follow
a task, and encoded once. Who is slow, or was away, goes on from where it has been, by reading.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any
from uuid import UUID

import orjson
from asyncpg import Connection
from pydantic import TypeAdapter

from fastedgy.admin.following import COMMENT, QueueLine, TaskFollower, TaskGroup
from fastedgy.admin.types import Overview
from fastedgy.config import QueuedTaskConfig
from fastedgy.connections import Connections
from fastedgy.database import connect
from fastedgy.errors import TooManyFollowers
from fastedgy.models.tables import Tables
from fastedgy.store.outage import is_outage
from fastedgy.store.stream import Seen, ask_to_tell, read_news

logger = logging.getLogger("fastedgy.admin")

GATHER = 0.1
"""Seconds between two reads: what changes meanwhile is read together."""
LOOK = 5.0
"""Seconds between two looks at all followed tasks, for hints that were lost."""
LOOK_WITHOUT_HINTS = 1.0
WATCH = 60.0
"""Seconds for which the workers are asked to tell."""
ASK_AGAIN = 20.0
LINGER = 60.0
"""Seconds for which it goes on when the last one has left: who comes back misses nothing."""
OVERVIEW = 2.0
"""Seconds between two overviews for those who follow the whole queue."""
ALIVE = 15.0
"""Seconds after which all streams are sent something, so that nobody takes them for dead."""
MOST_FOLLOWERS = 5_000
MOST_NAMED_TO_WORKERS = 1_000
"""Beyond so many followed tasks the workers are asked to tell of all."""


class Live:
    """The followers of one process. Made once; it listens while anybody follows."""

    def __init__(
        self,
        connections: Connections,
        config: QueuedTaskConfig,
        tables: Tables,
        overview: Callable[[], Awaitable[Overview]],
    ) -> None:
        """`overview` gives what those who follow the whole queue are shown every few seconds."""
        self._connections = connections
        self._config = config
        self._tables = tables
        self._overview = overview
        self._groups: dict[UUID, list[TaskGroup]] = {}
        self._dirty: set[UUID] = set()
        self._new: set[UUID] = set()
        self._bell = asyncio.Event()
        self._closing = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._followers = 0
        self._line_followers = 0
        self._left_at = self._line_left_at = 0.0
        self._line = QueueLine()
        self._turn = asyncio.Event()
        self._listener: Connection | None = None
        self.reads = 0
        """How often the database was read: for tests and benchmarks."""

    @property
    def followers(self) -> int:
        """How many streams are open."""
        return self._followers + self._line_followers

    @property
    def listening(self) -> bool:
        """Whether hints of the workers arrive."""
        return self._listener is not None

    # Following.

    def follow_task(self, id: UUID, after: str | None = None) -> AsyncGenerator[bytes]:
        """The stream of one task, from `after` (an event's id) on; ends with the task.

        Raises TooManyFollowers.
        """
        self._enter()
        return self._follow_task(TaskFollower(id, after))

    def follow_queue(self, after: str | None = None) -> AsyncGenerator[bytes]:
        """The stream of the whole queue, from `after` (an event's id) on.

        One who was away for longer than is remembered gets a `reset`, and an `overview` at once.
        Raises TooManyFollowers.
        """
        self._enter()
        return self._follow_queue(after)

    async def _follow_task(self, follower: TaskFollower) -> AsyncGenerator[bytes]:
        self._followers += 1
        self._join(follower)
        try:
            while not self._closing.is_set():
                await follower.bell.wait()
                follower.bell.clear()
                # Together: each piece that is sent costs more than all the rest.
                yield b"".join(follower.take()) or COMMENT
                if follower.over:
                    return
                if follower.lagging:
                    follower.lagging = False
                    self._join(follower)
        finally:
            self._followers -= 1
            self._leave(follower)

    async def _follow_queue(self, after: str | None) -> AsyncGenerator[bytes]:
        self._line_followers += 1
        reader = self._line.reader(after)
        self._turn.set()
        try:
            while not self._closing.is_set():
                await reader.bell.wait()
                reader.bell.clear()
                yield b"".join(reader.take()) or COMMENT
        finally:
            self._line_followers -= 1
            self._line.leave(reader)
            self._left_at = self._line_left_at = time.monotonic()

    def _enter(self) -> None:
        if self.followers >= MOST_FOLLOWERS:
            raise TooManyFollowers(MOST_FOLLOWERS)
        self._left_at = time.monotonic()  # the stream itself begins a moment later
        if self._loop_task is None or self._loop_task.done():
            self._loop_task = asyncio.create_task(self._run(), name="fastedgy live")

    def _join(self, follower: TaskFollower) -> None:
        groups = self._groups.setdefault(follower.id, [])
        groups.append(TaskGroup(follower))
        self._dirty.add(follower.id)
        self._new.add(follower.id)
        self._bell.set()
        self._turn.set()

    def _leave(self, follower: TaskFollower) -> None:
        self._left_at = time.monotonic()
        groups = self._groups.get(follower.id, [])
        for group in groups:
            group.followers.discard(follower)
        groups[:] = [group for group in groups if group.followers]
        if not groups:
            self._groups.pop(follower.id, None)

    async def close(self) -> None:
        """End all streams, and stop listening."""
        self._closing.set()
        self._bell.set()
        self._wake_all()
        if self._loop_task is not None:
            await asyncio.gather(self._loop_task, return_exceptions=True)

    def _wake_all(self) -> None:
        for groups in self._groups.values():
            for group in groups:
                for follower in group.followers:
                    follower.bell.set()
        self._line.wake()

    # Reading.

    async def _run(self) -> None:
        """Listen and read while anybody follows, and for a while after."""
        hints = asyncio.create_task(self._hear(), name="fastedgy live listener")
        chores = asyncio.create_task(self._chores(), name="fastedgy live chores")
        try:
            while not self._is_over():
                # At least now and then, to see whether it is over.
                await _rung(self._bell, 1.0)
                if self._dirty:
                    await self._read()
                    await asyncio.sleep(GATHER)
        finally:
            for task in (hints, chores):
                task.cancel()
            await asyncio.gather(hints, chores, return_exceptions=True)

    def _is_over(self) -> bool:
        if not self._closing.is_set() and _server_stops():
            self._closing.set()
            self._wake_all()
        if self._closing.is_set():
            return True
        return not self.followers and time.monotonic() - self._left_at > LINGER

    async def _read(self) -> None:
        """One read for all that may have changed."""
        dirty, self._dirty = self._dirty, set()
        groups = [group for id in dirty for group in self._groups.get(id, ())]
        if not groups:
            return
        seen = [Seen(group.id, group.run, group.seq, group.version) for group in groups]
        try:
            async with self._connections.acquire() as connection:
                news = await read_news(connection, self._tables, seen)
        except Exception as error:
            if not is_outage(error):
                logger.exception("Followed tasks could not be read; they are read again")
            self._dirty |= dirty
            await asyncio.sleep(LOOK_WITHOUT_HINTS)
            self._bell.set()
            return
        self.reads += 1
        for group, new in zip(groups, news, strict=True):
            group.tell(new)
            if new.more:
                self._dirty.add(group.id)
                self._bell.set()
        for id in dirty:
            known = self._groups.get(id)
            if known is not None and len(known) > 1:
                # Read by the same statement, so those who have seen everything are at one place.
                first = [group for group in known if group.caught_up]
                for other in first[1:]:
                    first[0].followers |= other.followers
                    other.followers = set()
                known[:] = [group for group in known if group.followers]

    async def _chores(self) -> None:
        """Look at all followed tasks now and then; show the whole queue to who follows it."""
        look_at = overview_at = 0.0
        alive_at = time.monotonic() + ALIVE
        while True:
            now = time.monotonic()
            if now >= alive_at:
                alive_at = now + ALIVE
                self._wake_all()
            if self._groups and now >= look_at:
                look_at = now + (LOOK if self.listening else LOOK_WITHOUT_HINTS)
                self._dirty |= self._groups.keys()
                self._bell.set()
            if self._line_followers and (now >= overview_at or self._line.ask):
                self._line.ask = False
                overview_at = now + OVERVIEW
                try:
                    shown = _plain().dump_python(await self._overview(), mode="json")
                    self._line.put("overview", shown)
                except Exception as error:
                    logger.warning("There is no overview at the moment: %s", error)
            await asyncio.sleep(0.25)

    # Hearing.

    async def _hear(self) -> None:
        if not self._config.use_postgresql_notify:
            return
        pause = 0.05
        while True:
            try:
                await self._listen()
                pause = 0.05
            except Exception as error:
                if not is_outage(error):
                    logger.exception("The listener for events failed; it starts again")
            if self._listener is not None:
                self._listener = None
                self._line.reset()  # what was told meanwhile was told to nobody here
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)

    async def _listen(self) -> None:
        connection = await connect(
            self._connections.url, application_name="fastedgy events", command_timeout=LOOK
        )
        lost = asyncio.Event()

        def ended() -> None:
            lost.set()
            self._turn.set()

        try:
            connection.add_termination_listener(lambda _: ended())
            await connection.add_listener(self._config.events_channel, self._heard)
            self._listener = connection
            asked_at = 0.0
            while not lost.is_set():
                now = time.monotonic()
                again = now - asked_at >= ASK_AGAIN
                if again:
                    asked_at = now
                await self._ask(connection, again=again)
                await _rung(self._turn, LOOK)
        finally:
            connection.terminate()

    async def _ask(self, connection: Connection, *, again: bool) -> None:
        """Ask the workers to tell: of what is new here, or (now and then) of everything again."""
        channel = self._config.control_channel
        ids = list(self._groups) if again else [id for id in self._new if id in self._groups]
        self._new.clear()
        recently = time.monotonic() - self._line_left_at < LINGER
        wanted = bool(self._line_followers) or (self._line.wanted and recently)
        if self._line.wanted and not wanted:
            self._line.forget()
        everything = wanted or len(self._groups) > MOST_NAMED_TO_WORKERS
        if everything and (again or not self._line.wanted):
            await ask_to_tell(connection, channel, WATCH, None)
        self._line.wanted = wanted
        if ids and len(self._groups) <= MOST_NAMED_TO_WORKERS:
            await ask_to_tell(connection, channel, WATCH, ids)
        elif not everything:
            await connection.fetchval("SELECT 1")  # a dead peer closes nothing

    def _heard(self, connection: Connection, pid: int, channel: str, payload: Any) -> None:
        try:
            told = orjson.loads(payload)
            ids = [UUID(id) for id in told.get("ids", ())]
            named = [(UUID(id), *rest) for id, *rest in told.get("tasks", ())]
        except (ValueError, TypeError, AttributeError):
            return  # anybody may notify on our channel
        followed = self._groups.keys()
        dirty = [id for id in ids if id in followed] + [id for id, *_ in named if id in followed]
        if dirty:
            self._dirty.update(dirty)
            self._bell.set()
        if "ended" in told:
            self._line.add(told.get("started"), told["ended"], named)


async def _rung(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, for so long at most; it is cleared."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True


@functools.cache
def _plain() -> TypeAdapter[Overview]:
    return TypeAdapter(Overview)


def _server_stops() -> bool:
    """Whether uvicorn has been asked to stop. It waits for open streams before it tells anybody."""
    handler = signal.getsignal(signal.SIGTERM)
    return bool(getattr(getattr(handler, "__self__", None), "should_exit", False))
