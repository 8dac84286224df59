"""Reading from a signature which services a constructor, a factory or a task wants."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from fastapi.params import Depends

from fastedgy.dependencies.keys import ProviderKey, key_name
from fastedgy.errors import DependencyError

EMPTY = inspect.Parameter.empty


class Injected:
    """What FastAPI calls to get the service of a key. `Inject(key)` holds one."""

    def __init__(self, key: Any) -> None:
        self.key = key

    def __eq__(self, other: object) -> bool:
        # Equal ones are asked once in a request.
        return type(other) is type(self) and self.key == other.key

    def __hash__(self) -> int:
        return hash((type(self), self.key))

    def __repr__(self) -> str:
        return f"Inject({key_name(self.key)})"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: the key that `Inject` names, and the one that its annotation means."""

    name: str
    positional: bool
    default: Any = EMPTY
    inject: Any = None
    key: Any = None
    optional: bool = False
    written: str = ""
    unreadable: str | None = None

    @property
    def has_default(self) -> bool:
        """Whether it keeps what its author wrote."""
        return self.default is not EMPTY

    def __str__(self) -> str:
        return f"{self.name}: {self.written}" if self.written else self.name


def inject_key(default: object) -> ProviderKey | None:
    """The key, if a parameter's default (or an item of its Annotated) is an `Inject(key)`."""
    call: object = default.dependency if isinstance(default, Depends) else None
    if isinstance(call, Injected):
        key: ProviderKey = call.key
        return key
    return None


def read_parameters(call: Callable[..., Any]) -> list[Parameter]:
    """The parameters of a class or function, without *args and **kwargs.

    Raises DependencyError for a callable whose signature Python does not know.
    """
    return [
        _read(parameter, call)
        for parameter in _signature(call).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


_injected: WeakKeyDictionary[Any, dict[str, ProviderKey]] = WeakKeyDictionary()


def injected(func: Callable[..., Any]) -> dict[str, ProviderKey]:
    """The parameters of a function that the container fills, and their keys. Remembered."""
    try:
        return _injected[func]
    except (KeyError, TypeError):
        pass
    found = {}
    for parameter in _signature(func).parameters.values():
        key = inject_key(parameter.default)
        if key is None and "Inject" in str(parameter.annotation):
            key = _read(parameter, func).inject
        if key is not None:
            found[parameter.name] = key
    with suppress(TypeError):  # without weak references it is read anew each time
        _injected[func] = found
    return found


def returned_key(factory: Callable[..., Any]) -> Any:
    """The key that a factory's return annotation names, or None."""
    annotation = _signature(factory).return_annotation
    if isinstance(annotation, str):
        try:
            annotation = _evaluate(annotation, factory)
        except NameError:
            return None
    return annotation if isinstance(annotation, type) and annotation is not EMPTY else None


def _signature(call: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(call)
    except (ValueError, TypeError) as error:
        raise DependencyError(
            f"{key_name(call)} cannot be built, because its signature is not known to Python. "
            "Register an instance of it."
        ) from error


def _read(parameter: inspect.Parameter, call: Callable[..., Any]) -> Parameter:
    annotation = parameter.annotation
    read = Parameter(
        parameter.name,
        positional=parameter.kind is parameter.POSITIONAL_ONLY,
        written="" if annotation is EMPTY else _written(annotation),
    )
    key = inject_key(parameter.default)
    if key is not None:
        return replace(read, inject=key)
    if isinstance(parameter.default, Depends):
        reason = "Depends() works in routes and their dependencies only; write Inject(...)"
        return replace(read, unreadable=reason)
    # An annotation beside a default matters only if it may hold an Inject. Otherwise it need not
    # even be importable.
    if parameter.default is not EMPTY and "Inject" not in str(annotation):
        return replace(read, default=parameter.default)
    if annotation is EMPTY:
        return read
    if isinstance(annotation, str):
        try:
            annotation = _evaluate(annotation, call)
        except Exception as error:
            return replace(read, unreadable=f"its type hint cannot be read ({error})")
    if get_origin(annotation) is Annotated:
        for item in get_args(annotation)[1:]:
            key = inject_key(item)
            if key is not None:
                return replace(read, inject=key)
        annotation = get_args(annotation)[0]
    if parameter.default is not EMPTY:
        return replace(read, default=parameter.default)
    if get_origin(annotation) in (Union, types.UnionType):
        members = [each for each in get_args(annotation) if each is not types.NoneType]
        optional = len(members) < len(get_args(annotation))
        return replace(read, key=members[0] if len(members) == 1 else None, optional=optional)
    return replace(read, key=annotation)


def _written(annotation: object) -> str:
    if isinstance(annotation, str):
        return annotation
    return key_name(annotation)


def _evaluate(annotation: str, call: Callable[..., Any]) -> Any:
    """What an annotation that is text means in the module where it was written."""
    while isinstance(call, partial):
        call = call.func
    function: Any = inspect.unwrap(call)
    local: dict[str, Any] = {}
    known: dict[str, Any] | None = None
    if isinstance(function, type):
        local = {function.__name__: function, **vars(function)}
        for name in ("__init__", "__new__"):
            # That of a base class was written in the module of the base class.
            constructor: Any = inspect.unwrap(getattr(function, name))
            known = known or getattr(constructor, "__globals__", None)
        known = known or vars(sys.modules[function.__module__])
    else:
        known = getattr(function, "__globals__", {})
    holder = types.SimpleNamespace(__annotations__={"annotation": annotation})
    return get_type_hints(holder, known, local, include_extras=True)["annotation"]
