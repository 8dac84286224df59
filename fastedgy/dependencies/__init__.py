"""Services: registered or built from their type hints, one of each, injected where they are wanted.

    class Greeter:
        def __init__(self, settings: Settings) -> None: ...

    @app.get("/hello")
    async def hello(greeter: Greeter = Inject(Greeter)) -> str: ...

`logging.getLogger("fastedgy.dependencies").setLevel("DEBUG")` shows who is built for whom.
"""

from __future__ import annotations

from typing import Any, TypeVar, overload

from fastedgy.dependencies.container import Container
from fastedgy.dependencies.injection import Inject, offer_route, provide, resolve_inject
from fastedgy.dependencies.keys import ProviderKey, Token
from fastedgy.dependencies.parameters import inject_key, injected
from fastedgy.dependencies.process import get_container_service

__all__ = [
    "Container",
    "Inject",
    "ProviderKey",
    "Token",
    "get_container_service",
    "get_service",
    "has_service",
    "inject_key",
    "injected",
    "offer_route",
    "provide",
    "register_service",
    "resolve_inject",
    "unregister_service",
]

T = TypeVar("T")


def register_service(service: Any, key: ProviderKey | Any = None, *, force: bool = False) -> None:
    """Provide a service: an instance, a class, or a factory, under its own type or under `key`.

    See `Container.register`. Raises ServiceExists unless `force` when the key is taken.
    """
    get_container_service().register(service, key, force=force)


def unregister_service(key: ProviderKey | Any) -> None:
    """Forget what was registered under a key, as tests do in the end."""
    get_container_service().unregister(key)


def has_service(key: ProviderKey | Any) -> bool:
    """Whether there is a service under a key, or a registered way to make one."""
    return get_container_service().has(key)


@overload
def get_service(key: Token[T]) -> T: ...
@overload
def get_service(key: type[T]) -> T: ...
def get_service(key: Any) -> Any:
    """The service of a key, anywhere: in routes, tasks, commands and scripts.

    Raises ServiceNotFound (a LookupError) with the whole chain when it cannot be provided.
    """
    return get_container_service().get(key)
