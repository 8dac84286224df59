"""Performing a task: its attempts, its error handler, and what it leaves behind."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import anyio.to_thread
from fastapi.params import Depends

from fastedgy.dependencies import get_service, has_service, injected
from fastedgy.errors import TaskCancelled, TaskFailed
from fastedgy.queued_task.control import Discard, Retry
from fastedgy.queued_task.running import current
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.queued_tasks.buffer import Buffer, open_buffer
from fastedgy.tasks.task import CO_COROUTINE, is_async

if TYPE_CHECKING:
    from fastedgy.tasks.task import Task

logger = logging.getLogger("fastedgy.tasks")

OVER = Buffer(closed=True)
"""In place of the buffer of a task that is over: what its stray code adds goes out by itself."""

_simple: WeakKeyDictionary[FunctionType, bool] = WeakKeyDictionary()
"""Whether a function is async and asks for nothing to be injected."""

_handling: ContextVar[bool] = ContextVar("fastedgy_handling", default=False)
"""Whether an error handler runs here, so that `await task()` tries again and raises."""


async def perform(task: Task[..., Any]) -> None:
    """Run a task to its end in the asyncio task that was made for it. Raises nothing."""
    open_buffer.set(None)  # what it adds to the queue is its own, whatever becomes of the route
    run = task.run
    current.set(run)
    claim = task._claim
    if claim is not None:
        if not await claim.ready():
            return
        task._began = time.monotonic()  # not before its row is there
    task._begin()
    try:
        if claim is None and _is_simple(task):
            value = await task.func(*task.args, **task.kwargs)
            if run.buffer:
                await get_service(QueuedTasks)._write(run.buffer)
        else:
            value = await attempts(task)
    except asyncio.CancelledError as error:
        _cancelled(task, error)
    except Exception as error:
        await _failed(task, error)
    except BaseException as error:
        # SystemExit or KeyboardInterrupt of the task's own: in asyncio these would end the server.
        _log_failure(task, error)
        failure = TaskFailed(
            id=run.id, name=task.name, error_type=type(error).__name__, error_message=str(error),
            traceback=None,
        )  # fmt: skip
        task._settle("failed", error=failure)
        if claim is not None:
            claim.failed(error)
    else:
        task._settle("done", value)
        if claim is not None:
            claim.done(value)
    run.buffer = OVER


def _is_simple(task: Task[..., Any]) -> bool:
    """Whether there is nothing to do but to call it: the usual case, on the shortest way."""
    config, func = task.config, task.func
    if config.timeout is not None or config.retries or type(func) is not FunctionType:
        return False
    simple = _simple.get(func)
    if simple is None:
        simple = bool(func.__code__.co_flags & CO_COROUTINE) and not _may_inject(func)
        _simple[func] = simple
    return simple


async def by_hand(task: Task[..., Any]) -> Any:
    """`await task()`: see there."""
    token, buffer = current.set(task.run), open_buffer.set(None)
    try:
        if _handling.get():
            return await attempt(task)
        try:
            return await attempts(task)
        except Exception as error:
            _log_failure(task, error)
            await handle(task, error)
            return None
    finally:
        current.reset(token)
        open_buffer.reset(buffer)


async def attempts(task: Task[..., Any]) -> Any:
    """Call the function until it returns or there are no retries left. Raises the last error."""
    config, run = task.config, task.run
    retries = config.retries or 0
    while True:
        try:
            return await attempt(task)
        except Exception as error:
            if run.attempt > retries or isinstance(error, Discard) or _is_not_retried(task, error):
                raise
            delay = _delay(task, error)
            if task._counts is not None:
                task._counts.retried += 1
            logger.warning(
                "The in-process task %s failed (attempt %d of %d), again in %.3g s: %s: %s",
                task.name, run.attempt, retries + 1, delay, type(error).__name__, error,
            )  # fmt: skip
        await asyncio.sleep(delay)
        run.attempt += 1


async def attempt(task: Task[..., Any]) -> Any:
    """Call the function once, within its time limit, and write what it added to the queue."""
    run = task.run
    run.buffer = None
    try:
        value = await _in_time(task)
    except BaseException:
        if run.buffer:
            run.buffer.drop()
        raise
    if run.buffer:
        await get_service(QueuedTasks)._write(run.buffer)
    return value


async def _in_time(task: Task[..., Any]) -> Any:
    seconds = task.config.seconds
    if seconds is None:
        value = await _call(task, task.func, task.args, task.kwargs)
    else:
        try:
            async with asyncio.timeout(seconds) as limit:
                value = await _call(task, task.func, task.args, task.kwargs)
        except TimeoutError as error:
            if not limit.expired():
                raise
            if task._counts is not None:
                task._counts.timeouts += 1
            raise TimeoutError(f"{task.name} did not end within {seconds:g} s.") from error
    return value


async def handle(task: Task[..., Any], error: Exception) -> None:
    """Call the task's error handler. What goes wrong in it is logged."""
    handler: Any = task.config.on_error
    if handler is None:
        return
    run = task.run
    run.buffer = None
    token = _handling.set(True)
    try:
        await _call(task, handler, (task, error), {})
        if run.buffer and has_service(QueuedTasks):
            await get_service(QueuedTasks)._write(run.buffer)
    except asyncio.CancelledError:
        if task._stopping is not None:
            raise
        logger.warning("The error handler of %s cancelled itself", task.name)
    except BaseException:
        logger.exception("The error handler of the in-process task %s failed", task.name)
    finally:
        _handling.reset(token)


def _cancelled(task: Task[..., Any], error: BaseException) -> None:
    """It was told to stop, or raised CancelledError by itself."""
    stopping = task._stopping
    run = task.run
    if run.buffer:
        run.buffer.drop()
    if stopping is None:
        _log_failure(task, error)
    reason = {
        None: "it raised CancelledError",
        "shutdown": "the application shut down",
        "interrupt": "its process could not renew its lease",
        "cancel": "on request",
    }[stopping]
    task._settle("cancelled", error=TaskCancelled(id=run.id, name=task.name, reason=reason))
    if task._claim is not None:
        task._claim.cancelled(stopping, error)


async def _failed(task: Task[..., Any], error: Exception) -> None:
    if task.run.buffer:
        task.run.buffer.drop()
    claim = task._claim
    if claim is not None and claim.goes_elsewhere(error):
        task._settle("cancelled", error=error)
        claim.failed(error)
        return
    _log_failure(task, error)
    task._settle("failed", error=error)
    try:
        await handle(task, error)
    except asyncio.CancelledError as stop:  # the application stopped first
        if claim is not None:
            claim.cancelled(task._stopping, stop)
        return
    if claim is not None:
        claim.failed(error)


def _log_failure(task: Task[..., Any], error: BaseException) -> None:
    logger.error("The in-process task %s failed", task.name, exc_info=error)


def _is_not_retried(task: Task[..., Any], error: Exception) -> bool:
    return task._claim is not None and not task._claim.retries(error)


def _delay(task: Task[..., Any], error: Exception) -> float:
    if isinstance(error, Retry) and error.after is not None:
        return error.after
    try:
        return task.config.delay_before_retry(task.run.attempt)
    except Exception:
        logger.exception("The back-off of %s failed", task.name)
        return 1.0


async def _call(
    task: Task[..., Any], func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    services = _services(func)
    if services:
        kwargs = {**services, **kwargs}
    if is_async(func):
        return await func(*args, **kwargs)
    result = await _in_thread(task, partial(func, *args, **kwargs))
    if inspect.isawaitable(result):  # a sync function that returned one, a lambda for instance
        return await result
    return result


async def _in_thread(task: Task[..., Any], call: Callable[[], Any]) -> Any:
    told = task._in_thread
    if told is not None:
        task._in_thread = None
        call = partial(_tell_and_call, told, asyncio.get_running_loop(), call)
    runner = task._runner
    threads = None if runner is None else runner.threads
    try:
        # It ends with its caller only if nobody waits for it: shielded tasks are not cancelled.
        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=threads)
    except asyncio.CancelledError:
        logger.warning(
            "%s is a sync function: it was given up, but its thread goes on until it ends",
            task.name,
        )
        raise


def _tell_and_call(
    told: asyncio.Future[None], loop: asyncio.AbstractEventLoop, call: Callable[[], Any]
) -> Any:
    loop.call_soon_threadsafe(_set, told)
    return call()


def _set(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_result(None)


def _services(func: Any) -> dict[str, Any]:
    """What `Inject(…)` in its signature asks for. Most functions have none, and pay nothing."""
    if type(func) is FunctionType and not _may_inject(func):
        return {}
    keys = injected(func) if inspect.isroutine(func) else {}
    return {name: get_service(key) for name, key in keys.items()}


def _may_inject(func: FunctionType) -> bool:
    if func.__defaults__ and any(isinstance(value, Depends) for value in func.__defaults__):
        return True
    if func.__kwdefaults__ and any(
        isinstance(value, Depends) for value in func.__kwdefaults__.values()
    ):
        return True
    for annotation in func.__annotations__.values():
        if "Inject" in annotation if isinstance(annotation, str) else (
            hasattr(annotation, "__metadata__")
        ):  # fmt: skip
            return True
    return False
