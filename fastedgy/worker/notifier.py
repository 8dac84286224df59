"""The notifier: listens for the bell, and proves to itself that it still can hear."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID, uuid4

import orjson
from asyncpg import Connection

from fastedgy.config import QueuedTaskConfig
from fastedgy.database import connect
from fastedgy.store.claim import Lane
from fastedgy.store.drains import TOLD as DRAIN
from fastedgy.store.events import TOLD as EVENT_SENT
from fastedgy.store.gates import GateLane
from fastedgy.store.notify import FREE, Free
from fastedgy.store.outage import is_outage
from fastedgy.store.queues import CHANGED as QUEUES_CHANGED
from fastedgy.store.schedules import BELL as SCHEDULES_BELL
from fastedgy.store.statements import GATED_LINE
from fastedgy.worker.counters import Counters

logger = logging.getLogger("fastedgy.worker")

PROBE = 5.0
"""Seconds between two proofs that the connection lives. A peer that is gone closes nothing."""
HEARING = 2.0
"""Seconds within which our own notification must come back when we start to listen."""


class Notifier:
    """One idle connection with LISTEN on it. Notifications are hints: a lost one costs time."""

    def __init__(self, url: str, config: QueuedTaskConfig, counters: Counters) -> None:
        self._url = url
        self._config = config
        self._counters = counters
        self._stopping = asyncio.Event()
        self._heard_once = False
        self._echo = ""
        self._heard_echo = asyncio.Event()
        self.on_lanes: Callable[[Iterable[Lane]], None] = lambda lanes: None
        self.on_gates: Callable[[Iterable[GateLane]], None] = lambda lanes: None
        self.on_free: Callable[[Free], None] = lambda free: None
        self.on_rules: Callable[[], None] = lambda: None
        self.on_due: Callable[[float], None] = lambda seconds: None
        self.on_cancel: Callable[[UUID], None] = lambda id: None
        self.on_drain: Callable[[list[str]], None] = lambda workers: None
        self.on_schedules: Callable[[], None] = lambda: None
        self.on_event: Callable[[str], None] = lambda key: None
        self.on_deaf: Callable[[bool], None] = lambda deaf: None
        self.on_watch: Callable[[float, list[UUID] | None], None] = lambda seconds, ids: None

    def stop(self) -> None:
        """Stop listening."""
        self._stopping.set()

    async def run(self) -> None:
        """Listen until `stop`; after a loss again, and then everybody looks for what was missed."""
        if not self._config.use_postgresql_notify:
            return
        pause, told = 0.05, False
        while not self._stopping.is_set():
            self._heard_once = False
            try:
                await self._listen()
            except Exception as error:
                self._counters.connections_lost += 1
                if is_outage(error):
                    # Once for each outage, not for each try to end it.
                    level = logging.DEBUG if told and not self._heard_once else logging.WARNING
                    logger.log(level, "The listener was lost (%s); polling until it is back", error)
                    told = True
                else:
                    self._counters.errors += 1
                    logger.exception("The listener failed; polling until it is back")
                pause = 0.1 if self._heard_once else min(2 * pause, 1.0)
            self._tell_deaf(True)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _listen(self) -> None:
        connection = await connect(
            self._url, application_name="fastedgy worker listener", timeout=PROBE,
            command_timeout=PROBE,
        )  # fmt: skip
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(self._config.notify_channel, self._rung)
            await connection.add_listener(self._config.control_channel, self._told)
            await self._prove(connection)
            self._heard_once = True
            stop = asyncio.ensure_future(self._stopping.wait())
            gone = asyncio.ensure_future(lost.wait())
            try:
                while not self._stopping.is_set():
                    await asyncio.wait(
                        (stop, gone), timeout=PROBE, return_when=asyncio.FIRST_COMPLETED
                    )
                    if lost.is_set():
                        raise ConnectionError("the server closed it")
                    if not self._stopping.is_set():
                        await connection.fetchval("SELECT 1")
            finally:
                stop.cancel()
                gone.cancel()
        finally:
            connection.terminate()

    async def _prove(self, connection: Connection) -> None:
        """Hear our own notification, or say that we are deaf (behind a pooler, most likely)."""
        self._echo = f"echo {uuid4()}"
        self._heard_echo.clear()
        await connection.execute(
            "SELECT pg_notify($1, $2)", self._config.control_channel, self._echo
        )
        try:
            await asyncio.wait_for(self._heard_echo.wait(), HEARING)
        except TimeoutError:
            logger.warning(
                "Notifications do not arrive here, so the table is polled every %g s. Behind a "
                "pooler in transaction mode set QUEUE_USE_POSTGRESQL_NOTIFY=false.",
                self._config.polling_interval,
            )
            self._tell_deaf(True)
        else:
            self._tell_deaf(False)

    def _tell_deaf(self, deaf: bool) -> None:
        self._counters.deaf = int(deaf)
        self.on_deaf(deaf)

    def _rung(self, connection: Connection, pid: int, channel: str, payload: Any) -> None:
        try:
            bell = _bell(payload)
        except (ValueError, TypeError, KeyError, AttributeError):
            # Anybody may notify on our channel; whatever it was, a look does no harm.
            self.on_lanes([])
            return
        if bell.gates:
            self.on_gates(bell.gates)
        if bell.lanes or bell.everywhere:
            self.on_lanes(bell.lanes)
        if bell.delay is not None:
            self.on_due(bell.delay)

    def _told(self, connection: Connection, pid: int, channel: str, payload: Any) -> None:
        text = str(payload)
        if text == self._echo:
            self._heard_echo.set()
            return
        if text.startswith("echo "):
            return
        if text == QUEUES_CHANGED:
            self.on_rules()
            return
        if text.startswith(FREE):
            self._told_of_places(text)
            return
        if text == SCHEDULES_BELL:
            self.on_schedules()
            return
        if text.startswith(EVENT_SENT):
            self.on_event(text.removeprefix(EVENT_SENT))
            return
        if text.startswith(DRAIN):
            self.on_drain(text.removeprefix(DRAIN).split(","))
            return
        if text.startswith("watch "):
            self._asked_to_tell(text)
            return
        for part in text.split(","):
            with suppress(ValueError):  # not an id: not for us
                self.on_cancel(UUID(part))

    def _told_of_places(self, text: str) -> None:
        """A worker has freed places that it does not fill itself."""
        with suppress(ValueError, TypeError, KeyError):  # nobody of ours has said that
            told = orjson.loads(text.removeprefix(FREE))
            self.on_free(Free(set(told["gates"]), set(told["queues"])))

    def _asked_to_tell(self, text: str) -> None:
        """Somebody watches: `watch <seconds> <ids, or * for all tasks>`."""
        _, seconds, ids = [*text.split(" ", 2), "", ""][:3]
        with suppress(ValueError):  # nobody of ours has said that
            wanted = None if ids == "*" else [UUID(id) for id in ids.split(",")]
            self.on_watch(float(seconds), wanted)


@dataclass(frozen=True, slots=True)
class _Bell:
    """What a notification of new tasks says. `delay`: seconds until the next one is due."""

    lanes: list[Lane]
    gates: list[GateLane]
    delay: float | None
    everywhere: bool


@lru_cache(maxsize=64)
def _bell(payload: str) -> _Bell:
    """Taken apart once: most say the same. Raises an error of several kinds for what is none."""
    said = orjson.loads(payload)
    gates = [_gate_lane(*names) for names in said.get("gates", ())]
    due = said.get("due")
    delay = None if due is None else float(due)
    return _Bell(
        [_lane(queue, priority) for queue, priority in said["lanes"]],
        gates,
        delay,
        everywhere=said.get("all") is True or (delay is None and not gates),
    )


def _gate_lane(queue: Any, gate: Any, priority: Any) -> GateLane:
    """Likewise, behind a gate."""
    if not isinstance(gate, str) or "\x00" in gate or priority == GATED_LINE:
        raise ValueError(gate)
    return GateLane(queue, gate, _lane(queue, priority)[1])


def _lane(queue: Any, priority: Any) -> Lane:
    """A lane as a claim can name it. Raises ValueError where no row can have it."""
    if not isinstance(queue, str) or "\x00" in queue:
        raise ValueError(queue)
    if not isinstance(priority, int) or not -(2**31) <= priority <= GATED_LINE:
        raise ValueError(priority)
    return queue, priority
