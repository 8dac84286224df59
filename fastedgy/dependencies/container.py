"""The container: one per process, the same for routes, tasks, commands and scripts."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar, overload

from fastedgy.dependencies.keys import Token, chain_name, key_name
from fastedgy.dependencies.parameters import Parameter
from fastedgy.dependencies.provider import Provider, building, check_key, step, why_not_built
from fastedgy.errors import DependencyError, ServiceExists, ServiceNotFound

logger = logging.getLogger("fastedgy.dependencies")

T = TypeVar("T")
_running: set[asyncio.Future[None]] = set()
"""Async factories at work: the event loop itself holds them only weakly."""


class Container:
    """Services by key: instances, and how to build those that are not there yet.

    What counts for a key: what was registered, else what a running application provides
    (`lend`), else what an application suggests, else the class itself, built from its type hints.
    Each key has one service. Safe to use from any thread; building holds a lock, so constructors
    and factories should not wait for long.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._registered: dict[Any, Provider] = {}
        self._lent: dict[Any, list[Provider]] = {}
        self._suggested: dict[Any, Provider] = {}
        self._built: dict[Any, Any] = {}
        self._users: dict[Any, set[Any]] = {}
        self._starting: dict[Any, Future[Any]] = {}

    def register(self, service: Any, key: Any = None, *, force: bool = False) -> None:
        """Provide a service: an instance, a class, or a factory that is called when first needed.

        Without `key`, it is the class, the type of the instance, or what the factory is annotated
        to return. A factory is a function, sync or async; its parameters are filled like those of
        a constructor. What was built with an earlier service of that key is built anew.

        Raises ServiceExists unless `force` when the key is taken.
        """
        provider = Provider.of(service)
        key = provider.own_key() if key is None else key
        check_key(key)
        with self._lock:
            if not force and (key in self._registered or self._lent_under(key)):
                raise ServiceExists(
                    f"A service is registered under {key_name(key)} already. Replace it with "
                    "force=True, or use a Token as the key of another one."
                )
            self._registered[key] = provider
            self._refresh(key)
        logger.debug("Registered %s under %s", provider, key_name(key))

    def unregister(self, key: Any) -> None:
        """Forget what was registered under a key, and what was built for it.

        A service of the running application, if it was overridden, is back afterwards. A key that
        nothing is registered under is fine.
        """
        with self._lock:
            known = self._registered.pop(key, None)
            self._refresh(key)
        logger.debug("%s %s", "Unregistered" if known else "Nothing to unregister:", key_name(key))

    def suggest(self, service: Any, key: Any = None) -> None:
        """Provide a service that anything registered, and a running application, goes before."""
        provider = Provider.of(service)
        key = provider.own_key() if key is None else key
        with self._lock:
            self._suggested[key] = provider
            if key not in self._registered and not self._lent_under(key):
                self._refresh(key)

    @contextmanager
    def lend(self, services: Mapping[Any, Any]) -> Iterator[None]:
        """Provide services for the time of a block: those of a running application.

        A key may also be the import name of a class ("shop.mail:Mailer"), which nobody imports
        before it is asked for. What was registered goes before them. What is registered for the
        first time, or built, within the block ends with it, as it may hold what the application
        has closed.
        """
        providers = {_imported(key): Provider.of(service) for key, service in services.items()}
        with self._lock:
            registered, built = set(self._registered), set(self._built)
            for key, provider in providers.items():
                self._lent.setdefault(key, []).append(provider)
                if key not in self._registered:
                    self._refresh(key)
        try:
            yield
        finally:
            with self._lock:
                mine = set(providers.values())
                ended = [key for key, lent in self._lent.items() if not mine.isdisjoint(lent)]
                for key in ended:
                    self._lent[key] = [each for each in self._lent[key] if each not in mine]
                    if not self._lent[key]:
                        del self._lent[key]
                for key in set(self._registered) - registered:
                    del self._registered[key]
                for key in {*ended, *(set(self._built) - built)}:
                    self._refresh(key)

    def has(self, key: Any) -> bool:
        """Whether there is a service, or a way to make one, without building the bare class."""
        return key in self._built or self._provider(key) is not None

    @overload
    def get(self, key: Token[T]) -> T: ...
    @overload
    def get(self, key: type[T]) -> T: ...
    def get(self, key: Any) -> Any:
        """The service of a key, built when it is first asked for.

        Raises ServiceNotFound, CircularDependency, DependencyError for one that only an async
        factory makes and that is not there yet (`aget`), and whatever its constructor raises.
        """
        chain = building.get()
        if chain:
            self._users.setdefault(key, set()).add(chain[-1])
        try:
            return self._built[key]
        except KeyError:
            pass
        with self._lock:
            if key in self._built:
                return self._built[key]
            with step(key):
                provider = self._provider(key) or self._bare(key)
                if provider.is_async:
                    raise DependencyError(
                        f"{key_name(key)} is made by an async factory, and code that cannot await "
                        f"asked for it ({chain_name(building.get())}). Inject it into a route, or "
                        f"`await get_container_service().aget({key_name(key)})` first."
                    )
                return self._keep(key, provider, provider(*self._arguments(provider)))

    async def aget(self, key: Any) -> Any:
        """Like `get`, and awaits the async factories that the service needs. Each runs once."""
        if key not in self._built:
            await self._start(key)
        return self.get(key)

    async def start(self) -> None:
        """Run all async factories that are registered, as a running application does at once.

        So that constructors and tasks, which cannot await, get what these make.
        """
        for key, provider in list(self._registered.items()):
            if provider.is_async:
                await self.aget(key)

    def clear_cache(self) -> None:
        """Forget what was built; what was registered stays, factories run again when needed."""
        with self._lock:
            for key in list(self._built):
                self._refresh(key)

    def reset(self) -> None:
        """Forget everything but what a running application provides. For tests."""
        with self._lock:
            self._registered.clear()
            self._suggested.clear()
            self.clear_cache()

    @property
    def _map(self) -> Mapping[Any, Any]:
        """All services that are there: instances, and factories that have not run. To look at."""
        with self._lock:
            layers = (self._suggested, {key: lent[-1] for key, lent in self._lent.items()},
                      self._registered)  # fmt: skip
            known = {key: each.made_from for layer in layers for key, each in layer.items()}
            return MappingProxyType(known | self._built)

    # Building

    def _provider(self, key: Any) -> Provider | None:
        lent = self._lent_under(key)
        return self._registered.get(key) or (lent[-1] if lent else self._suggested.get(key))

    def _lent_under(self, key: Any) -> list[Provider]:
        """What was lent under a key, or under its import name while that was not imported."""
        found = self._lent.get(key)
        if found is None and isinstance(key, type):
            with self._lock:
                for name in self._lent:
                    if _imported(name) is key:
                        found = self._lent[key] = self._lent.pop(name)
                        break
        return found or []

    def _bare(self, key: Any) -> Provider:
        reason = why_not_built(key)
        if reason is not None:
            raise self._missing(f"No service is registered under {key_name(key)}, and {reason}")
        return Provider(key, build=True)

    def _arguments(self, provider: Provider) -> tuple[list[Any], dict[str, Any]]:
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for parameter in provider.parameters():
            if parameter.has_default:
                if parameter.positional:
                    positional.append(parameter.default)
                continue
            key = self._key_of(parameter)
            value = None if key is None else self.get(key)
            if parameter.positional:
                positional.append(value)
            else:
                named[parameter.name] = value
        return positional, named

    def _key_of(self, parameter: Parameter) -> Any:
        """The key that fills a parameter without a default. None: the parameter is None."""
        if parameter.inject is not None:
            return parameter.inject
        reason = parameter.unreadable
        if reason is None:
            if self._knows(parameter.key):
                return parameter.key
            if parameter.optional:
                return None
            reason = why_not_built(parameter.key)
            if reason is None:
                return parameter.key
        owner = key_name(building.get()[-1])
        raise self._missing(
            f"The parameter `{parameter}` of {owner} cannot be filled: {reason}. Give it a default "
            f"or an Inject(...), or register {owner} yourself"
        )

    def _knows(self, key: Any) -> bool:
        try:
            return self.has(key)
        except TypeError:  # an annotation that cannot be a key, as it cannot be hashed
            return False

    @staticmethod
    def _missing(sentence: str) -> ServiceNotFound:
        chain = building.get()
        wanted = f" (wanted by {chain_name(chain)})" if len(chain) > 1 else ""
        return ServiceNotFound(f"{sentence}{wanted}.")

    def _keep(self, key: Any, provider: Provider, service: Any) -> Any:
        if inspect.iscoroutine(service):
            service.close()
            raise DependencyError(
                f"The factory of {key_name(key)} returned a coroutine. Register the `async def` "
                "function itself."
            )
        self._built[key] = service
        logger.debug("Built %s with %s", chain_name(building.get()), provider)
        return service

    def _refresh(self, key: Any) -> None:
        """Put what counts for a key now in place, and forget whatever was built with the old."""
        self._built.pop(key, None)
        self._starting.pop(key, None)
        provider = self._provider(key)
        if provider is not None and not provider.build:
            self._built[key] = provider.made_from
        for user in self._users.pop(key, set()):
            known = self._provider(user)
            if user in self._built and (known is None or known.build):
                logger.debug("%s is built anew, as %s changed", key_name(user), key_name(key))
                self._refresh(user)

    # Async factories

    async def _start(self, key: Any) -> None:
        """Run the async factories that a key needs, those that others need first."""
        if key in self._built:
            return
        with step(key):
            provider = self._provider(key) or self._bare(key)
            if not provider.build:
                return
            for parameter in provider.parameters():
                needed = None if parameter.has_default else self._key_of(parameter)
                if needed is not None:
                    await self._start(needed)
            if not provider.is_async:
                return
            with self._lock:
                future = self._starting.get(key)
                if future is None and key not in self._built:
                    future = self._starting[key] = Future()
                    # A task of its own, so that a request that is cancelled takes nobody with it.
                    task = asyncio.ensure_future(self._run(key, provider, future))
                    _running.add(task)
                    task.add_done_callback(_running.discard)
        if future is not None:
            await asyncio.shield(asyncio.wrap_future(future))

    async def _run(self, key: Any, provider: Provider, future: Future[Any]) -> None:
        try:
            service = await provider(*self._arguments(provider))
        except BaseException as error:
            provider.note(error)
            with self._lock:
                self._forget_start(key, future)
            future.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            with self._lock:
                # Unless it was replaced while it was being made.
                if self._starting.get(key) is future:
                    self._keep(key, provider, service)
                self._forget_start(key, future)
            future.set_result(service)

    def _forget_start(self, key: Any, future: Future[Any]) -> None:
        if self._starting.get(key) is future:
            del self._starting[key]


def _imported(key: Any) -> Any:
    """The class that has an import name, once its module is imported; until then the name."""
    if not isinstance(key, str):
        return key
    module, _, name = key.partition(":")
    known = sys.modules.get(module)
    return key if known is None else vars(known).get(name, key)
