"""Rebuilding arguments from a function's annotations, where JSON alone would not give them back."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import logging
import sys
import types
import typing
from collections.abc import Callable
from inspect import Parameter
from typing import Any, Literal

import orjson

from fastedgy.errors import InvalidArguments
from fastedgy.queued_task.encoding import clean
from fastedgy.queued_task.signatures import Shape

logger = logging.getLogger("queued_task")

Rebuild = Callable[[Any], Any]

# JSON gives these back as they went in.
_PLAIN = {
    Parameter.empty, Any, object, None, type(None), str, int, float, bool, list, dict,
    typing.List, typing.Dict, typing.Sequence, typing.Mapping,  # noqa: UP006
    collections.abc.Sequence, collections.abc.Mapping, collections.abc.Iterable,
    collections.abc.Collection, collections.abc.MutableSequence, collections.abc.MutableMapping,
}  # fmt: skip


class Plan:
    """What has to be rebuilt in the arguments of one function."""

    __slots__ = ("_by_name", "_by_position", "_function", "_names", "_rest", "_rest_by_name")

    def __init__(self, call: Callable[..., Any], shape: Shape, function: str) -> None:
        self._function = function
        self._names = shape.names
        self._by_name: dict[str, Rebuild] = {}
        self._rest: Rebuild | None = None
        self._rest_by_name: Rebuild | None = None
        for name, annotation in _annotations(call, shape, function).items():
            rebuild = _rebuilder(annotation)
            if rebuild is None:
                continue
            if name == shape.rest:
                self._rest = rebuild
            elif name == shape.rest_by_name:
                self._rest_by_name = rebuild
            else:
                self._by_name[name] = rebuild
        self._by_position = [
            (index, name, self._by_name[name])
            for index, name in enumerate(shape.names)
            if name in self._by_name
        ]

    @property
    def is_empty(self) -> bool:
        """Whether JSON gives back everything that the function asks for."""
        return not (self._by_name or self._rest or self._rest_by_name)

    def apply(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments as the function's annotations describe them.

        Raises InvalidArguments, naming the parameter, where a value cannot become that.
        """
        args = list(args)
        for index, name, rebuild in self._by_position:
            if index >= len(args):
                break
            args[index] = self._rebuilt(rebuild, name, args[index])
        if self._rest is not None:
            for index in range(len(self._names), len(args)):
                args[index] = self._rebuilt(self._rest, f"*args[{index}]", args[index])
        if kwargs:
            kwargs = dict(kwargs)
            for name, value in kwargs.items():
                one = self._by_name.get(name, None if name in self._names else self._rest_by_name)
                if one is not None:
                    kwargs[name] = self._rebuilt(one, name, value)
        return args, kwargs

    def _rebuilt(self, rebuild: Rebuild, name: str, value: Any) -> Any:
        if value is None:  # None is None under every annotation, an implicit Optional too
            return None
        try:
            return rebuild(value)
        except orjson.JSONEncodeError:
            # Parents that came to nothing have their errors there, which no JSON and hardly an
            # annotation can say: the function gets what there is.
            return value
        except ValueError as error:  # Pydantic's ValidationError is one
            raise InvalidArguments(
                f"{self._function}: {name!r} cannot be rebuilt from its JSON: "
                f"{clean(str(error), 1000)}",
                parameter=name,
            ) from None


def _annotations(call: Callable[..., Any], shape: Shape, function: str) -> dict[str, Any]:
    """The annotation of every parameter that the row fills, evaluated."""
    target = inspect.unwrap(call)
    namespace = getattr(target, "__globals__", None)
    if namespace is None:
        namespace = vars(sys.modules.get(call.__module__, types.ModuleType("")))
    evaluated: dict[str, Any] = {}
    wanted = {*shape.names, *shape.keywords, shape.rest, shape.rest_by_name}
    for name, parameter in shape.signature.parameters.items():
        if name not in wanted:
            continue
        annotation = parameter.annotation
        if isinstance(annotation, str):
            try:
                annotation = _evaluate(annotation, namespace)
            except Exception as error:
                logger.warning(
                    "%s: the annotation %r of %r cannot be evaluated (%s: %s), so its value arrives"
                    " as plain JSON. Import it outside of `if TYPE_CHECKING`.",
                    function, annotation, name, type(error).__name__, error,
                )  # fmt: skip
                continue
        evaluated[name] = annotation
    return evaluated


def result_rebuilder(call: Callable[..., Any]) -> Rebuild | None:
    """A function from JSON to what `call` says it returns; None where JSON gives that back."""
    target = inspect.unwrap(call)
    annotation = getattr(target, "__annotations__", {}).get("return", Parameter.empty)
    if isinstance(annotation, str):
        try:
            annotation = _evaluate(annotation, getattr(target, "__globals__", {}))
        except Exception:  # logged where parameters are rebuilt; a result then is plain JSON
            return None
    try:
        return _remembered_rebuilder(annotation)
    except TypeError:  # unhashable
        return _rebuilder(annotation)


@functools.lru_cache(maxsize=1_000)
def _remembered_rebuilder(annotation: Any) -> Rebuild | None:
    return _rebuilder(annotation)


def _evaluate(annotation: str, namespace: dict[str, Any]) -> Any:
    """A string annotation, with the strings inside it (`list["Order"]`)."""

    def holder() -> None: ...

    holder.__annotations__ = {"value": annotation}
    return typing.get_type_hints(holder, namespace, include_extras=True)["value"]


def _rebuilder(annotation: Any) -> Rebuild | None:
    """A function from JSON to the annotated type; None where there is nothing to do."""
    if is_plain(annotation):
        return None
    # Here and not above: only functions with such annotations pay for these imports.
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        adapter.rebuild(raise_errors=True)
    except (PydanticUserError, TypeError, NameError, RecursionError):
        return None  # no value of such a type can be in a row, so what is there is plain JSON
    validate = adapter.validate_json
    dumps = orjson.dumps

    def rebuild(value: Any) -> Any:
        # From text, so that strict models and fields take what JSON has no type for. By name and
        # by alias: models travel by the names of their fields, a caller's own dict may not.
        return validate(dumps(value), by_alias=True, by_name=True)

    return rebuild


def is_plain(annotation: Any) -> bool:
    """Whether JSON gives a value of this type back as it was."""
    try:
        if annotation in _PLAIN:
            return True
    except TypeError:  # unhashable
        return False
    if isinstance(annotation, typing.TypeVar | typing.ParamSpec):
        return True
    if isinstance(annotation, typing.ParamSpecArgs | typing.ParamSpecKwargs):
        return True
    supertype = getattr(annotation, "__supertype__", None)  # NewType
    if supertype is not None:
        return is_plain(supertype)
    origin = typing.get_origin(annotation)
    if origin is None:
        return False
    parts = typing.get_args(annotation)
    if origin is typing.Annotated:
        return is_plain(parts[0])
    if origin is Literal:
        return all(part is None or type(part) in (str, int, bool) for part in parts)
    if origin in (typing.Union, types.UnionType) or origin in _PLAIN:
        return all(is_plain(part) for part in parts)
    return origin is typing.Unpack
