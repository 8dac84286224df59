"""What follows a run before its outcome is given: what it has added, handlers and hooks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fastedgy.config import QueuedTaskConfig
from fastedgy.queued_task import hooks
from fastedgy.queued_task.running import TaskRun
from fastedgy.queued_tasks.buffer import Buffer
from fastedgy.queued_tasks.ref import QueuedTaskRef
from fastedgy.store.outage import is_outage
from fastedgy.store.outcomes import Standing
from fastedgy.worker.handlers import call_handler
from fastedgy.worker.running import Running
from fastedgy.worker.verdict import Misfit, Verdict, judge, tell

logger = logging.getLogger("fastedgy.worker")

_post_run = hooks.registered("post_run")
"""Empty as long as there are no hooks."""


class Afterwards:
    """Takes the verdict on a run to its end, in the slot of the run."""

    def __init__(self, config: QueuedTaskConfig, flush_added: Callable[[TaskRun], Any]) -> None:
        """`flush_added` writes what a task has added to the queue."""
        self._config = config
        self._flush_added = flush_added

    async def settle(self, it: Running, verdict: Verdict) -> Verdict:
        """The verdict after all that follows a run; part of that may turn it. Never raises."""
        if it.buffer is not None:
            verdict = await self._write_added(it, verdict)
        if type(verdict.outcome) is Standing:
            verdict = await self._stand(it, verdict, verdict.outcome)
        if verdict.kind == "failed":
            tell(it, verdict)
        if verdict.outcome.state == "failed" and verdict.error is not None:
            await call_handler(it, verdict.error, self._config)
        if _post_run:
            it.cancelling = it.cancelling or "finishing"
            try:
                await hooks.run_hooks("post_run", it, result=verdict.value, error=verdict.error)
            except BaseException:
                logger.exception("A post-run hook of %s could not end", it.name)
        if it.buffer is not None and (it.buffer.tasks or it.buffer.cancellations):
            await self._write_late(it)
        return verdict

    async def _write_added(self, it: Running, verdict: Verdict) -> Verdict:
        """Write what the task has added to the queue, if it is done; else nobody wants it."""
        if verdict.kind != "done":
            it.buffer.drop()
            return verdict
        it.cancelling = it.cancelling or "finishing"
        try:
            await self._flush_added(it)
        except BaseException as error:
            it.buffer.drop()
            if not is_outage(error):
                it.cancelling = None
            return judge(it, error, self._config)
        return verdict

    async def _write_late(self, it: Running) -> None:
        """What the error handler or a hook has added goes out whatever became of the task."""
        late = Buffer()  # nothing that the task itself has begun is waited for
        late.take_over(it.buffer)
        it.buffer = late
        it.cancelling = it.cancelling or "finishing"
        try:
            await self._flush_added(it)
        except BaseException:
            logger.exception("What was added after %s had ended is lost", it.label)

    async def _stand(self, it: Running, verdict: Verdict, outcome: Standing) -> Verdict:
        """Find out which task was returned. It has a row before another one waits for it."""
        it.cancelling = it.cancelling or "finishing"
        try:
            meant = verdict.value.__queued_task__()
            if not isinstance(meant, QueuedTaskRef):
                raise Misfit(
                    "A task can return one task, whose result becomes its own. For the results of "
                    "several, return one that takes them: tasks.add_task(combine, group).",
                    "InvalidResult",
                )
            outcome.by = await meant.get_task_id()
        except BaseException as error:
            if not is_outage(error):
                it.cancelling = None
            return judge(it, error, self._config)
        return verdict
