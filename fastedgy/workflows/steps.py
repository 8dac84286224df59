"""`step`, `sleep`, `wait_for_event` and `send_event`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, overload

from asyncpg import Connection

from fastedgy.database import caller_transaction
from fastedgy.errors import InvalidStep
from fastedgy.models.tables import Tables
from fastedgy.queued_task.backoff import seconds_of
from fastedgy.queued_task.encoding import NotEncodable, dumps, excess, fault_of
from fastedgy.queued_tasks.service import QueuedTasks
from fastedgy.store import events
from fastedgy.store.claim import Lane
from fastedgy.store.notify import ring
from fastedgy.workflows import engine
from fastedgy.workflows.entry import journal_of

P = ParamSpec("P")
T = TypeVar("T")

LONGEST_KEY = 500


@overload
def step(
    name: str, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
) -> Awaitable[T]: ...


@overload
def step(name: str, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]: ...


def step(name: str, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
    """Make `func(*args, **kwargs)` a step of the running task: `await step("charge", charge, id)`.

    It is made once. Its result (JSON, rebuilt from the function's annotation) is stored, and a
    later run of the task gets it without calling the function. A step that failed is made again by
    the next run; if the task caught the failure and went on, it fails in that way for good. A step
    whose process died in the middle is made again: let its effect bear that (`idempotent`).

    What the function adds to the queue is written with its result, in one transaction. A sync
    function runs in a thread.

    Raises NotInTask, NotAsync, InvalidStep (a name that is taken, a step in a step, an open
    transaction) at once; awaited, StepsChanged when the steps that were done are others,
    StepResultNotStored, TaskTakenOver, and what the function raises.
    """
    journal = journal_of("step")
    return journal.make(journal.call(name, "step"), func, args, kwargs)


def sleep(duration: float | timedelta, *, name: str | None = None) -> Awaitable[None]:
    """Sleep for seconds or a timedelta, without a slot: the run ends, and another one goes on.

    Costs no attempt, survives everything, and is not slept again by a later run. Everything in the
    task outside of steps is run again. `name` tells it from others, which are numbered otherwise.

    Raises like `step`, and CannotWait in a task that no worker runs.
    """
    try:
        seconds = seconds_of(duration)
    except ValueError as error:
        raise InvalidStep(f"sleep({duration!r}): {error}.") from None
    journal = journal_of("sleep")
    call = journal.call(name or journal.unnamed("sleep"), "sleep")
    return journal.wait(call, event=None, seconds=seconds)


def wait_for_event(
    key: str, *, timeout: float | timedelta | None = None, name: str | None = None
) -> Awaitable[Any]:
    """Wait for an event, without a slot; returns what it was sent with.

    An event that was sent before counts. `timeout` is seconds or a timedelta from the first call
    on; without it the task waits until the event comes. Raises the built-in TimeoutError when the
    time is over (in later runs, too), and otherwise like `sleep`.
    """
    _check_key(key)
    try:
        seconds = None if timeout is None else seconds_of(timeout)
    except ValueError as error:
        raise InvalidStep(f"wait_for_event(timeout={timeout!r}): {error}.") from None
    journal = journal_of("wait_for_event")
    call = journal.call(name or journal.unnamed("wait"), "event")
    return journal.wait(call, event=key, seconds=seconds)


async def send_event(key: str, payload: Any = None) -> bool:
    """Send an event to all tasks that wait for it, now or later. True: it had not been sent before.

    An event is sent once: its first payload holds, and it is kept for `QUEUE_KEY_RETENTION_DAYS`.
    Inside an open transaction of the application's database it is sent with that. Works in routes,
    tasks, steps, and in scripts inside `async with QueuedTasks():`.

    Raises InvalidStep for a key or a payload that cannot be stored, NotConnected, NotAsync.
    """
    _check_key(key)
    service = engine.producer("send_event")
    try:
        text = dumps(payload)
    except NotEncodable as error:
        raise InvalidStep(f"The payload of the event {key!r} cannot be stored: {error}.") from None
    if too_much := excess(service.config.max_result_size, text):
        raise InvalidStep(f"The payload of the event {key!r} has {too_much}. Send where it is.")
    if service._in_transaction():
        async with caller_transaction(service._database) as connection:
            if connection is not None:
                channel = service._channels.control
                return await events.send(connection, service._tables, key, text, channel=channel)
    return await _send(service, key, text)


async def _send(service: QueuedTasks, key: str, text: str) -> bool:
    async def send(connection: Connection, tables: Tables) -> bool:
        new = await events.send(connection, tables, key, text, channel=None)
        # Also when it is not: whoever sent it may not have come this far.
        lanes: set[Lane] = await events.wake_for(connection, tables, key)
        await ring(connection, service._channels.tasks, lanes)
        return new

    return await engine.repeated(service, send, within=service.config.enqueue_timeout)


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not key.strip():
        raise InvalidStep(f"An event's key is text, as in 'paid:42', and not {key!r}.")
    if len(key) > LONGEST_KEY:
        raise InvalidStep(f"The event's key {key[:40]!r}… has more than {LONGEST_KEY} characters.")
    reason = fault_of(key)
    if reason is not None:
        raise InvalidStep(f"The event's key {key!a} cannot be stored: {reason}.")
