"""The application: `FastEdgy`, a FastAPI whose lifespan connects the database and opens the queue.

`install_queue` gives the same to a plain FastAPI, `running` to commands, workers and scripts.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload
from weakref import WeakSet

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse
from starlette.types import Lifespan

from fastedgy import database, migrate
from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.connections import Connections
from fastedgy.database import bound, connect, resolve_url
from fastedgy.dependencies import Token, get_container_service, offer_route
from fastedgy.discovery import app_packages
from fastedgy.errors import (
    BreakerNotFound,
    ConfigurationError,
    FastEdgyError,
    ScheduleNotFound,
    TaskNotFound,
)
from fastedgy.queued_task import tracing
from fastedgy.queued_task.offered import offer
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.scheduler.reconcile import reconcile
from fastedgy.tasks import TaskConfig, add_tasks
from fastedgy.tasks.install import TasksRoute, in_each_route

if TYPE_CHECKING:
    from fastedgy.admin import QueueAdmin
    from fastedgy.admin.auth import QueueAuth
    from fastedgy.admin.live import Live
    from fastedgy.orm import Database, Registry

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Given:
    """What code gave. Settings that are None come from the container, or the environment."""

    settings: Settings | None = None
    queue: QueuedTaskConfig | None = None
    announce: Callable[[str], None] | None = None

    def services(self) -> dict[Any, Any]:
        known = {Settings: self.settings, QueuedTaskConfig: self.queue}
        return {key: value for key, value in known.items() if value is not None}


_installed: WeakSet[FastAPI] = WeakSet()
_given_to_running: ContextVar[_Given | None] = ContextVar("fastedgy_given", default=None)
_answers: ContextVar[bool] = ContextVar("fastedgy_answers", default=True)


class FastEdgy(FastAPI):
    """A FastAPI application with the queue, Edgy and the container of services.

    `settings` and `queue` take the place of what the environment says, `tasks` are the defaults of
    in-process tasks; everything else is FastAPI's. `admin` mounts the queue's API and dashboard for
    those that it lets in (see `fastedgy.admin.queue_router`): by default for the tokens of
    QUEUE_ADMIN_TOKEN and QUEUE_ADMIN_READ_TOKEN, where one is set; False: never; True: an
    AdminClosed error where none is; in worker processes, never. While the application runs,
    `Inject(QueuedTasks)`, `Inject(QueueAdmin)`, `Inject(Database)`, `Inject(Registry)`,
    `Inject(Settings)` and `Inject(QueuedTaskConfig)` are its services.

    A route that raises TaskNotFound, ScheduleNotFound or BreakerNotFound answers 404 with the
    error's text as `detail`, unless the application has an exception handler for that class.

    The start fails with DatabaseUnavailable, SchemaOutdated and their like. The lifespan given to
    it runs within: the database is there before it starts and after it ends.
    """

    def __init__(
        self,
        *,
        settings: Settings | None = None,
        queue: QueuedTaskConfig | None = None,
        tasks: TaskConfig | None = None,
        admin: bool | QueueAuth | Callable[..., Any] | None = None,
        **options: Any,
    ) -> None:
        # First in, so last out: everything that the route's own dependencies add is written, too.
        options["dependencies"] = [in_each_route(), *(options.get("dependencies") or ())]
        super().__init__(**options)
        self.router.route_class = TasksRoute
        add_tasks(self, config=tasks)
        _wrap_lifespan(self, _Given(settings, queue))
        _answer_not_found(self)
        _mount_admin(self, admin, queue)

    @property
    def database(self) -> Database:
        """The database that Edgy uses: `async with app.database.transaction(): …`.

        Connected while the application runs.
        """
        return database.registry.database

    @property
    def registry(self) -> Registry:
        """Edgy's registry, which all models of `fastedgy.orm` belong to."""
        return database.registry

    def register_service(self, service: Any, key: Any = None, *, force: bool = False) -> None:
        """The same as `fastedgy.dependencies.register_service`."""
        get_container_service().register(service, key, force=force)

    register = register_service

    def has_service(self, key: Any) -> bool:
        """The same as `fastedgy.dependencies.has_service`."""
        return get_container_service().has(key)

    @overload
    def get_service(self, key: Token[T]) -> T: ...
    @overload
    def get_service(self, key: type[T]) -> T: ...
    def get_service(self, key: Any) -> Any:
        """The same as `fastedgy.dependencies.get_service`."""
        return get_container_service().get(key)


def install_queue(
    app: FastAPI, *, settings: Settings | None = None, queue: QueuedTaskConfig | None = None
) -> None:
    """Give a plain FastAPI application what a FastEdgy one has, from its next start on.

    Call it right after the application was made: routes that were added before do have
    `Inject(QueuedTasks)`, but `get_service(QueuedTasks)` does not know that it is in a route there.
    Raises ConfigurationError when the application has the queue already.
    """
    if app in _installed:
        raise ConfigurationError(
            "This application has the queue already. Call install_queue(app) once, and not for a "
            "FastEdgy, which has it from the start."
        )
    app.router.dependencies.insert(0, offer_route(QueuedTasks))
    _wrap_lifespan(app, _Given(settings, queue))
    _answer_not_found(app)


@asynccontextmanager
async def running(
    app: FastAPI | None = None,
    *,
    settings: Settings | None = None,
    queue: QueuedTaskConfig | None = None,
    announce: Callable[[str], None] | None = None,
) -> AsyncIterator[QueuedTasks]:
    """An application as it runs under a server, with its whole lifespan, but without HTTP.

    Without `app`, only the queue and the database are there. `settings` and `queue` go before those
    of the application; `announce` gets one line when the embedded Postgres is used. Raises what its
    start raises.
    """
    given = _Given(settings, queue, announce)
    if app is None or app not in _installed:
        async with _services(given) as tasks:
            if app is None:
                await _ready(tasks)
                yield tasks
                return
            async with app.router.lifespan_context(app):
                offer(app_packages(app))
                await _ready(tasks)
                yield tasks
        return
    token = _given_to_running.set(given)
    try:
        async with app.router.lifespan_context(app):
            yield get_container_service().get(QueuedTasks)
    finally:
        _given_to_running.reset(token)


@contextmanager
def without_http() -> Iterator[None]:
    """In this block applications are made that nobody sends requests to: those of workers.

    They do without the admin's API and pages, which take 0.8 s and 16 MB to load.
    """
    token = _answers.set(False)
    try:
        yield
    finally:
        _answers.reset(token)


def _wrap_lifespan(app: FastAPI, given: _Given) -> None:
    inner = app.router.lifespan_context
    for service in given.services().values():
        get_container_service().suggest(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        over = _given_to_running.get() or _Given(announce=_announce)
        now = _Given(over.settings or given.settings, over.queue or given.queue, over.announce)
        async with _services(now) as tasks, inner(app) as state:
            offer(app_packages(app))
            await _ready(tasks)
            yield state

    app.router.lifespan_context = cast(Lifespan[Any], lifespan)
    _installed.add(app)


@asynccontextmanager
async def _services(given: _Given) -> AsyncIterator[QueuedTasks]:
    """The services of a running application, registered; closed in reverse, the queue first."""
    container = get_container_service()
    with container.lend(given.services()):
        settings, config = container.get(Settings), container.get(QueuedTaskConfig)
        if config.traces:
            tracing.instrument()
        url = await resolve_url(settings, announce=given.announce)
        # The first connection, for its errors: databasez' own would not say what to do.
        first = await connect(url, timeout=settings.database_connect_timeout)
        await first.close()
        async with bound(url, settings, pooler=not config.use_postgresql_notify):
            connections = Connections(url, settings, config)
            tasks = QueuedTasks(connections, config, in_application=True)
            lookout = _Lookout(Connections(url, settings, config), config)
            services = {
                Settings: settings,
                QueuedTaskConfig: config,
                Connections: connections,
                QueuedTasks: tasks,
                # By name: to import them takes 0.4 s and 31 MB, and hardly any worker asks for one.
                "databasez:Database": lambda: database.registry.database,
                "edgy.core.connection:Registry": lambda: database.registry,
                "fastedgy.admin.service:QueueAdmin": lambda: lookout.admin,
                "fastedgy.admin.live:Live": lambda: lookout.live,
            }
            with container.lend(services):
                try:
                    yield tasks
                finally:
                    await lookout.close()
                    await tasks.close()


class _Lookout:
    """Who looks at the queue. Its connections are apart from those that enqueue: who looks at a
    large queue holds up nobody.
    """

    def __init__(self, connections: Connections, config: QueuedTaskConfig) -> None:
        self._connections = connections
        self._config = config

    @cached_property
    def admin(self) -> QueueAdmin:
        from fastedgy.admin import QueueAdmin

        return QueueAdmin(self._connections, self._config)

    @cached_property
    def live(self) -> Live:
        from fastedgy.admin.live import Live

        admin = self.admin
        return Live(self._connections, self._config, admin.tables, admin.overview)

    async def close(self) -> None:
        if "live" in vars(self):
            await self.live.close()
        await self._connections.close()


async def _ready(tasks: QueuedTasks) -> None:
    """What can be said only when the application's own start is over: it may migrate, register."""
    container = get_container_service()
    async with container.get(Connections).acquire() as connection:
        await migrate.check(connection)
        await reconcile(connection, tasks)
    await container.start()


def _answer_not_found(app: FastAPI) -> None:
    for kind in (TaskNotFound, ScheduleNotFound, BreakerNotFound):
        app.exception_handlers.setdefault(kind, _not_found)


async def _not_found(where: Request | WebSocket, error: FastEdgyError) -> JSONResponse:
    if isinstance(where, WebSocket):  # open already, so there is no status to answer with
        raise error
    return JSONResponse({"detail": str(error)}, 404)


def _mount_admin(
    app: FastEdgy,
    admin: bool | QueueAuth | Callable[..., Any] | None,
    queue: QueuedTaskConfig | None,
) -> None:
    if not _answers.get():
        return
    config = queue or QueuedTaskConfig()
    wanted = bool(config.admin_token or config.admin_read_token) if admin is None else admin
    if wanted is not False:
        from fastedgy.admin.api import queue_router

        auth = None if isinstance(wanted, bool) else wanted
        app.include_router(queue_router(auth=auth, config=config))


def _announce(sentence: str) -> None:
    """On stderr, as nobody may have set up the logging yet."""
    sys.stderr.write(f"{sentence}\n")
