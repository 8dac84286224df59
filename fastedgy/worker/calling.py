"""How the function of a claimed task is called: with which arguments, and where it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any

from fastedgy.errors import InvalidArguments, TaskOutcomeError
from fastedgy.queued_task import hooks
from fastedgy.queued_task.callables import call_in_thread
from fastedgy.queued_task.encoding import loads
from fastedgy.queued_task.functions import TaskFunction
from fastedgy.worker.results import Results
from fastedgy.worker.running import Running
from fastedgy.worker.verdict import Misfit

_pre_run = hooks.registered("pre_run")
"""Empty as long as there are no such hooks: looked at for every task."""


class Caller:
    """Calls functions: async ones here, sync ones in one of `concurrency` threads."""

    def __init__(self, concurrency: int, results: Results) -> None:
        """`results`: where those of parents come from."""
        self._concurrency = concurrency
        self._results = results
        self._loop = asyncio.get_running_loop()
        self._threads: ThreadPoolExecutor | None = None
        self._bare: set[TaskFunction] = set()

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
            self._threads, context.run, call_in_thread, partial(target.call, *args, **kwargs)
        )
        if asyncio.iscoroutine(result):  # a sync function that returned one, a lambda for instance
            return await result
        return result

    async def _with_results(
        self, it: Running, run_anyway: bool
    ) -> tuple[list[Any], dict[str, Any]]:
        try:
            args, kwargs = await self._results.arguments(
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
        if not args and not kwargs and not it.target.is_closure:  # of those each run has its own
            self._bare.add(it.target)
        return args, kwargs
