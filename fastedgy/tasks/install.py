"""`add_tasks` and `Tasks`: in-process tasks in an application, and in its routes."""

# FastAPI reads the annotations of what it calls. Those of an object cannot be text, so this module
# does without `from __future__ import annotations`.

import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast, get_type_hints
from weakref import WeakKeyDictionary

from fastapi import Depends, FastAPI, params
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from fastedgy.dependencies import has_service
from fastedgy.dependencies.injection import RouteService
from fastedgy.dependencies.route import GUEST, Route, open_route
from fastedgy.errors import ConfigurationError, FastAPITasksUninitializedAppError
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.tasks.config import TaskConfig
from fastedgy.tasks.runner import Runner
from fastedgy.tasks.scheduler import TasksScheduler


class Installed:
    """In-process tasks of one application; `runner` is there while it runs."""

    def __init__(self, config: TaskConfig) -> None:
        self.config = config
        self.runner: Runner | None = None


_installed: WeakKeyDictionary[FastAPI, Installed] = WeakKeyDictionary()


def add_tasks(app: FastAPI, *, config: TaskConfig | None = None) -> None:
    """Give an application in-process tasks, with the defaults of `config`.

    Call it once, right after the application was made, whose lifespan stays as it is: its resources
    are there before the first task and after the last. Raises ConfigurationError the second time,
    and for a FastEdgy, which has tasks from the start.
    """
    if app in _installed:
        raise ConfigurationError(
            "This application has in-process tasks already. Call add_tasks(app) once; a FastEdgy "
            "has them from the start, and their defaults are FastEdgy(tasks=TaskConfig(…))."
        )
    if app.middleware_stack is not None:
        raise ConfigurationError(
            "add_tasks(app) came too late: the application has been started. Call it right after "
            "the application was made."
        )
    installed = _installed[app] = Installed(config or TaskConfig())
    # The innermost one: a response is over for it as soon as the route's own is.
    app.user_middleware.append(Middleware(TasksMiddleware, installed=installed))
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with inner(app) as state:
            runner = installed.runner = Runner(installed.config)
            try:
                yield state
            finally:
                try:
                    await runner.close()
                finally:
                    installed.runner = None

    app.router.lifespan_context = cast(Lifespan[Any], lifespan)


def runner_of(app: FastAPI) -> Runner:
    """The runner of an application that runs. Raises FastAPITasksUninitializedAppError."""
    installed = _installed.get(app)
    if installed is None or installed.runner is None:
        raise FastAPITasksUninitializedAppError
    return installed.runner


class Request:
    """One request: what the middleware and the route know of its tasks."""

    __slots__ = ("runner", "scheduler")

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.scheduler: TasksScheduler | None = None

    async def begin(self, route: Route) -> TasksScheduler:
        """The scheduler of this request; where there is a queue, the route is open for it."""
        if self.scheduler is None:
            self.scheduler = TasksScheduler(self.runner)
        if has_service(QueuedTasks):
            await route.open(QueuedTasks)
        return self.scheduler

    async def ending(self) -> None:
        """Before durable tasks become rows: their owner is one."""
        scheduler, owner = self.scheduler, self.runner.owner
        if scheduler is not None and scheduler.durable and owner is not None:
            await owner.registered()

    async def over(self) -> None:
        """Start what was to start after the route."""
        if self.scheduler is not None:
            await self.scheduler._route_over()

    def drop(self) -> None:
        """Forget what was scheduled."""
        if self.scheduler is not None:
            self.scheduler._drop()


class TasksMiddleware:
    """Knows when a response has been sent."""

    def __init__(self, app: ASGIApp, installed: Installed) -> None:
        self.app = app
        self.installed = installed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request, and then start its `after_response` tasks."""
        runner = self.installed.runner
        if runner is None:  # mounted (then the tasks are those of the outer one), or the lifespan
            await self.app(scope, receive, send)
            return
        request = scope[GUEST] = Request(runner)
        try:
            await self.app(scope, receive, send)
        except BaseException:
            request.drop()
            raise
        if request.scheduler is not None:
            request.scheduler._response_over()


def in_each_route() -> Any:
    """A dependency for an application with tasks: all its routes have them, and the queue."""
    return Depends(open_route, scope="function")


class TasksRoute(APIRoute):
    """A route of an application with tasks, which opens once.

    One that asks for `Tasks` or `Inject(QueuedTasks)` first does without `in_each_route`: FastAPI
    solves a dependency anew for each place where it is asked for, which takes longer than a task.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        dependencies: Sequence[params.Depends] | None = None,
        **options: Any,
    ) -> None:
        asked = [each.dependency for each in dependencies or ()]
        if asked == [open_route]:
            first = _first_asked(endpoint)
            if first is open_route or isinstance(first, RouteService):
                dependencies = None
        super().__init__(path, endpoint, dependencies=dependencies, **options)


def _first_asked(endpoint: Callable[..., Any]) -> Callable[..., Any] | None:
    """The first dependency of a route's function, as far as its signature can be read."""
    try:
        hints = get_type_hints(endpoint, include_extras=True)
        parameters = inspect.signature(endpoint).parameters
    except (TypeError, ValueError, NameError, AttributeError):
        return None
    for name, parameter in parameters.items():
        for each in (parameter.default, *getattr(hints.get(name), "__metadata__", ())):
            if isinstance(each, params.Depends):
                return each.dependency
    return None


Tasks = Annotated[TasksScheduler, Depends(open_route, scope="function")]
"""A route's in-process tasks: `async def create(order: Order, tasks: Tasks)`."""
