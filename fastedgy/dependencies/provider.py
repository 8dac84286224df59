"""Where services come from, and what can be built at all."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from functools import partial
from typing import Any

from fastedgy.dependencies.keys import chain_name, key_name
from fastedgy.dependencies.parameters import Parameter, read_parameters, returned_key
from fastedgy.errors import CircularDependency, DependencyError

building: ContextVar[tuple[Any, ...]] = ContextVar("fastedgy_building", default=())
"""The keys that are being built here, the first one asked for in front."""


class Provider:
    """Where a service comes from: an instance, or something to call (`build`)."""

    __slots__ = ("build", "is_async", "made_from")

    def __init__(self, made_from: Any, *, build: bool) -> None:
        self.made_from = made_from
        self.build = build
        self.is_async = build and inspect.iscoroutinefunction(inspect.unwrap(made_from))

    @classmethod
    def of(cls, service: Any) -> Provider:
        """What was given to `register`: classes and functions are called, all else is the service.

        A mock, or any other object that can be called, is a service.
        """
        if inspect.iscoroutine(service):
            service.close()
            raise DependencyError(
                "register_service() got a coroutine. Register the `async def` function itself, or "
                "await it first."
            )
        plain = inspect.unwrap(service) if hasattr(service, "__wrapped__") else service
        if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
            raise DependencyError(
                f"The factory {plain.__qualname__} yields. A service lives as long as the "
                "application: return it, and close it in the application's lifespan."
            )
        build = isinstance(plain, type | partial) or inspect.isroutine(plain)
        return cls(service, build=build)

    def own_key(self) -> Any:
        """The key when none is given."""
        if not self.build:
            return type(self.made_from)
        if isinstance(self.made_from, type):
            return self.made_from
        key = returned_key(self.made_from)
        if key is None:
            raise DependencyError(
                f"Which service does the factory {self} make? Annotate what it returns, or write "
                "register_service(factory, TheClass)."
            )
        return key

    def parameters(self) -> list[Parameter]:
        return read_parameters(self.made_from)

    def __call__(self, positional: list[Any], named: dict[str, Any]) -> Any:
        try:
            return self.made_from(*positional, **named)
        except Exception as error:
            self.note(error)
            raise

    @staticmethod
    def note(error: BaseException) -> None:
        """Let the traceback say for whom the service was built."""
        note = f"while {chain_name(building.get())} was built to be injected"
        if not isinstance(error, DependencyError) and note not in getattr(error, "__notes__", ()):
            error.add_note(note)

    def __str__(self) -> str:
        name = getattr(self.made_from, "__qualname__", None)
        if not self.build or name is None:
            return f"{key_name(type(self.made_from))} instance"
        return str(name).rpartition("<locals>.")[2]


@contextmanager
def step(key: Any) -> Iterator[None]:
    """Building `key`, for whatever is being built around it."""
    chain = (*building.get(), key)
    if key in chain[:-1]:
        raise CircularDependency(
            f"{key_name(key)} needs itself: {chain_name(chain[chain.index(key) :])}. Break the "
            "circle: let one of them call get_service() when it needs the other, instead of taking "
            "it in its constructor."
        )
    token = building.set(chain)
    try:
        yield
    finally:
        building.reset(token)


def why_not_built(key: Any) -> str | None:
    """Why a key that nothing is registered under cannot be built, or None if it can."""
    if key is None:
        return "it has no type hint that names one class"
    if not isinstance(key, type):
        return "it is no class that could be built"
    if hasattr(key, "__route__"):
        return (
            "it is there only while an application runs that has it. In tests, use "
            "`with TestClient(app) as client`; in a script, `async with` the service itself"
        )
    if getattr(key, "_is_protocol", False) or inspect.isabstract(key):
        return "it is abstract: register_service(implementation, key) says which one to use"
    module = key.__module__.partition(".")[0]
    if module in sys.stdlib_module_names or issubclass(key, Enum):
        return "it is a plain value, of which there is no single one"
    return None


def check_key(key: Any) -> None:
    try:
        hash(key)
    except TypeError:
        raise DependencyError(
            f"{key!r} cannot be the key of a service. Use a class or a Token."
        ) from None
