"""`Inject`: a service as a parameter of a route, of another service or of a task."""

# FastAPI reads the annotations of what it calls. Those of an object cannot be text, so this module
# does without `from __future__ import annotations`.

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Depends
from fastapi.requests import HTTPConnection

from fastedgy.dependencies.keys import ProviderKey
from fastedgy.dependencies.parameters import Injected, inject_key
from fastedgy.dependencies.process import get_container_service
from fastedgy.dependencies.route import OPEN, open_route


def Inject(key: ProviderKey | Any) -> Any:  # noqa: N802 - used like FastAPI's Depends
    """The service of a key, as a parameter's default: `tasks: QueuedTasks = Inject(QueuedTasks)`.

    Works in routes and their dependencies (also as `Annotated[Mailer, Inject(Mailer)]`), in
    constructors and factories of services, and in task functions. Nothing of it is in OpenAPI.

    A class with `__route__` (QueuedTasks) gives each route an object of its own, which ends after
    the route's function and before the response is sent. FastAPI lets a dependency that yields take
    it only if that ends then, too: `Depends(session, scope="function")`.
    """
    if isinstance(key, type) and hasattr(key, "__route__"):
        return Depends(RouteService(key), scope="function")
    return Depends(Service(key))


def provide(key: ProviderKey | Any) -> Callable[..., Awaitable[Any]]:
    """What `Depends` takes: `Depends(provide(Mailer))` is `Inject(Mailer)`."""

    async def provided(service: Any = Inject(key)) -> Any:  # noqa: B008
        return service

    return provided


def resolve_inject(default: object) -> Any:
    """The service that a parameter's default asks for. Raises TypeError if it is no `Inject`."""
    key = inject_key(default)
    if key is None:
        raise TypeError(f"{default!r} is no Inject(...)")
    return get_container_service().get(key)


class Service(Injected):
    """Gives routes a service as it is."""

    async def __call__(self) -> Any:
        return await get_container_service().aget(self.key)


class RouteService(Injected):
    """Gives each route what the service opens for it, and closes that when the route has ended."""

    async def __call__(
        self,
        connection: HTTPConnection,
        opened: Any = Depends(open_route, scope="function"),  # noqa: B008 - the scope has it then
    ) -> Any:
        return await connection.scope[OPEN].open(self.key)


class OfferedRoute(Injected):
    """Opens a service around every route, if it is there at all."""

    async def __call__(
        self,
        connection: HTTPConnection,
        opened: Any = Depends(open_route, scope="function"),  # noqa: B008 - the scope has it then
    ) -> None:
        if get_container_service().has(self.key):
            await connection.scope[OPEN].open(self.key)


def offer_route(key: type[Any]) -> Any:
    """A dependency for a whole application: `get_service(key)` in its routes knows the route."""
    return Depends(OfferedRoute(key), scope="function")
