"""What a route gets by `tasks: Tasks`: the three moments at which tasks may start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from fastedgy.errors import TaskMomentOver
from fastedgy.tasks.config import TaskConfig, TaskWords
from fastedgy.tasks.runner import Runner
from fastedgy.tasks.task import Task

P = ParamSpec("P")
T = TypeVar("T")


class TaskMaker:
    """`tasks.task(…)`: schedules tasks with these options, at the moment of what made it."""

    __slots__ = ("_config", "_scheduled")

    def __init__(self, config: TaskConfig, scheduled: Callable[[Task[..., Any]], None]) -> None:
        self._config = config
        self._scheduled = scheduled

    @overload
    def schedule(
        self, func: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[P, T]: ...
    @overload
    def schedule(
        self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[P, T]: ...
    def schedule(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task[..., Any]:
        """Like `Tasks.schedule`, with the options that this was made with."""
        task: Task[..., Any] = Task(func, args, kwargs, self._config)
        self._scheduled(task)
        return task


class TasksBatch:
    """`tasks.after_route` and `tasks.after_response`: tasks that start together when it is time."""

    __slots__ = ("_moment", "_over", "_scheduler", "scheduled")

    def __init__(self, scheduler: TasksScheduler, moment: str) -> None:
        self._scheduler = scheduler
        self._moment = moment
        self._over = False
        self.scheduled: list[Task[..., Any]] = []
        """The tasks so far."""

    @overload
    def schedule(
        self, func: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[P, T]: ...
    @overload
    def schedule(
        self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[P, T]: ...
    def schedule(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task[..., Any]:
        """Run `func(*args, **kwargs)` at this moment. Needs no await.

        Raises TaskMomentOver when it has passed, TaskBacklogFull, and for durable tasks what
        `QueuedTasks.add_task` raises.
        """
        task: Task[..., Any] = Task(func, args, kwargs, self._scheduler.config)
        self._schedule(task)
        return task

    def task(self, **options: Unpack[TaskWords]) -> TaskMaker:
        """Options for the tasks scheduled with what this returns: see `TaskConfig`."""
        return TaskMaker(self._scheduler.config.with_words(options), self._schedule)

    def _schedule(self, task: Task[..., Any]) -> None:
        if self._over:
            raise TaskMomentOver(task.name, self._moment)
        task._context = copy_context()
        task._moment = self._scheduler
        scheduler = self._scheduler
        if task.config.durable:
            scheduler.claim(task, now=False)
        scheduler.runner.call(scheduler.runner.reserve, task)
        self.scheduled.append(task)
        if task._claim is not None:
            task._claim.join_route()

    def _take(self) -> list[Task[..., Any]]:
        """The tasks of this moment, which is over now. They are given once."""
        if self._over:
            return []
        self._over = True
        return self.scheduled


class TasksScheduler:
    """Starts tasks in this process: now, after the route, or after the response.

    Immediate tasks run beside the route. `after_route` tasks have run their first statement before
    the response's first byte leaves, `after_response` tasks start after its last. A route that
    raises runs neither of the later two.
    """

    __slots__ = ("_awaiting", "after_response", "after_route", "config", "durable", "runner")

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.config = runner.config
        self.after_route = TasksBatch(self, "after_route")
        self.after_response = TasksBatch(self, "after_response")
        self.durable = False
        """Whether rows of this route's tasks are on their way."""
        self._awaiting = asyncio.current_task()

    @overload
    def schedule(
        self, func: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[P, T]: ...
    @overload
    def schedule(
        self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[P, T]: ...
    def schedule(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task[..., Any]:
        """Run `func(*args, **kwargs)` now, beside the route. Needs no await.

        Sync functions run in a thread. Raises TaskBacklogFull, and for durable tasks what
        `QueuedTasks.add_task` raises.
        """
        task: Task[..., Any] = Task(func, args, kwargs, self.config)
        self._schedule(task)
        return task

    def task(self, **options: Unpack[TaskWords]) -> TaskMaker:
        """Options for the tasks scheduled with what this returns: see `TaskConfig`."""
        return TaskMaker(self.config.with_words(options), self._schedule)

    def _schedule(self, task: Task[..., Any]) -> None:
        task._context = copy_context()
        if task.config.durable:
            self.claim(task, now=True)
        self.runner.call(self.runner.start, task)

    def claim(self, task: Task[..., Any], *, now: bool) -> None:
        """Give a task the row that makes it durable."""
        from fastedgy.tasks.durable import Claim, owner_of  # what plain tasks do without

        def claim(task: Task[..., Any]) -> None:
            task._claim = Claim(task, owner_of(self.runner))

        self.runner.call(claim, task)
        if not now:
            self.durable = True

    def is_awaited_by(self, task: Task[..., Any]) -> bool:
        """Whether the code that runs here is what the task waits for."""
        if task.state != "scheduled" or asyncio.current_task() is not self._awaiting:
            return False
        return not self.after_response._over

    # What the request says.

    async def _route_over(self) -> None:
        """The route has returned."""
        tasks = self.after_route._take()
        if tasks:
            await self.runner.start_before_response(tasks)

    def _response_over(self) -> None:
        """The response has been sent."""
        if not self.after_route._over:
            self._drop()
            return
        tasks = self.after_response._take()
        if tasks:
            self.runner.start_all(tasks)

    def _drop(self) -> None:
        """The route raised, or the connection broke: what was to follow does not."""
        runner = self.runner
        for batch in (self.after_route, self.after_response):
            if not batch._over:
                for task in batch._take():
                    runner.release(task)
                    runner.drop(task, "its route raised")
