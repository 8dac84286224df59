"""`@task(breaker=…)`: a run that goes through its circuit breaker, or goes back at no cost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastedgy.errors import CircuitOpen
from fastedgy.queued_task.control import Snooze
from fastedgy.worker.running import Running
from fastedgy.worker.verdict import Misfit
from fastedgy.workflows.breaker import breaker_named


async def guarded(it: Running, name: str, call: Callable[[Running], Awaitable[Any]]) -> Any:
    """Run a task through the breaker of that name.

    Raises Snooze while that lets nobody through: the task waits, and no attempt is spent.
    """
    breaker = breaker_named(name)
    try:
        admission = await breaker.enter()
    except CircuitOpen as error:
        raise Snooze(error.retry_after, str(error)) from None
    try:
        value = await call(it)
    except BaseException as error:
        # Arguments that do not fit say nothing about the other side.
        told = Snooze(0) if isinstance(error, Misfit) else error
        await breaker.leave(admission, told)
        raise
    failed = TimeoutError("its time was over") if it.cancelling == "timeout" else None
    await breaker.leave(admission, failed)
    return value
