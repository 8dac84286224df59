"""The application's start, its routes and its end, with a real database."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from unittest.mock import MagicMock

import asyncpg
import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.routing import APIRoute

import fastedgy
from fastedgy import migrate
from fastedgy.app import FastEdgy, install_queue, running
from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.connections import Connections
from fastedgy.dependencies import (
    Inject,
    get_container_service,
    get_service,
    has_service,
    register_service,
    unregister_service,
)
from fastedgy.errors import ConfigurationError, DatabaseUnavailable, SchemaOutdated
from fastedgy.orm import Database, Registry, registry
from fastedgy.queued_task.offered import resolve
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.tasks import Tasks


def work(number: int = 0) -> int:
    return number


@pytest.fixture(autouse=True)
def clean_container() -> Iterator[None]:
    get_container_service().reset()
    yield
    get_container_service().reset()


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(database_url=database_url)


@pytest.fixture(params=["FastEdgy", "FastAPI"])
def app(request: pytest.FixtureRequest, settings: Settings) -> FastAPI:
    """A FastEdgy, and a plain FastAPI that has the queue installed."""
    if request.param == "FastEdgy":
        return FastEdgy(settings=settings)
    app = FastAPI()
    install_queue(app, settings=settings)
    return app


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application while it runs."""
    async with running(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            yield client


async def names(connection: asyncpg.Connection) -> list[str]:
    return [row["name"] for row in await connection.fetch("SELECT name FROM queued_tasks")]


async def test_a_task_of_a_route_is_in_its_row_when_the_response_is_there(
    app: FastAPI, connection: asyncpg.Connection
) -> None:
    @app.get("/{number}")
    async def read(number: int, tasks: QueuedTasks = Inject(QueuedTasks)) -> int:
        tasks.add_task(work, number)
        assert await names(connection) == []
        return number

    async with client_of(app) as client:
        assert (await client.get("/7")).json() == 7
        assert len(await names(connection)) == 1


@pytest.mark.parametrize("error", [HTTPException(404), RuntimeError("no")])
async def test_a_route_that_raises_leaves_no_task(
    app: FastAPI, connection: asyncpg.Connection, error: Exception
) -> None:
    @app.get("/")
    async def read() -> None:
        get_service(QueuedTasks).add_task(work)
        raise error

    async with client_of(app) as client:
        assert (await client.get("/")).status_code >= 400
    assert await names(connection) == []


async def test_routes_know_their_tasks_without_inject_and_in_threads_and_in_routers(
    app: FastAPI, connection: asyncpg.Connection
) -> None:
    router = APIRouter()

    @router.get("/sync")
    def sync() -> None:
        get_service(QueuedTasks).add_task(work)

    @app.get("/fails")
    def fails() -> None:
        get_service(QueuedTasks).add_task(work)
        raise HTTPException(409)

    async def user() -> AsyncIterator[str]:
        yield "ada"
        get_service(QueuedTasks).add_task(work)

    @app.get("/late")
    async def late(user: Annotated[str, Depends(user, scope="function")]) -> str:
        return user

    app.include_router(router, prefix="/sub")
    async with client_of(app) as client:
        assert (await client.get("/sub/sync")).status_code == 200
        assert len(await names(connection)) == 1
        assert (await client.get("/fails")).status_code == 409
        assert len(await names(connection)) == 1
        assert (await client.get("/late")).status_code == 200
        assert len(await names(connection)) == 2


async def test_a_route_opens_once_and_around_all_its_dependencies(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    async def add_twice() -> AsyncIterator[None]:
        get_service(QueuedTasks).add_task(work)
        yield
        get_service(QueuedTasks).add_task(work)

    beside = Depends(add_twice, scope="function")
    Beside = Annotated[None, beside]  # noqa: N806
    app = FastEdgy(settings=settings)

    @app.get("/tasks")
    async def tasks_first(tasks: Tasks, beside: Beside, fail: bool = False) -> None:
        await end(fail)

    @app.get("/queue")
    async def queue_first(
        queue: Annotated[QueuedTasks, Inject(QueuedTasks)], beside: Beside, fail: bool = False
    ) -> None:
        await end(fail)

    @app.get("/beside")
    async def beside_first(beside: Beside, tasks: Tasks, fail: bool = False) -> None:
        await end(fail)

    @app.get("/above", dependencies=[beside])
    async def beside_above(tasks: Tasks, fail: bool = False) -> None:
        await end(fail)

    async def end(fail: bool) -> None:
        if fail:
            raise HTTPException(409)

    opened = {
        route.path: len(route.dependencies) for route in app.routes if isinstance(route, APIRoute)
    }
    assert opened == {"/tasks": 0, "/queue": 0, "/beside": 1, "/above": 2}
    async with client_of(app) as client:
        for number, path in enumerate(opened, 1):
            assert (await client.get(path, params={"fail": True})).status_code == 409
            assert (await client.get(path)).status_code == 200
            assert len(await names(connection)) == 2 * number


async def test_the_services_of_a_running_application_are_injected(app: FastAPI) -> None:
    seen: list[Any] = []

    @app.get("/")
    async def read(
        database: Database = Inject(Database),
        registry: Registry = Inject(Registry),
        settings: Settings = Inject(Settings),
        config: QueuedTaskConfig = Inject(QueuedTaskConfig),
    ) -> Any:
        seen.extend([database, registry, settings, config])
        return await database.fetch_val("SELECT 42")

    async with client_of(app) as client:
        assert (await client.get("/")).json() == 42
        assert has_service(Connections)
        assert seen == [registry.database, registry, get_service(Settings), seen[3]]
        assert (await client.get("/openapi.json")).json()["paths"]["/"]["get"].keys() == {
            "operationId",
            "responses",
            "summary",
        }
    assert not has_service(QueuedTasks)
    assert not has_service(Database)


async def test_the_lifespan_of_the_user_runs_inside_and_its_state_is_kept(
    settings: Settings,
) -> None:
    order = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        order.append(await get_service(Database).fetch_val("SELECT 'started'"))
        register_service("a service", str)
        yield {"greeting": "hello"}
        order.append(await get_service(Database).fetch_val("SELECT 'stopped'"))

    @asynccontextmanager
    async def of_router(app: FastAPI) -> AsyncIterator[None]:
        assert has_service(QueuedTasks)
        order.append("router")
        yield

    app = FastEdgy(settings=settings, lifespan=lifespan)
    app.include_router(APIRouter(lifespan=of_router))
    async with app.router.lifespan_context(app) as state:
        assert state == {"greeting": "hello"}
        assert get_service(str) == "a service"

    assert order == ["started", "router", "stopped"]
    assert not has_service(str)


async def test_start_up_handlers_run_without_a_lifespan(settings: Settings) -> None:
    called = []
    app = FastEdgy(settings=settings, on_startup=[lambda: called.append("up")])

    async with running(app):
        assert called == ["up"]


async def test_an_application_can_start_again_with_other_settings(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = FastEdgy()
    for level in ("debug", "error"):
        monkeypatch.setenv("DATABASE_URL", settings.database_url or "")
        monkeypatch.setenv("LOG_LEVEL", level)
        async with running(app):
            assert get_service(Settings).log_level == level


async def test_settings_given_in_code_are_there_before_the_start(settings: Settings) -> None:
    config = QueuedTaskConfig(max_workers=3)
    app = FastEdgy(settings=settings, queue=config)

    assert get_service(QueuedTaskConfig) is config
    config.max_workers = 8
    async with running(app) as tasks:
        assert tasks.config is get_service(QueuedTaskConfig) is config
    async with running(app, queue=QueuedTaskConfig(max_workers=5)):
        assert get_service(QueuedTaskConfig).max_workers == 5
    assert get_service(QueuedTaskConfig) is config


async def test_a_mock_in_place_of_the_queue_is_used_before_and_during_the_run(
    app: FastAPI, connection: asyncpg.Connection
) -> None:
    @app.get("/")
    async def read(tasks: QueuedTasks = Inject(QueuedTasks)) -> dict[str, bool]:
        for _ in range(4):
            tasks.add_task(work)
        return {"workflow_started": True}

    mock = MagicMock()
    register_service(mock, QueuedTasks, force=True)
    async with client_of(app) as client:
        assert (await client.get("/")).json() == {"workflow_started": True}
        assert mock.add_task.call_count == 4
        unregister_service(QueuedTasks)
        await client.get("/")
        register_service(mock, QueuedTasks, force=True)
        await client.get("/")
        assert mock.add_task.call_count == 8
        unregister_service(QueuedTasks)
    assert len(await names(connection)) == 4


async def test_async_factories_are_ready_when_the_application_is(settings: Settings) -> None:
    class Model:
        pass

    async def load(database: Database = Inject(Database)) -> Model:
        await database.fetch_val("SELECT 1")
        return Model()

    register_service(load)
    async with running(FastEdgy(settings=settings)):
        assert isinstance(get_service(Model), Model)


async def test_the_functions_beside_the_application_are_offered(settings: Settings) -> None:
    app = FastEdgy(settings=settings)
    app.get("/")(work)

    async with running(app):
        assert resolve(f"{__name__}:work", QueuedTaskConfig()).call is work


async def test_a_websocket_route_does_not_hold_its_tasks_back(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    app = FastEdgy(settings=settings)
    rows = []

    @app.websocket("/")
    async def talk(socket: WebSocket, tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        await tasks.add_task(work)
        rows.extend(await names(connection))

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None: ...

    scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b"", "state": {}}
    async with running(app):
        await app(scope, receive, send)
    assert len(rows) == 1


async def test_a_database_that_is_away_ends_the_start() -> None:
    app = FastEdgy(settings=Settings(database_url="postgresql://127.0.0.1:1/none"))

    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:1"):
        async with running(app):
            pass
    assert not has_service(QueuedTasks)


async def test_missing_tables_end_the_start_unless_the_lifespan_makes_them(
    empty_database_url: str,
) -> None:
    settings = Settings(database_url=empty_database_url)
    with pytest.raises(SchemaOutdated, match="fastedgy db migrate"):
        async with running(FastEdgy(settings=settings)):
            pass

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await migrate.upgrade(empty_database_url)
        yield

    async with running(FastEdgy(settings=settings, lifespan=lifespan)) as tasks:
        await tasks.add_task(work)


async def test_an_error_of_the_users_lifespan_comes_through_and_all_is_closed(
    settings: Settings,
) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if app.title:
            raise KeyError("mine")
        yield

    with pytest.raises(KeyError, match="mine"):
        async with running(FastEdgy(settings=settings, lifespan=lifespan)):
            pass
    assert not has_service(QueuedTasks)
    assert not registry.database.is_connected


async def test_the_queue_runs_without_an_application_and_in_one_that_has_none(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    async with running(settings=settings) as tasks:
        assert get_service(QueuedTasks) is tasks
        await tasks.add_task(work)

    started = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        started.append(get_service(QueuedTasks))
        yield

    async with running(FastAPI(lifespan=lifespan), settings=settings) as tasks:
        assert started == [tasks]
        await tasks.add_task(work)
    assert len(await names(connection)) == 2


async def test_what_is_on_its_way_is_written_before_the_application_ends(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    async with running(FastEdgy(settings=settings)) as tasks:
        tasks.add_task(work)

    assert len(await names(connection)) == 1


def test_a_queue_is_installed_once(settings: Settings) -> None:
    app = FastAPI()
    install_queue(app, settings=settings)

    for twice in (app, FastEdgy()):
        with pytest.raises(ConfigurationError, match="has the queue already"):
            install_queue(twice)


async def test_the_application_gives_its_database_and_services(settings: Settings) -> None:
    app = FastEdgy(title="Shop", settings=settings)
    app.register("a service", str)

    assert app.title == "Shop"
    assert app.has_service(str)
    assert app.get_service(str) == "a service"
    async with running(app):
        async with app.database.transaction():
            assert await app.database.fetch_val("SELECT 1") == 1
        assert app.registry is get_service(Registry)


async def test_the_embedded_postgres_is_announced_in_one_line(
    monkeypatch: pytest.MonkeyPatch, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def resolve(settings: Settings, *, announce: Any) -> str:
        if announce is not None:
            announce("The embedded Postgres is used.")
        return database_url

    monkeypatch.setattr("fastedgy.app.resolve_url", resolve)
    app = FastEdgy()
    async with app.router.lifespan_context(app):
        assert capsys.readouterr().err == "The embedded Postgres is used.\n"
    async with running(app):
        assert capsys.readouterr().err == ""


async def test_request_state_and_middleware_work_as_in_fastapi(settings: Settings) -> None:
    app = FastEdgy(settings=settings)

    @app.middleware("http")
    async def mark(request: Request, call_next: Any) -> Any:
        request.state.mark = "marked"
        return await call_next(request)

    @app.get("/")
    async def read(request: Request) -> str:
        get_service(QueuedTasks).add_task(work)
        return str(request.state.mark)

    async with client_of(app) as client:
        assert (await client.get("/")).json() == "marked"


def test_the_package_gives_its_names_lazily() -> None:
    assert fastedgy.FastEdgy is FastEdgy
    assert fastedgy.__version__
    assert "FastEdgy" in dir(fastedgy)
    with pytest.raises(AttributeError, match="nothing"):
        fastedgy.nothing  # noqa: B018
