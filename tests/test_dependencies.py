"""The container: what it builds, what it is told, and what it says when it cannot."""

import asyncio
import functools
import logging
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Protocol
from unittest.mock import AsyncMock, MagicMock

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse

from fastedgy.config import QueuedTaskConfig
from fastedgy.dependencies import (
    Container,
    Inject,
    Token,
    get_container_service,
    get_service,
    has_service,
    injected,
    offer_route,
    provide,
    register_service,
    resolve_inject,
    unregister_service,
)
from fastedgy.errors import CircularDependency, DependencyError, ServiceExists, ServiceNotFound


class Clock:
    pass


class Mailer:
    def __init__(self, clock: "Clock") -> None:
        self.clock = clock


class Orders:
    def __init__(self, mailer: Mailer, clock: Clock, currency: str = "EUR") -> None:
        self.mailer = mailer
        self.clock = clock
        self.currency = currency


class Smtp:
    def __init__(self, host: str) -> None:
        self.host = host


class Newsletter:
    def __init__(self, smtp: Smtp) -> None:
        self.smtp = smtp


class Chicken:
    def __init__(self, egg: "Egg") -> None:
        self.egg = egg


class Egg:
    def __init__(self, chicken: "Chicken") -> None:
        self.chicken = chicken


class Storage(ABC):
    @abstractmethod
    def save(self) -> None: ...


class Cache(Protocol):
    def look(self) -> str: ...


@pytest.fixture(autouse=True)
def container() -> Iterator[Container]:
    container = get_container_service()
    container.reset()
    yield container
    container.reset()


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        yield client


# What is built without being told


def test_a_class_is_built_with_all_that_its_type_hints_ask_for() -> None:
    orders = get_service(Orders)

    assert isinstance(orders.mailer, Mailer)
    assert orders.currency == "EUR"


def test_there_is_one_of_each_service() -> None:
    orders = get_service(Orders)

    assert get_service(Orders) is orders
    assert orders.clock is orders.mailer.clock is get_service(Clock)


def test_an_inherited_constructor_is_read_where_it_was_written() -> None:
    class Special(Orders):
        pass

    assert isinstance(get_service(Special).mailer, Mailer)


def test_dataclasses_and_settings_are_built() -> None:
    @dataclass
    class Shop:
        orders: Orders
        open: bool = True

    shop = get_service(Shop)

    assert shop.orders is get_service(Orders)
    assert shop.open is True
    assert get_service(QueuedTaskConfig).max_retries == 3


def test_the_settings_can_be_changed_at_run_time() -> None:
    get_service(QueuedTaskConfig).max_workers = 8

    assert get_service(QueuedTaskConfig).max_workers == 8


def test_a_default_is_kept_even_where_a_service_could_be_injected() -> None:
    class Careful:
        def __init__(self, clock: Clock | None = None, missing: "Unknown" = None) -> None:  # type: ignore[name-defined]  # noqa: F821
            self.clock = clock

    get_service(Clock)

    assert get_service(Careful).clock is None


def test_an_inject_default_and_an_annotated_inject_are_honoured() -> None:
    reports = Token[Clock]("reports")
    register_service(Clock(), reports)

    class Reporter:
        def __init__(
            self,
            one: Clock = Inject(reports),
            two: Annotated[Clock, Inject(reports)] = None,  # type: ignore[assignment]
            *rest: int,
            **more: int,
        ) -> None:
            self.clocks = [one, two]

    assert get_service(Reporter).clocks == [get_service(reports)] * 2


def test_positional_only_parameters_are_filled_in_order() -> None:
    class Old:
        def __init__(self, size: int = 3, clock: Any = Inject(Clock), /) -> None:
            self.got = (size, clock)

    assert get_service(Old).got == (3, get_service(Clock))


def test_an_optional_parameter_is_none_unless_the_service_is_there() -> None:
    class Calm:
        def __init__(self, smtp: Smtp | None) -> None:
            self.smtp = smtp

    assert get_service(Calm).smtp is None
    register_service(Smtp("localhost"))
    get_container_service().clear_cache()
    assert get_service(Calm).smtp is get_service(Smtp)


# What it is told


def test_an_instance_a_key_and_a_class_can_be_registered() -> None:
    smtp, clock = Smtp("a"), Clock()
    key = Token[Clock]("wall")
    register_service(smtp)
    register_service(clock, key)
    register_service(Mailer)

    assert get_service(Smtp) is smtp
    assert get_service(key) is clock
    assert isinstance(get_service(Mailer), Mailer)
    assert has_service(Mailer)
    assert not has_service(Orders)


def test_a_subclass_takes_the_place_of_an_abstract_class() -> None:
    class Disk(Storage):
        def save(self) -> None: ...

    register_service(Disk, Storage)

    assert isinstance(get_service(Storage), Disk)  # type: ignore[type-abstract]


def test_a_key_that_is_taken_needs_force() -> None:
    register_service(Smtp("a"))

    with pytest.raises(ServiceExists, match=r"registered under Smtp already.*force=True"):
        register_service(Smtp("b"))
    register_service(Smtp("c"), force=True)

    assert get_service(Smtp).host == "c"


def test_what_was_built_with_a_replaced_service_is_built_anew() -> None:
    before = get_service(Orders)
    register_service(mock := MagicMock(), Mailer, force=True)

    assert get_service(Orders) is not before
    assert get_service(Orders).mailer is mock

    unregister_service(Mailer)
    assert isinstance(get_service(Orders).mailer, Mailer)


def test_unregistering_what_is_not_registered_is_fine() -> None:
    unregister_service(Smtp)

    assert not has_service(Smtp)


@pytest.mark.parametrize("mock", [MagicMock(), AsyncMock(), MagicMock(spec=Orders)])
def test_a_mock_is_a_service_and_not_a_factory(mock: Any) -> None:
    register_service(mock, Orders, force=True)
    service: Any = get_service(Orders)

    assert service is mock
    mock.assert_not_called()


def test_tokens_of_one_name_are_one_key() -> None:
    register_service("postgresql://reports", Token[str]("reports"))

    assert get_service(Token[str]("reports")) == "postgresql://reports"
    assert repr(Token("reports")) == "Token('reports')"
    assert Token("reports") != "reports"


def test_a_factory_runs_once_when_it_is_first_needed_with_its_own_parameters() -> None:
    calls = []

    def make(mailer: Mailer, clock: Clock = Inject(Clock), host: str = "here") -> Smtp:
        calls.append((mailer, clock))
        return Smtp(host)

    register_service(make, Smtp)
    assert calls == []

    assert get_service(Smtp) is get_service(Smtp)
    assert calls == [(get_service(Mailer), get_service(Clock))]


def test_a_factory_needs_no_key_when_it_says_what_it_returns() -> None:
    def make() -> Smtp:
        return Smtp("here")

    def silent():  # type: ignore[no-untyped-def]
        return None

    register_service(make)

    assert get_service(Smtp).host == "here"
    with pytest.raises(DependencyError, match=r"factory silent.*Annotate what it returns"):
        register_service(silent)


@pytest.mark.parametrize(
    "factory",
    [
        lambda: Smtp("x"),
        functools.partial(Smtp, host="x"),
        functools.lru_cache(lambda: Smtp("x")),
        functools.partial(lambda clock, host: Smtp(host), host="x", clock=None),
    ],
)
def test_lambdas_partials_and_cached_functions_are_factories(factory: Any) -> None:
    register_service(factory, Smtp)

    assert get_service(Smtp).host == "x"


def test_a_factory_that_yields_and_a_coroutine_are_refused() -> None:
    def yields() -> Iterator[Smtp]:
        yield Smtp("x")

    async def make() -> Smtp:
        return Smtp("x")

    with pytest.raises(DependencyError, match=r"factory .*yields yields"):
        register_service(yields, Smtp)
    with pytest.raises(DependencyError, match="got a coroutine"):
        register_service(make(), Smtp)
    register_service(lambda: make(), Smtp)
    with pytest.raises(DependencyError, match="returned a coroutine"):
        get_service(Smtp)


def test_a_key_must_be_hashable() -> None:
    with pytest.raises(DependencyError, match="cannot be the key"):
        register_service(Smtp("x"), [])


# What an application provides


def test_a_lent_service_ends_with_its_block_and_so_does_what_was_built_with_it() -> None:
    container = get_container_service()
    register_service(Clock())
    with container.lend({Smtp: Smtp("app")}):
        register_service("within", Token("within"))
        newsletter = get_service(Newsletter)
        assert newsletter.smtp.host == "app"

    assert not has_service(Smtp)
    assert not has_service(Newsletter)
    assert not has_service(Token("within"))
    assert has_service(Clock)


def test_a_registered_service_goes_before_a_lent_one_which_comes_back() -> None:
    container = get_container_service()
    register_service(Smtp("mock"))
    with container.lend({Smtp: Smtp("app")}):
        assert get_service(Smtp).host == "mock"
        unregister_service(Smtp)
        assert get_service(Smtp).host == "app"
        with pytest.raises(ServiceExists):
            register_service(Smtp("other"))
        register_service(Smtp("other"), force=True)
        assert get_service(Smtp).host == "other"
        unregister_service(Smtp)
        with container.lend({Smtp: Smtp("inner")}):
            assert get_service(Smtp).host == "inner"
        assert get_service(Smtp).host == "app"


def test_a_service_is_lent_under_the_name_of_a_class_that_is_not_imported_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    container = get_container_service()
    module = ModuleType("late_module")
    late = module.Late = type("Late", (), {})  # type: ignore[attr-defined]
    made: list[Any] = []

    def make() -> Any:
        made.append(late())
        return made[-1]

    with container.lend({"late_module:Late": make}):
        assert not has_service(late)
        monkeypatch.setitem(sys.modules, "late_module", module)
        assert has_service(late)
        with pytest.raises(ServiceExists):
            register_service(late())
        with container.lend({"late_module:Late": (inner := late())}):
            assert get_service(late) is inner
        assert made == []
        assert get_service(late) is get_service(late) is made[0]
    assert not has_service(late)


def test_a_suggestion_gives_way_to_everything_else() -> None:
    container = get_container_service()
    container.suggest(Smtp("suggested"))
    assert get_service(Smtp).host == "suggested"
    with container.lend({Smtp: Smtp("app")}):
        assert get_service(Smtp).host == "app"
    assert get_service(Smtp).host == "suggested"
    register_service(Smtp("registered"))
    assert get_service(Smtp).host == "registered"


def test_clearing_the_cache_builds_again_and_keeps_what_was_registered() -> None:
    register_service(smtp := Smtp("x"))
    clock = get_service(Clock)
    get_container_service().clear_cache()

    assert get_service(Smtp) is smtp
    assert get_service(Clock) is not clock


def test_the_map_shows_what_is_there() -> None:
    register_service(Smtp("x"))
    register_service(Mailer)
    clock = get_service(Clock)

    known = get_container_service()._map

    assert known == {Smtp: get_service(Smtp), Mailer: Mailer, Clock: clock}


# Errors


def test_a_parameter_that_cannot_be_filled_is_named_with_the_whole_chain() -> None:
    with pytest.raises(ServiceNotFound) as caught:
        get_service(Newsletter)

    assert str(caught.value) == (
        "The parameter `host: str` of Smtp cannot be filled: it is a plain value, of which there "
        "is no single one. Give it a default or an Inject(...), or register Smtp yourself "
        "(wanted by Newsletter → Smtp)."
    )
    assert isinstance(caught.value, LookupError)


def test_a_circle_is_named_and_leaves_nothing_behind() -> None:
    for _ in range(2):
        with pytest.raises(CircularDependency, match="Chicken → Egg → Chicken"):
            get_service(Chicken)
    assert isinstance(get_service(Clock), Clock)


def test_a_circle_of_factories_is_named_too() -> None:
    register_service(lambda: get_service(Token("b")), Token("a"))
    register_service(lambda: get_service(Token("a")), Token("b"))

    with pytest.raises(CircularDependency, match=r"Token\('a'\) → Token\('b'\) → Token\('a'\)"):
        get_service(Token("a"))


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (Token("nothing"), r"under Token\('nothing'\), and it is no class"),
        (Storage, "under Storage, and it is abstract"),
        (Cache, "under Cache, and it is abstract"),
        (Path, "under Path, and it is a plain value"),
        (dict[str, int], r"under dict\[str, int\], and it is no class"),
    ],
)
def test_a_key_that_cannot_be_built_says_why(key: Any, reason: str) -> None:
    with pytest.raises(ServiceNotFound, match=reason):
        get_service(key)


def test_bad_type_hints_are_explained() -> None:
    class Bare:
        def __init__(self, thing) -> None: ...  # type: ignore[no-untyped-def]

    class Unknown:
        def __init__(self, thing: "NowhereToBeFound") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    class Either:
        def __init__(self, thing: Clock | Mailer) -> None: ...

    class Route:
        def __init__(self, clock: Clock = Depends(Clock)) -> None: ...  # noqa: B008

    for cls, reason in [
        (Bare, "`thing` of Bare cannot be filled: it has no type hint"),
        (Unknown, "cannot be read .*NowhereToBeFound"),
        (Either, "names one class"),
        (Route, "write Inject"),
    ]:
        with pytest.raises(ServiceNotFound, match=reason):
            get_service(cls)


def test_an_error_of_a_constructor_comes_through_with_a_note() -> None:
    class Broken:
        def __init__(self, clock: Clock) -> None:
            raise RuntimeError("no licence")

    class Owner:
        def __init__(self, broken: Broken) -> None: ...

    with pytest.raises(RuntimeError, match="no licence") as caught:
        get_service(Owner)

    assert caught.value.__notes__ == ["while Owner → Broken was built to be injected"]


def test_building_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="fastedgy.dependencies"):
        get_service(Mailer)

    assert "Built Mailer → Clock with Clock" in caplog.messages


def test_threads_share_one_instance() -> None:
    class Slow:
        made = 0

        def __init__(self) -> None:
            threading.Event().wait(0.02)
            Slow.made += 1

    found: list[Slow] = []
    threads = [threading.Thread(target=lambda: found.append(get_service(Slow))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Slow.made == 1
    assert len(set(map(id, found))) == 1


# Async factories


async def test_an_async_factory_runs_once_for_all_who_wait() -> None:
    calls = []

    async def make(clock: Clock) -> Smtp:
        calls.append(clock)
        await asyncio.sleep(0)
        return Smtp("async")

    register_service(make)
    with pytest.raises(DependencyError, match=r"async factory.*Newsletter → Smtp"):
        get_service(Newsletter)
    container = get_container_service()
    found = await asyncio.gather(*(container.aget(Newsletter) for _ in range(5)))

    assert len(calls) == 1
    assert len(set(map(id, found))) == 1
    assert get_service(Smtp).host == "async"


async def test_an_async_factory_that_failed_is_tried_again() -> None:
    answers: Iterator[Exception | Smtp] = iter([RuntimeError("down"), Smtp("up")])

    async def make() -> Smtp:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    register_service(make)
    container = get_container_service()
    with pytest.raises(RuntimeError, match="down"):
        await container.aget(Smtp)

    assert (await container.aget(Smtp)).host == "up"


async def test_a_waiter_that_is_cancelled_takes_nobody_with_it() -> None:
    go = asyncio.Event()

    async def make() -> Smtp:
        await go.wait()
        return Smtp("x")

    register_service(make)
    container = get_container_service()
    first = asyncio.create_task(container.aget(Smtp))
    second = asyncio.create_task(container.aget(Smtp))
    await asyncio.sleep(0)
    first.cancel()
    go.set()

    assert (await second).host == "x"


async def test_a_circle_of_async_factories_is_named() -> None:
    container = get_container_service()

    async def make_a() -> Any:
        return await container.aget(Token("b"))

    a = Token[Any]("a")

    async def make_b(a: Any = Inject(a)) -> Any: ...

    register_service(make_a, a)
    register_service(make_b, Token("b"))

    with pytest.raises(CircularDependency):
        await container.aget(a)


# Routes


class Scoped:
    """A service with something for each route, which remembers how each one ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    @asynccontextmanager
    async def __route__(self) -> AsyncIterator[list[str]]:
        try:
            yield ["open"]
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        self.ended.append("returned")


@pytest.fixture
def scoped() -> Scoped:
    register_service(scoped := Scoped())
    return scoped


async def test_services_and_fastapi_dependencies_mix_in_a_route_and_stay_out_of_openapi() -> None:
    app = FastAPI()

    def user(request: Request, mailer: Mailer = Inject(Mailer)) -> str:
        assert mailer is get_service(Mailer)
        return request.headers.get("user", "nobody")

    async def session(clock: Clock = Inject(Clock)) -> AsyncIterator[Clock]:
        yield clock

    @app.get("/{number}")
    async def read(
        number: int,
        annotated: Annotated[Orders, Inject(Orders)],
        user: Annotated[str, Depends(user)],
        session: Annotated[Clock, Depends(session)],
        mailer: Annotated[Mailer, Depends(provide(Mailer))],
        orders: Orders = Inject(Orders),
    ) -> dict[str, Any]:
        assert annotated is orders is get_service(Orders)
        assert session is orders.clock
        assert mailer is orders.mailer
        return {"number": number, "user": user}

    @app.get("/plain/{number}")
    async def plain(number: int) -> dict[str, Any]:
        return {}

    async with client_of(app) as client:
        assert (await client.get("/7", headers={"user": "ada"})).json() == {
            "number": 7,
            "user": "ada",
        }
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert [p["name"] for p in paths["/{number}"]["get"]["parameters"]] == ["number"]
    assert paths["/{number}"]["get"].keys() == paths["/plain/{number}"]["get"].keys()


async def test_an_async_factory_is_awaited_in_a_route() -> None:
    app = FastAPI()

    async def make() -> Smtp:
        return Smtp("async")

    register_service(make)

    @app.get("/")
    async def read(smtp: Smtp = Inject(Smtp)) -> str:
        return smtp.host

    async with client_of(app) as client:
        assert (await client.get("/")).json() == "async"


async def test_a_service_opens_around_a_route_once_and_ends_before_the_response(
    scoped: Scoped,
) -> None:
    app = FastAPI(dependencies=[offer_route(Scoped)])
    seen: list[Any] = []

    def helper(routed: Any = Inject(Scoped)) -> Any:
        return routed

    @app.get("/")
    async def read(
        two: Annotated[Any, Depends(helper)],
        three: Annotated[Any, Depends(provide(Scoped))],
        one: Any = Inject(Scoped),
    ) -> StreamingResponse:
        assert one is two is three
        assert one == ["open"]
        assert scoped.ended == []

        def body() -> Iterator[str]:
            seen.extend(scoped.ended)
            yield "text"

        return StreamingResponse(body())

    async with client_of(app) as client:
        assert (await client.get("/")).text == "text"
    assert seen == scoped.ended == ["returned"]


@pytest.mark.parametrize("sync", [False, True])
async def test_the_service_sees_the_exception_of_a_route(scoped: Scoped, sync: bool) -> None:
    app = FastAPI()

    def fail(routed: Any = Inject(Scoped)) -> None:
        raise HTTPException(404)

    async def fail_async(routed: Any = Inject(Scoped)) -> None:
        raise ValueError

    app.get("/")(fail if sync else fail_async)
    async with client_of(app) as client:
        assert (await client.get("/")).status_code == (404 if sync else 500)
    assert scoped.ended == ["HTTPException" if sync else "ValueError"]


async def test_a_service_that_fails_at_the_end_of_a_route_fails_the_route() -> None:
    class Failing:
        @asynccontextmanager
        async def __route__(self) -> AsyncIterator[None]:
            yield
            raise ConnectionError

    app = FastAPI()
    register_service(Failing())

    @app.get("/")
    async def read(routed: Any = Inject(Failing)) -> str:
        return "never seen"

    async with client_of(app) as client:
        assert (await client.get("/")).status_code == 500


async def test_a_mock_of_a_service_with_routes_is_passed_through(scoped: Scoped) -> None:
    mock = MagicMock()
    register_service(mock, Scoped, force=True)
    app = FastAPI(dependencies=[offer_route(Scoped)])

    @app.get("/")
    async def read(routed: Any = Inject(Scoped)) -> None:
        routed.add("a")

    async with client_of(app) as client:
        assert (await client.get("/")).status_code == 200
    mock.add.assert_called_once_with("a")


async def test_an_offered_service_that_is_not_there_disturbs_no_route() -> None:
    app = FastAPI(dependencies=[offer_route(Scoped)])

    @app.get("/")
    async def read() -> str:
        return "fine"

    @app.get("/asks")
    async def asks(routed: Any = Inject(Scoped)) -> None: ...

    async with client_of(app) as client:
        assert (await client.get("/")).json() == "fine"
        assert (await client.get("/asks")).status_code == 500
    with pytest.raises(ServiceNotFound, match=r"only while an application runs.*TestClient"):
        get_service(Scoped)


async def test_a_websocket_gets_the_service_itself(scoped: Scoped) -> None:
    app = FastAPI(dependencies=[offer_route(Scoped)])
    seen = []

    @app.websocket("/")
    async def talk(socket: WebSocket, routed: Any = Inject(Scoped)) -> None:
        seen.append(routed)
        await socket.accept()
        await socket.close()

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None: ...

    scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b"", "state": {}}
    await app(scope, receive, send)

    assert seen == [scoped]
    assert scoped.ended == []


async def test_a_fastapi_override_takes_the_place_of_an_injected_service() -> None:
    app = FastAPI()
    app.dependency_overrides[Inject(Clock).dependency] = lambda: "noon"

    @app.get("/")
    async def read(clock: Any = Inject(Clock)) -> Any:
        return clock

    async with client_of(app) as client:
        assert (await client.get("/")).json() == "noon"


# Tasks


def test_the_injected_parameters_of_a_function_are_known() -> None:
    async def send(
        to: str,
        mailer: Mailer = Inject(Mailer),
        clock: Annotated[Clock, Inject(Clock)] = None,  # type: ignore[assignment]
        copies: int = 1,
    ) -> None: ...

    assert injected(send) == {"mailer": Mailer, "clock": Clock}
    assert injected(send) is injected(send)
    assert resolve_inject(Inject(Mailer)) is get_service(Mailer)
    with pytest.raises(TypeError, match="is no Inject"):
        resolve_inject(3)
