"""Hearing that a task ended: one LISTEN connection for all that wait in this process."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any
from uuid import UUID

from asyncpg import Connection

from fastedgy.config import QueuedTaskConfig
from fastedgy.database import connect
from fastedgy.store.outage import is_outage

logger = logging.getLogger("fastedgy.queued_tasks")


class Heard(asyncio.Event):
    """Set when something was heard of one of many tasks.

    `ids` are those; `all`: notifications may have been missed, so look at all of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[UUID] = set()
        self.all = False

    def take(self) -> set[UUID]:
        """What was heard since the last time; it is cleared."""
        ids, self.ids, self.all = self.ids, set(), False
        self.clear()
        return ids


class Waiter:
    """Wakes who waits for a task. A notification is a hint: the row is read afterwards.

    Its connection is opened with the first wait, proves itself alive by a statement every few
    seconds, and is opened anew when it was lost; then everybody is woken, to look for themselves.
    """

    PROBE = 5.0
    """Seconds between two proofs of life. A dead peer closes nothing; only an answer shows life."""

    def __init__(self, url: str, config: QueuedTaskConfig) -> None:
        self._url = url
        self._config = config
        self._sleepers: defaultdict[UUID, set[asyncio.Event]] = defaultdict(set)
        self._listening = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @property
    def polls(self) -> bool:
        """Whether there are no notifications here, so that who waits must look often."""
        return not self._config.use_postgresql_notify

    @contextmanager
    def watch(self, id: UUID) -> Iterator[asyncio.Event]:
        """An event that is set whenever the task may have ended."""
        event = asyncio.Event()
        self._sleepers[id].add(event)
        try:
            yield event
        finally:
            sleepers = self._sleepers[id]
            sleepers.discard(event)
            if not sleepers:
                del self._sleepers[id]

    @contextmanager
    def watch_all(self, ids: Iterable[UUID]) -> Iterator[Heard]:
        """An event for many tasks, which knows of which of them something was heard."""
        heard = Heard()
        watched = set(ids)
        for id in watched:
            self._sleepers[id].add(heard)
        try:
            yield heard
        finally:
            for id in watched:
                sleepers = self._sleepers[id]
                sleepers.discard(heard)
                if not sleepers:
                    del self._sleepers[id]

    async def start(self, timeout: float | None) -> None:
        """Listen, if that is not under way. Returns once it is, or after `timeout` seconds."""
        if self.polls:
            return
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(
                self._run(), name="fastedgy wait listener", context=Context()
            )
        if not self._listening.is_set():
            try:
                await asyncio.wait_for(self._listening.wait(), timeout)
            except TimeoutError:
                logger.warning(
                    "LISTEN did not start within %s s; looking at the rows instead", timeout
                )

    async def close(self) -> None:
        """Stop listening."""
        self._closing.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause = 0.05
        while not self._closing.is_set():
            try:
                await self._listen()
                pause = 0.05
            except Exception as error:
                if not is_outage(error):
                    logger.exception("The listener for ended tasks failed; it starts again")
                pause = min(2 * pause, 1.0)
            self._listening.clear()
            if not self._closing.is_set():
                await asyncio.sleep(pause)

    async def _listen(self) -> None:
        connection = await connect(
            self._url, application_name="fastedgy wait", command_timeout=self.PROBE
        )
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(self._config.done_channel, self._heard)
            self._listening.set()
            self._wake_all()
            while not lost.is_set() and not self._closing.is_set():
                await _first(lost, self._closing, timeout=self.PROBE)
                if not lost.is_set():
                    await connection.fetchval("SELECT 1")
        finally:
            connection.terminate()

    def _heard(self, connection: Connection, pid: int, channel: str, payload: Any) -> None:
        for text in str(payload).split(","):
            try:
                id = UUID(text)
            except ValueError:
                continue  # somebody else's notification on our channel; nobody waits for it
            for event in self._sleepers.get(id, ()):
                if isinstance(event, Heard):
                    event.ids.add(id)
                event.set()

    def _wake_all(self) -> None:
        for sleepers in self._sleepers.values():
            for event in sleepers:
                if isinstance(event, Heard):
                    event.all = True
                event.set()


async def _first(*events: asyncio.Event, timeout: float) -> None:
    """Return when one of the events is set, or after `timeout` seconds."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
