"""Circuit breakers: no more calls to what is broken, until a probe finds it well again."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary

from asyncpg import Connection

from fastedgy.errors import CircuitOpen, ConfigurationError, InvalidFunction
from fastedgy.models.tables import Tables
from fastedgy.queued_task.backoff import seconds_of
from fastedgy.queued_task.control import Discard, Snooze
from fastedgy.queued_task.encoding import fault_of
from fastedgy.queued_task.failures import type_of
from fastedgy.queued_task.running import current
from fastedgy.queued_tasks.service import QueuedTasks
from fastedgy.store import breakers
from fastedgy.store.breakers import Breaker
from fastedgy.store.notify import ring_all
from fastedgy.store.outage import is_outage
from fastedgy.workflows import engine

logger = logging.getLogger("fastedgy.workflows")

P = ParamSpec("P")
T = TypeVar("T")

PROBE = 30.0
"""Seconds for which a probe outside of a task counts without a sign of life."""
PROBE_IN_TASK = 7 * 86_400.0
"""The same in a task, whose claim shows whether it lives."""
AGAIN = 1.0
"""Seconds after which to ask again while somebody else probes."""
LONGEST_NAME = 200

_declared: dict[str, CircuitBreaker] = {}


@dataclass(frozen=True, slots=True)
class Admission:
    """A call that was let through. `token`: as a probe. `clean`: nobody had failed before it."""

    token: UUID | None
    clean: bool
    keeper: asyncio.Task[None] | None = None


class CircuitBreaker:
    """Lets calls through until they fail too often, and then none for a while.

        payments = CircuitBreaker("payments", failure_threshold=5, reset_timeout=30)

        async with payments:
            await call_the_provider()

    Shared by all processes under its name: one row in the database. `failure_threshold` failures in
    a row open it; after `reset_timeout` it is half open, and one call at a time goes through as a
    probe; `success_threshold` probes in a row that come through close it, and one that fails opens
    it again. While it lets nobody through, CircuitOpen is raised, which says when to try again.

    Also a decorator for async functions (`@payments`), and `await payments.call(func, *args)`.
    `@task(breaker="payments")` keeps the tasks in the queue instead, and spends no attempts.
    """

    def __init__(
        self,
        name: str,
        *,
        failure_threshold: int | None = None,
        reset_timeout: float | timedelta | None = None,
        success_threshold: int | None = None,
        ignore: type[BaseException] | Iterable[type[BaseException]] = (),
    ) -> None:
        """`reset_timeout` is in seconds. What is not given is as in the database; there the
        defaults are 5 failures, 30 s, 2 successes. Exceptions in `ignore` count as successes:
        the other side has answered. Raises ConfigurationError.
        """
        self.name = _checked_name(name)
        self._failure_threshold = _count(name, "failure_threshold", failure_threshold)
        self._success_threshold = _count(name, "success_threshold", success_threshold)
        self._reset_timeout = _seconds(name, reset_timeout)
        self._ignore = (ignore,) if isinstance(ignore, type) else tuple(ignore)
        self._seen: Breaker | None = None
        self._declared_to: QueuedTasks | None = None
        self._inside: WeakKeyDictionary[asyncio.Task[Any], list[Admission]] = WeakKeyDictionary()
        _declared[name] = self

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name}, {self.state}>"

    @property
    def state(self) -> str:
        """`closed`, `open` or `half_open`, as this process has last seen it. See `get_state`."""
        return self._seen.state if self._seen is not None else "closed"

    async def get_state(self) -> str:
        """`closed`, `open` or `half_open`, as it is now."""
        return (await self.get_metrics()).state

    async def get_metrics(self) -> Breaker:
        """The whole row: state, failures and successes in a row, thresholds, the last error."""
        service = engine.producer("CircuitBreaker")
        row: Breaker = await self._repeated(service, self._declare)
        return row

    async def reset(self, *, actor: str = "code") -> None:
        """Close it, whatever it has seen. Noted in the audit as done by `actor`."""
        service = engine.producer("CircuitBreaker")

        async def reset(connection: Connection, tables: Tables) -> Breaker:
            await self._declare(connection, tables)
            closed = await breakers.reset(connection, tables, self.name, actor=actor)
            await ring_all(connection, service._channels.tasks)
            return closed or await self._declare(connection, tables)

        await self._repeated(service, reset)

    async def call(self, func: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call an async function through the breaker. Raises CircuitOpen, and what it raises."""
        async with self:
            return await func(*args, **kwargs)

    def __call__(self, func: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Have all calls of an async function go through the breaker."""
        if not engine.is_async(func):
            raise InvalidFunction(
                f"The circuit breaker {self.name!r} is for async functions; {func!r} is none. Call "
                "it from one, by asyncio.to_thread."
            )

        @functools.wraps(func)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            async with self:
                return await func(*args, **kwargs)

        return guarded

    async def __aenter__(self) -> Self:
        admission = await self.enter()
        task = asyncio.current_task()
        assert task is not None
        self._inside.setdefault(task, []).append(admission)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        await self.leave(self._inside[task].pop(), error)

    # One call. Also used by the worker, for `@task(breaker=…)`.

    async def enter(self) -> Admission:
        """Be let through, or raise CircuitOpen."""
        service = engine.producer("CircuitBreaker")
        run = current.get()
        token = uuid4()

        async def enter(connection: Connection, tables: Tables) -> Breaker:
            if self._declared_to is service:
                row = await breakers.read(connection, tables, self.name)
            else:
                row = None
            row = row or await self._declare(connection, tables)
            if row.state == "closed" or (row.state == "open" and row.rest > 0):
                return row
            probing = await breakers.probe(
                connection, tables, self.name, token=token,
                task_id=run.id if run else None, run=run.run if run else None,
                seconds=PROBE_IN_TASK if run else PROBE,
            )  # fmt: skip
            return probing or row

        row = await self._repeated(service, enter)
        self._declared_to = service
        if row.state == "closed":
            return Admission(None, clean=row.failures == 0)
        if row.probe != token:
            raise CircuitOpen(self.name, row.rest or AGAIN, row.error)
        keeper = None if run else asyncio.create_task(self._keep(service, token))
        return Admission(token, clean=False, keeper=keeper)

    async def leave(self, admission: Admission, error: BaseException | None) -> None:
        """Say what became of a call that was let through."""
        if admission.keeper is not None:
            admission.keeper.cancel()
        verdict = self._verdict(error)
        token = admission.token
        if token is None and (verdict is None or (verdict and admission.clean)):
            return
        service = engine.producer("CircuitBreaker")

        async def leave(connection: Connection, tables: Tables) -> Breaker | None:
            if verdict is None:
                assert token is not None
                await breakers.let_go(connection, tables, self.name, token=token)
                return None
            if verdict:
                row = await breakers.succeeded(connection, tables, self.name, token=token)
            else:
                assert error is not None
                reason = f"{type_of(error)}: {engine.message_of(error)}"
                row = await breakers.failed(
                    connection, tables, self.name, token=token, error=reason
                )
            if row is not None and row.state == "closed" and token is not None:
                await ring_all(connection, service._channels.tasks)
            return row

        try:
            await engine.to_the_end(self._repeated(service, leave))
        except Exception as failure:
            if not is_outage(failure):
                raise
            # The call itself is over. A probe that is not heard of makes way for another one.
            logger.warning("The circuit breaker %s was not told of a call: %s", self.name, failure)

    def _verdict(self, error: BaseException | None) -> bool | None:
        """Whether the call came through; None: it says nothing."""
        if error is None or isinstance(error, self._ignore):
            return True
        if isinstance(error, asyncio.CancelledError):
            # What took so long that the task's time was over has failed; all else is our doing.
            timed_out = getattr(current.get(), "cancelling", None) == "timeout"
            return False if timed_out else None
        if isinstance(error, Snooze | Discard | CircuitOpen | GeneratorExit):
            return None
        return False

    async def _keep(self, service: QueuedTasks, token: UUID) -> None:
        """Give signs of life for a probe that runs outside of a task."""
        while True:
            await asyncio.sleep(PROBE / 3)
            await engine.repeated(
                service,
                lambda connection, tables: breakers.keep_probing(
                    connection, tables, self.name, token=token, seconds=PROBE
                ),
            )

    async def _declare(self, connection: Connection, tables: Tables) -> Breaker:
        return await breakers.declare(
            connection, tables, self.name, failure_threshold=self._failure_threshold,
            success_threshold=self._success_threshold, reset_timeout=self._reset_timeout,
        )  # fmt: skip

    async def _repeated(self, service: QueuedTasks, work: engine.Work[Any]) -> Any:
        row: Breaker | None = await engine.repeated(
            service, work, within=service.config.enqueue_timeout
        )
        if row is not None:
            before, self._seen = self._seen, row
            if row.state == "open" and (before is None or before.state != "open"):
                logger.warning("The circuit breaker %s is open: %s", self.name, row.error)
            elif before is not None and before.state != "closed" and row.state == "closed":
                logger.info("The circuit breaker %s is closed again", self.name)
        return row


def breaker_named(name: str) -> CircuitBreaker:
    """The breaker of that name that this process has declared, or one as the database has it."""
    return _declared.get(name) or CircuitBreaker(name)


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME:
        raise ConfigurationError(
            f"A circuit breaker's name is text of at most {LONGEST_NAME} characters, not {name!r}."
        )
    reason = fault_of(name)
    if reason is not None:
        raise ConfigurationError(f"The circuit breaker's name {name!a}: {reason}.")
    return name


def _count(name: object, word: str, value: object) -> int | None:
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31
    ):
        raise ConfigurationError(
            f"CircuitBreaker({name!r}, {word}={value!r}): it must be 1 or more."
        )
    return value


def _seconds(name: object, value: Any) -> float | None:
    try:
        seconds = None if value is None else seconds_of(value)
    except ValueError as error:
        raise ConfigurationError(
            f"CircuitBreaker({name!r}, reset_timeout={value!r}): {error}."
        ) from None
    if seconds == 0:
        raise ConfigurationError(f"CircuitBreaker({name!r}, reset_timeout=0): it must be above 0.")
    return seconds
