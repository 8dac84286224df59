"""Functions as tasks: the name under which workers find one, and how its arguments travel."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import InvalidArguments, InvalidFunction, InvalidOption
from fastedgy.queued_task.annotations import Plan
from fastedgy.queued_task.backoff import backoff, seconds_of
from fastedgy.queued_task.encoding import (
    HoldsTask,
    IdOf,
    NotEncodable,
    clean,
    dumps,
    dumps_references,
)
from fastedgy.queued_task.options import NO_OPTIONS, TaskOptions, options_of
from fastedgy.queued_task.signatures import Shape
from fastedgy.store.redaction import REDACTED

logger = logging.getLogger("queued_task")

LONGEST_KEY = 500

# The path of a function that travels in its row. No import path looks like this.
CLOSURE = "<closure>:"


class TaskAmongArguments(InvalidArguments):
    """There is a task among the arguments, and this is not where one can be waited for."""


class TaskFunction:
    """A function that can be a task, with all that is worth knowing of it worked out once.

    `path` is `module:qualname`, `name` what the task is called in lists, `call` the function
    itself, `is_async` whether calling it gives a coroutine, `options` those of `@task`, `injected`
    the keys of the services that it asks for, by parameter.
    """

    __slots__ = ("_plan", "_shape", "call", "injected", "is_async", "name", "options", "path")

    def __init__(self, call: Callable[..., Any], path: str) -> None:
        self.path = path
        self.call = call
        self.is_async = inspect.iscoroutinefunction(call)
        self.options = options_of(call) or NO_OPTIONS
        self.name = self.options.name or path.removeprefix(CLOSURE).replace(":", ".")
        self.injected = _injected(call)
        self._shape = Shape(inspect.signature(call), self.injected)
        self._plan: Plan | None = None

    def __repr__(self) -> str:
        return f"<TaskFunction {self.path}>"

    @property
    def is_closure(self) -> bool:
        """Whether it came in its task's row: then it is another one for each run."""
        return self.path.startswith(CLOSURE)

    @property
    def signature(self) -> inspect.Signature:
        """The function's own signature."""
        return self._shape.signature

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, str]:
        """The arguments as the JSON texts of a row: a list and an object.

        Raises InvalidArguments, naming the parameter, when they do not fit the signature or cannot
        travel as JSON; TaskAmongArguments when there are tasks among them: see `bind_tasks`.
        """
        if not self._shape.fits(args, kwargs):
            raise self._shape.misfit(self.name, args, kwargs)
        try:
            return (dumps(args) if args else "[]", dumps(kwargs) if kwargs else "{}")
        except HoldsTask as error:
            raise TaskAmongArguments(f"{self.name}: {error.reason}.") from None
        except NotEncodable as error:
            raise self._unencodable(args, kwargs, error, dumps) from None

    def bind_tasks(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], id_of: IdOf
    ) -> tuple[str, str]:
        """Like `bind`, for arguments with tasks among them: see `dumps_references`."""

        def write(value: Any) -> str:
            return dumps_references(value, id_of)

        try:
            return write(list(args)), write(dict(kwargs))
        except NotEncodable as error:
            raise self._unencodable(args, kwargs, error, write) from None

    def rebuild(self, args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a row as the function wants them. Injected ones are not among them.

        Raises InvalidArguments when they do not fit (any more) or cannot be rebuilt.
        """
        if type(args) is not list or type(kwargs) is not dict:
            raise InvalidArguments(f"{self.name}: args must be a JSON list and kwargs an object.")
        if not self._shape.fits(args, kwargs):
            raise self._shape.misfit(self.name, args, kwargs)
        plan = self._plan
        if plan is None:
            plan = self._plan = Plan(self.call, self._shape, self.name)
        if plan.is_empty:
            return args, kwargs
        return plan.apply(args, kwargs)

    def services(self) -> dict[str, Any]:
        """The injected arguments, from the container. Raises ServiceNotFound."""
        if not self.injected:
            return {}
        from fastedgy.dependencies import get_service

        return {name: get_service(key) for name, key in self.injected.items()}

    def unique_key(
        self, given: TaskOptions, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> str | None:
        """The key of one task: that of its own options as it is, or the function's filled in.

        Raises InvalidOption when the function's template cannot be filled.
        """
        template = self.options.unique_key
        if given.unique_key is not None or template is None:
            return given.unique_key
        return self.filled("unique_key", template, args, kwargs)

    def filled(
        self, option: str, template: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> str:
        """What a template such as `"report:{report_id}"` is for these arguments.

        Raises InvalidOption when it cannot be filled, or is too long then.
        """
        if "{" not in template and "}" not in template:
            return template
        values = self._shape.bound(args, kwargs)
        try:
            key = clean(template.format_map(values))
        except (LookupError, AttributeError, TypeError, ValueError) as error:
            raise InvalidOption(
                f"{self.name}: {option}={template!r} cannot be filled: {error!r}. "
                f"Braces may name these arguments: {', '.join(values)}."
            ) from None
        if len(key) > LONGEST_KEY:
            raise InvalidOption(
                f"{self.name}: {option}={template!r} has {len(key)} characters with these "
                f"arguments; at most {LONGEST_KEY} are allowed. Use an id or a hash."
            )
        return key

    def redacted(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments for the eyes of people: what `@task(redact=…)` names is hidden."""
        hidden = self.options.redact
        if not hidden:
            return list(args), dict(kwargs)
        shape = self._shape
        positional = [
            REDACTED if (shape.names[index] if index < len(shape.names) else shape.rest) in hidden
            else value
            for index, value in enumerate(args)
        ]  # fmt: skip
        every = shape.rest_by_name in hidden
        return positional, {
            name: REDACTED if every or name in hidden else value for name, value in kwargs.items()
        }

    def retries(self, error: BaseException) -> bool:
        """Whether this exception is one to try again after."""
        options = self.options
        if options.no_retry_on is not None and isinstance(error, options.no_retry_on):
            return False
        return options.retry_on is None or isinstance(error, options.retry_on)

    def delay_before_retry(self, attempt: int, config: QueuedTaskConfig) -> float:
        """Seconds to wait after failed attempt number `attempt` (1, 2, …).

        A back-off of the author's that raises or returns nonsense is logged, and replaced by the
        default for this once.
        """
        policy = self.options.backoff
        if policy is not None:
            try:
                return seconds_of(policy(attempt))
            except Exception:
                logger.exception("%s: its back-off failed for attempt %d", self.name, attempt)
        return backoff(attempt, base=config.retry_backoff, max=config.retry_backoff_max)

    def _unencodable(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        error: NotEncodable,
        write: Callable[[Any], str],
    ) -> InvalidArguments:
        """Find the argument at fault: encoding all of them at once does not tell."""
        named = [(self._shape.parameter_at(index), value) for index, value in enumerate(args)]
        for name, value in [*named, *kwargs.items()]:
            try:
                write(name)
                write(value)
            except NotEncodable as fault:
                shown = clean(name)
                return InvalidArguments(
                    f"{self.name}: {shown}{fault.path}: {fault.reason}.", parameter=shown
                )
        return InvalidArguments(f"{self.name}: {error}.")


_described: dict[Any, TaskFunction] = {}


def describe(func: Any) -> TaskFunction:
    """The task function that `func` is. One dict lookup after the first time.

    Raises InvalidFunction for what no worker could import by its name: a lambda, a nested function,
    a bound method, a partial, a class, a built-in, a coroutine instead of its function.
    """
    try:
        found = _described.get(func)
    except TypeError:  # unhashable: an instance of something
        found = None
    if found is None:
        check(func)
        path = _path_of(func)
        found = _described[func] = _made(func, path)
    return found


def describe_closure(func: Any) -> TaskFunction:
    """Like `describe`, for a function that travels in its row and needs no import name."""
    check(func)
    return _made(func, f"{CLOSURE}{func.__qualname__}")


def check(func: Any) -> None:
    """Raise InvalidFunction unless `func` is a plain Python function, importable or not."""
    problem = _no_function(func)
    if problem is not None:
        raise InvalidFunction(problem)


def call_in_thread(call: Callable[[], Any]) -> Any:
    """Make a call in a thread whose future somebody awaits."""
    try:
        return call()
    except StopIteration as error:
        # No future takes one: it would be lost on its way out of the thread, and the task not end.
        raise RuntimeError("the function raised StopIteration") from error


def _made(func: Any, path: str) -> TaskFunction:
    try:
        return TaskFunction(func, path)
    except (TypeError, ValueError, NameError) as error:
        if isinstance(error, InvalidFunction | InvalidOption):
            raise
        raise InvalidFunction(f"The signature of {path} cannot be read: {error}.") from None


def _no_function(func: Any) -> str | None:
    shown = clean(repr(func), 200)
    if inspect.isawaitable(func):
        name = getattr(func, "__qualname__", "function")
        if inspect.iscoroutine(func):
            func.close()  # it will never be awaited, and that is no news any more
        return (
            f"{shown} is the coroutine of a call that was already made. "
            f"Pass the function and its arguments apart: add_task({name}, …)."
        )
    if inspect.isclass(func):
        return f"{shown} is a class. Pass a function that makes and uses an instance."
    if isinstance(func, functools.partial):
        return f"{shown} is a partial. Pass its function, with all arguments to add_task."
    if inspect.ismethod(func):
        return (
            f"{shown} is a bound method, whose object would have to travel too. "
            "Pass a module-level function and the id of what it works on."
        )
    if not callable(func):
        cure = " Import the function and pass it itself." if isinstance(func, str) else ""
        return f"{shown} is not a function.{cure}"
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        return f"{shown} is a generator: nothing would iterate it. Pass a function that does."
    if inspect.isfunction(func) or _is_compiled(func):
        return None
    if inspect.isroutine(func):
        return f"{shown} is a built-in. Call it in a function of your own, and pass that."
    return f"{shown} is an object that can be called. Pass a module-level function that calls it."


def _is_compiled(func: Any) -> bool:
    """Whether it is a function that Cython or mypyc made."""
    return type(func).__name__ == "cython_function_or_method"


def _path_of(func: Any) -> str:
    module: str = func.__module__ or ""
    qualname: str = func.__qualname__
    named = "the lambda" if qualname.endswith("<lambda>") else f"{module}.{qualname}"
    if "<" in qualname:
        where = "is a lambda" if qualname.endswith("<lambda>") else "is defined inside a function"
        raise InvalidFunction(
            f"{named} of {module} {where}, so that no worker could import it. Move it to the top "
            "level of a module (a decorator must use functools.wraps), or see QUEUE_SIGNING_KEYS."
            if named == "the lambda"
            else f"{named} {where}, so that no worker could import it. Move it to the top level "
            "of a module (a decorator must use functools.wraps), or see QUEUE_SIGNING_KEYS."
        )
    if module == "__main__":
        raise InvalidFunction(
            f"{qualname} is defined in the script that is running (__main__), which no worker "
            "could import by that name. Move it to a module and import it from there."
        )
    parent: Any = sys.modules.get(module)
    found = parent
    for part in qualname.split("."):
        parent, found = found, inspect.getattr_static(found, part, None)
    if isinstance(found, staticmethod):
        found = found.__func__
    elif inspect.isclass(parent):
        raise InvalidFunction(
            f"{named} is a method, whose object would have to travel too. Pass a module-level "
            "function, or make it a staticmethod."
        )
    if found is not func:
        raise InvalidFunction(
            f"{named} is not what stands under that name ({clean(repr(found), 100)}), so that a "
            "worker would import something else. Pass the one that does."
        )
    return f"{module}:{qualname}"


def _injected(call: Callable[..., Any]) -> dict[str, Any]:
    """The keys of injected parameters. Most functions have none, and need not import FastAPI."""
    for parameter in inspect.signature(call).parameters.values():
        is_usual = type(parameter.default).__module__ == "builtins"
        if not is_usual or "Inject" in str(parameter.annotation):
            from fastedgy.dependencies import injected

            return dict(injected(call))
    return {}
