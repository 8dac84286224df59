"""`idempotent`: an effect that happens once, whoever asks for it how often."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar, overload
from uuid import UUID

from asyncpg import Connection

from fastedgy.errors import InvalidStep, NotInTask, StepResultNotStored, TaskTakenOver
from fastedgy.models.tables import Tables
from fastedgy.queued_task.encoding import NotEncodable, fault_of
from fastedgy.queued_task.running import TaskRun, current
from fastedgy.queued_tasks.buffer import Buffer
from fastedgy.queued_tasks.service import QueuedTasks
from fastedgy.store import keys
from fastedgy.workflows import engine

P = ParamSpec("P")
T = TypeVar("T")

LONGEST_KEY = 500
DAY = 86_400.0

_asking: dict[tuple[UUID, int, str], asyncio.Event] = {}
"""Who makes an effect here at this moment, or asks for its key: task, run and key, with what tells
of the end. The table does not tell two calls of one run from a call whose answer was lost."""


@overload
def idempotent(
    key: str, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
) -> Awaitable[T]: ...


@overload
def idempotent(
    key: str, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> Awaitable[T]: ...


def idempotent(key: str, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
    """Call `func(*args, **kwargs)` unless that was done under this key: then its stored result.

    `await idempotent(f"charge:{order_id}", charge, order_id)`, in any task: the key counts in the
    whole queue, for `QUEUE_KEY_RETENTION_DAYS` after the effect. Somebody who comes while it is
    being made waits for it. A call that raised, or whose process died, has not been made: the next
    one makes it. What the function adds to the queue is written with its result.

    Raises NotInTask, NotAsync, InvalidStep at once; awaited, StepResultNotStored when what the
    effect returned could not be stored, TaskTakenOver, and what the function raises.
    """
    run = current.get()
    if run is None:
        raise NotInTask("idempotent")
    service = engine.producer("idempotent")
    _check(key)
    if service._in_transaction():
        raise InvalidStep(
            f"idempotent({key!r}) was called inside an open transaction. It is remembered at once "
            "and by itself, also if that transaction is undone: open it in the function."
        )
    return _Effect(service, run, key).make(func, args, kwargs)


class _Effect:
    """One key, as one run asks for it."""

    def __init__(self, service: QueuedTasks, run: TaskRun, key: str) -> None:
        self._service = service
        self._run = run
        self._key = key
        self._keep = service.config.key_retention_days * DAY

    async def make(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        mine = (self._run.id, self._run.run, self._key)
        while (other := _asking.get(mine)) is not None:
            await other.wait()
        over = _asking[mine] = asyncio.Event()
        try:
            return await self._make(func, args, kwargs)
        finally:
            del _asking[mine]
            over.set()

    async def _make(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        pause = 0.05
        while not await self._take():
            held = await engine.repeated(
                self._service,
                lambda connection, tables: keys.read(
                    connection, tables, self._key, task_id=self._run.id, run=self._run.run
                ),
            )
            if not held.claimed:
                raise self._taken_over()
            if held.state == "done":
                return self._given(held.result, func)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)
        try:
            value, stopped, added = await engine.call_collecting(func, args, kwargs)
        except BaseException:
            await engine.to_the_end(self._free())
            raise
        text, why = self._encoded(value)
        await engine.to_the_end(self._fill(text, added))
        if stopped:
            raise asyncio.CancelledError
        if why is not None:
            raise StepResultNotStored(self._key, why)
        return self._given(text, func)

    def _encoded(self, value: Any) -> tuple[str | None, str | None]:
        """The result as JSON (`null` for None), or else why it cannot be stored."""
        try:
            return engine.encode(value, self._service.config.max_result_size) or "null", None
        except NotEncodable as error:
            return None, str(error)
        except Exception as error:  # `default` methods and models are the task's own code
            return None, engine.message_of(error)

    def _given(self, text: str | None, func: Callable[..., Any]) -> Any:
        if text is None:
            raise StepResultNotStored(self._key, "see the logs of the task that made it")
        return engine.decode(text, func)

    async def _take(self) -> bool:
        return await engine.repeated(
            self._service,
            lambda connection, tables: keys.take(
                connection, tables, self._key, task_id=self._run.id, run=self._run.run,
                keep=self._keep,
            ),
        )  # fmt: skip

    async def _fill(self, text: str | None, added: Buffer) -> None:
        async def fill(connection: Connection, tables: Tables) -> bool:
            return await keys.fill(
                connection, tables, self._key, task_id=self._run.id, run=self._run.run,
                result=text, keep=self._keep,
            )  # fmt: skip

        if not added:
            if not await engine.repeated(self._service, fill):
                raise self._taken_over()
            return
        try:
            # Not repeated while the database is away: the effect then counts as not made.
            async with self._service._connection() as connection, connection.transaction():
                if not await fill(connection, self._service._tables):
                    raise self._taken_over()
                await self._service._write(added, connection)
        except BaseException:
            added.drop()
            raise

    async def _free(self) -> None:
        await engine.repeated(
            self._service,
            lambda connection, tables: keys.free(
                connection, tables, self._key, task_id=self._run.id, run=self._run.run
            ),
            within=engine.LAST_WRITE,
        )

    def _taken_over(self) -> TaskTakenOver:
        return TaskTakenOver(f"{self._run.name} ({self._run.id})")


def _check(key: object) -> None:
    if not isinstance(key, str) or not key.strip():
        raise InvalidStep(f"An idempotency key is text, as in 'charge:42', and not {key!r}.")
    if len(key) > LONGEST_KEY:
        raise InvalidStep(f"The key {key[:40]!r}… has more than {LONGEST_KEY} characters.")
    reason = fault_of(key)
    if reason is not None:
        raise InvalidStep(f"The key {key!a} cannot be stored: {reason}.")
