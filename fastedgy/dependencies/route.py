"""What is open around one route: services with `__route__`, and in-process tasks."""

# FastAPI reads the annotations of what it calls. Those of an object cannot be text, so this module
# does without `from __future__ import annotations`.

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, NoReturn, Protocol

from fastapi.requests import HTTPConnection

from fastedgy.dependencies.process import get_container_service
from fastedgy.errors import FastAPITasksUninitializedAppError

OPEN = "fastedgy.route"  # in the ASGI scope: the `Route` of this request
GUEST = "fastedgy.tasks"  # in the ASGI scope: the `Guest` of this request


class Route:
    """The services that are open around a route. They end with it, the last one first."""

    __slots__ = ("_is_websocket", "_opened", "_stack", "guest")

    def __init__(self, stack: AsyncExitStack, *, is_websocket: bool) -> None:
        self._stack = stack
        self._is_websocket = is_websocket
        self._opened: dict[int, Any] = {}
        self.guest: Any = MISSING

    async def open(self, key: Any) -> Any:
        """What a service has for this route; the service itself, if that is nothing special."""
        service = await get_container_service().aget(key)
        if self._is_websocket or not hasattr(type(service), "__route__"):
            # A connection that may stay open for hours, which nothing should wait for; or a mock.
            return service
        if id(service) not in self._opened:
            opened = await self._stack.enter_async_context(service.__route__())
            self._opened[id(service)] = opened
        return self._opened[id(service)]


class Guest(Protocol):
    """What a middleware has put into the scope of a request, to be told of its route."""

    async def begin(self, route: Route) -> Any:
        """The route begins. What is returned stands for the guest in the route."""

    async def ending(self) -> None:
        """The route has returned, and its services are still open."""

    async def over(self) -> None:
        """The route has ended well."""

    def drop(self) -> None:
        """The route has raised, or one of its services has at its end."""


class _Missing:
    """What stands for a guest where there is none. Whatever it is asked for, it says so."""

    def __getattr__(self, name: str) -> NoReturn:
        raise FastAPITasksUninitializedAppError


MISSING = _Missing()


async def open_route(connection: HTTPConnection) -> AsyncIterator[Any]:
    """The scope of one route, as a dependency with `scope="function"`: gives what stands for the
    guest.

    One for everything that is to end with the route: each dependency that yields costs a request
    more than a task does.
    """
    scope = connection.scope
    if OPEN in scope:  # asked for again, under other OAuth2 scopes
        yield scope[OPEN].guest
        return
    guest: Guest | None = scope.get(GUEST)
    stack = AsyncExitStack()
    route = scope[OPEN] = Route(stack, is_websocket=scope["type"] == "websocket")
    try:
        async with stack:
            if guest is None:
                yield MISSING
            else:
                route.guest = await guest.begin(route)
                yield route.guest
                await guest.ending()
    except BaseException:
        if guest is not None:
            guest.drop()
        raise
    finally:
        del scope[OPEN]
    if guest is not None:
        await guest.over()
