"""How the function of a claimed task is called: with which arguments, and where it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any
from uuid import UUID

from fastedgy.errors import InvalidArguments, TaskOutcomeError
from fastedgy.queued_task import hooks
from fastedgy.queued_task.encoding import loads
from fastedgy.queued_task.functions import TaskFunction
from fastedgy.worker.results import Read, Results
from fastedgy.worker.running import Running
from fastedgy.worker.verdict import Misfit

_pre_run = hooks.registered("pre_run")
"""Empty as long as there are no such hooks: looked at for every task."""


async def _read_nothing(ids: list[UUID]) -> Read:
    return {}, None


async def _read_nothing_plain(ids: list[UUID]) -> str | None:
    return None


class Caller:
    """Calls functions: async ones here, sync ones in one of `concurrency` threads.

    `results` is where the results of parents come from.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._loop = asyncio.get_running_loop()
        self._threads: ThreadPoolExecutor | None = None
        self._bare: set[TaskFunction] = set()
        self.results = Results(_read_nothing, _read_nothing_plain)

    async def call(self, it: Running) -> Any:
        """What the function returns. Raises what it raises, and Misfit where it cannot be called
        with what the row says.
        """
        target = it.target
        args: Sequence[Any]
        kwargs: dict[str, Any]
        if it.args == "[]" and it.kwargs == "{}" and target in self._bare:
            args, kwargs = (), {}
        elif it.extra is not None and it.extra.takes_results:
            args, kwargs = await self._with_results(it, it.extra.run_anyway)
        else:
            args, kwargs = self._arguments(it)
        if target.injected:
            kwargs = {**kwargs, **target.services()}
        if _pre_run:
            await hooks.run_hooks("pre_run", it)
        if target.is_async:
            return await target.call(*args, **kwargs)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="task")
        context = copy_context()
        result = await self._loop.run_in_executor(
            self._threads, context.run, _call_in_thread, target.call, args, kwargs
        )
        if asyncio.iscoroutine(result):  # a sync function that returned one, a lambda for instance
            return await result
        return result

    async def _with_results(
        self, it: Running, run_anyway: bool
    ) -> tuple[list[Any], dict[str, Any]]:
        try:
            args, kwargs = await self.results.arguments(
                it.name, it.args, it.kwargs, run_anyway=run_anyway
            )
            return it.target.rebuild(args, kwargs)
        except InvalidArguments as error:
            raise Misfit(str(error)) from None
        except TaskOutcomeError as error:
            raise Misfit(str(error), type(error).__name__) from None

    def _arguments(self, it: Running) -> tuple[list[Any], dict[str, Any]]:
        try:
            args, kwargs = it.target.rebuild(
                [] if it.args == "[]" else loads(it.args),
                {} if it.kwargs == "{}" else loads(it.kwargs),
            )
        except InvalidArguments as error:
            raise Misfit(str(error)) from None
        if not args and not kwargs:
            self._bare.add(it.target)
        return args, kwargs


def _call_in_thread(call: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    try:
        return call(*args, **kwargs)
    except StopIteration as error:
        # No future takes one: it would be lost on its way out of the thread, and the task not end.
        raise RuntimeError("the function raised StopIteration") from error
