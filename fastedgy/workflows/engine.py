"""What the workflows need of the rooms below: the producer's connections, calls, and errors."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from asyncpg import Connection

from fastedgy.errors import NoOpenBuffer, NotAsync, NotConnected, StepFailed
from fastedgy.models.tables import Tables
from fastedgy.queued_task import failures
from fastedgy.queued_task.annotations import result_rebuilder
from fastedgy.queued_task.callables import call_in_thread
from fastedgy.queued_task.encoding import NotEncodable, dumps, excess, loads
from fastedgy.queued_task.running import TaskRun, current
from fastedgy.queued_tasks.buffer import Buffer, open_buffer, running_loop
from fastedgy.queued_tasks.scripts import open_producer
from fastedgy.queued_tasks.service import QueuedTasks
from fastedgy.store.outage import is_outage

T = TypeVar("T")
Work = Callable[[Connection, Tables], Awaitable[T]]

THREADS = 100
"""Sync functions that run in steps of this process at a time."""
LAST_WRITE = 5.0
"""Seconds that a write may go on for after its task was told to stop."""
LONGEST_MESSAGE = 2_000

in_step: ContextVar[str | None] = ContextVar("fastedgy_in_step", default=None)
"""The name of the step whose function is running here."""

_threads: ThreadPoolExecutor | None = None


def producer(word: str) -> QueuedTasks:
    """The application's producer, or that of the script that is open here.

    Raises NotConnected where there is none, NotAsync in a sync task: its thread has no part in the
    event loop that the connections belong to. What stands around the function has: the breaker of
    the task, middleware, hooks, and its error handler. `word` is what was called.
    """
    run = current.get()
    try:
        service = open_producer()
    except NoOpenBuffer:
        raise NotConnected(word) from None
    home = service._home
    if run is not None and (home is None or home.loop is not running_loop()):
        refuse_sync(word, run)
    return service


def refuse_sync(word: str, run: TaskRun) -> None:
    """Raise NotAsync in a sync task."""
    if run.sync:
        raise NotAsync(word, run.name)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise NotAsync(word, run.name) from None


async def repeated(service: QueuedTasks, work: Work[T], *, within: float | None = None) -> T:
    """Do `work` on a connection; again and again while the database is away.

    `within`: for so many seconds; then the error is raised. None: until it is back.
    """
    deadline = None if within is None else time.monotonic() + within
    pause = 0.05
    while True:
        try:
            async with service._connection() as connection:
                return await work(connection, service._tables)
        except Exception as error:
            if not is_outage(error):
                raise
            if deadline is not None and time.monotonic() + pause > deadline:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, 1.0)


async def to_the_end(work: Awaitable[T]) -> T:
    """Wait for a write that is worth finishing although the task was told to stop meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task], timeout=LAST_WRITE)
            task.cancel()
        elif not task.cancelled() and task.exception() is not None:
            raise task.exception() from None  # type: ignore[misc]
        raise


async def call(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, bool]:
    """Call a function with its services; a sync one in a thread.

    Returns what it returned, and whether the task was told to stop meanwhile: a thread cannot be
    stopped, so it is waited for, and what it has done counts.
    """
    kwargs = {**_services(func), **kwargs}
    if is_async(func):
        return await func(*args, **kwargs), False
    value, stopped = await _in_thread(functools.partial(func, *args, **kwargs))
    if inspect.isawaitable(value):
        if stopped:
            if inspect.iscoroutine(value):
                value.close()
            raise asyncio.CancelledError
        return await value, False
    return value, stopped


async def call_collecting(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, bool, Buffer]:
    """`call`, and what the function has added to the queue, to be written with its result."""
    added = Buffer()
    outer = open_buffer.set(added)
    try:
        value, stopped = await call(func, args, kwargs)
    except BaseException:
        added.drop()
        raise
    finally:
        open_buffer.reset(outer)
        added.closed = True
    return value, stopped, added


async def _in_thread(work: Callable[[], Any]) -> tuple[Any, bool]:
    global _threads
    if _threads is None:
        _threads = ThreadPoolExecutor(THREADS, thread_name_prefix="step")
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(_threads, copy_context().run, call_in_thread, work)
    stopped = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            stopped = True
    return future.result(), stopped


def is_async(func: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine."""
    while isinstance(func, functools.partial):
        func = func.func
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(
        getattr(func, "__call__", None)  # noqa: B004 - an object with an async __call__
    )


def _services(func: Callable[..., Any]) -> dict[str, Any]:
    """What the function asks for by `Inject`."""
    while isinstance(func, functools.partial):
        func = func.func
    defaults = [
        *(getattr(func, "__defaults__", None) or ()),
        *(getattr(func, "__kwdefaults__", None) or {}).values(),
    ]
    # Most functions have none, and need not import FastAPI.
    if all(type(one).__module__ == "builtins" for one in defaults) and "Inject" not in str(
        getattr(func, "__annotations__", "")
    ):
        return {}
    from fastedgy.dependencies import get_service, injected

    return {name: get_service(key) for name, key in injected(func).items()}


# Results.


def encode(value: Any, longest: int) -> str | None:
    """A result as it is stored: JSON, or None for None.

    Raises NotEncodable when it cannot be, or has more than `longest` bytes.
    """
    if value is None:
        return None
    text = dumps(value)
    if too_much := excess(longest, text):
        raise NotEncodable("", f"it has {too_much}")
    return text


def decode(text: str | None, func: Callable[..., Any] | None = None) -> Any:
    """A stored result, as the annotation of the function that returned it says; else plain JSON."""
    value = None if text is None else loads(text)
    if value is None or func is None:
        return value
    while isinstance(func, functools.partial):
        func = func.func
    rebuild = result_rebuilder(func)
    if rebuild is None:
        return value
    try:
        return rebuild(value)
    except ValueError:  # the function returned something else than it said
        return value


# Errors.


def message_of(error: BaseException) -> str:
    """What an exception says, as the rows of steps have it."""
    return failures.message_of(error, LONGEST_MESSAGE)


def rebuild_error(step: str, error_type: str, message: str) -> Exception:
    """The exception of an earlier run: of its own class where this process knows it.

    Its constructor is not called, so it has its message and no attributes of its own.
    """
    module, _, name = error_type.rpartition(".")
    found: Any = sys.modules.get(module or "builtins")
    if found is None and "." in module:  # a class in a class
        module, _, outer = module.rpartition(".")
        found = getattr(sys.modules.get(module), outer, None)
    kind = getattr(found, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            error = kind.__new__(kind, message)
            error.args = (message,)
            return error
        except Exception:  # a class that cannot be made like that
            return StepFailed(step, error_type, message)
    return StepFailed(step, error_type, message)
