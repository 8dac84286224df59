"""Whether arguments fit a function, decided in a fraction of a microsecond."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter
from typing import Any

from fastedgy.errors import InvalidArguments

# Words that callers of other systems put among the arguments.
_OPTIONS = frozenset(
    (
        *("queue", "channel", "priority", "delay", "at", "max_retries", "timeout", "name"),
        *("unique_key", "unique_for", "unique_while", "on_duplicate", "on_parent_failure"),
        *("auto_remove", "limit", "per", "rate", "breaker"),
    )
)


class Shape:
    """How a function may be called from a row: its signature without what is injected.

    Everything that `fits` needs is laid out beforehand, because it runs for every task.
    """

    __slots__ = (
        "_fewest",
        "_injected",
        "_keyword_only",
        "_most",
        "_open",
        "_positional_only",
        "_positions",
        "_required",
        "keywords",
        "names",
        "rest",
        "rest_by_name",
        "signature",
    )

    def __init__(self, signature: inspect.Signature, injected: Collection[str]) -> None:
        self.signature = signature
        self._injected = frozenset(injected)
        # By position, up to the first injected one: what follows it can be given by name only.
        self.names: tuple[str, ...] = ()
        self.rest: str | None = None  # the name of *args
        self.rest_by_name: str | None = None  # the name of **kwargs
        self.keywords: tuple[str, ...] = ()  # can be given by name only
        self._positions: dict[str, int] = {}
        keyword_only: list[str] = []
        positional: list[Parameter] = []
        passed_injected = False
        for parameter in signature.parameters.values():
            name = parameter.name
            if name in self._injected:
                passed_injected = passed_injected or parameter.kind is not Parameter.KEYWORD_ONLY
            elif parameter.kind is Parameter.VAR_POSITIONAL:
                self.rest = None if passed_injected else name
            elif parameter.kind is Parameter.VAR_KEYWORD:
                self.rest_by_name = name
            elif parameter.kind is Parameter.KEYWORD_ONLY or passed_injected:
                self._positions[name] = sys.maxsize
                if parameter.default is Parameter.empty:
                    keyword_only.append(name)
            else:
                if parameter.kind is not Parameter.POSITIONAL_ONLY:
                    self._positions[name] = len(positional)
                positional.append(parameter)
        self.names = tuple(parameter.name for parameter in positional)
        self._required = tuple(p.name for p in positional if p.default is Parameter.empty)
        self.keywords = tuple(
            name for name, position in self._positions.items() if position == sys.maxsize
        )
        self._keyword_only = tuple(keyword_only)
        self._positional_only = sum(
            p.kind is Parameter.POSITIONAL_ONLY and p.default is Parameter.empty for p in positional
        )
        self._fewest = len(self._required) if not keyword_only else sys.maxsize
        self._most = len(positional) if self.rest is None else sys.maxsize
        self._open = self.rest_by_name is not None

    def fits(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether the function can be called with these, besides what is injected."""
        given = len(args)
        if not kwargs:
            return self._fewest <= given <= self._most
        if given > self._most or given < self._positional_only:
            return False
        positions = self._positions
        for name in kwargs:
            position = positions.get(name)
            if position is None:
                if not self._open or name in self._injected:
                    return False
            elif position < given:
                return False
        if given < len(self._required):
            for name in self._required[given:]:
                if name not in kwargs:
                    return False
        for name in self._keyword_only:  # noqa: SIM110 - a generator costs more than the loop
            if name not in kwargs:
                return False
        return True

    def misfit(
        self, function: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> InvalidArguments:
        """The error for arguments that do not fit, naming the parameter at fault."""
        message, parameter = self._fault(args, kwargs)
        return InvalidArguments(
            f"{function}: {message}. Its signature is {self.signature}.", parameter=parameter
        )

    def parameter_at(self, index: int) -> str:
        """What to call the positional argument number `index` in an error."""
        if index < len(self.names):
            return self.names[index]
        return f"{self.rest or 'argument '}[{index - len(self.names)}]"

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by the name of their parameter, defaults included, injected ones not."""
        values = {
            name: parameter.default
            for name, parameter in self.signature.parameters.items()
            if parameter.default is not Parameter.empty and name not in self._injected
        }
        values.update(zip(self.names, args, strict=False))
        values.update(kwargs)
        return values

    def _fault(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, str | None]:
        given = len(args)
        if given > self._most:
            most = "no argument" if self._most == 0 else f"at most {self._most}"
            hint = " (what follows an injected one is given by name)" if self._injected else ""
            return f"{given} positional arguments were given, it takes {most}{hint}", None
        for name in kwargs:
            position = self._positions.get(name)
            if name in self._injected:
                return f"{name!r} is injected where the task runs; do not pass it", name
            if position is None and not self._open:
                return self._unknown(name), name
            if position is not None and position < given:
                return f"{name!r} was given twice, by position and by name", name
        for index, name in enumerate(self._required):
            if index >= given and (index < self._positional_only or name not in kwargs):
                return f"the argument {name!r} is missing", name
        for name in self._keyword_only:
            if name not in kwargs:
                return f"the argument {name!r} is missing", name
        return "the arguments do not fit", None

    def _unknown(self, name: str) -> str:
        if name in self.names:
            return f"{name!r} can be given by position only"
        message = f"it has no parameter {name!r}"
        if name in _OPTIONS:
            return f"{message}; options go to tasks.task({name}=…).add_task(…)"
        near = get_close_matches(str(name), [*self._positions], 1)
        return f"{message} (did you mean {near[0]!r}?)" if near else message
