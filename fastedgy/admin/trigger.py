"""Adding tasks from outside of the application: only what it offers, only what fits."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_type_hints
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from fastedgy.admin.service import QueueAdmin
from fastedgy.errors import InvalidArguments
from fastedgy.queued_task.encoding import NotEncodable, dumps
from fastedgy.queued_task.functions import TaskFunction
from fastedgy.queued_task.offered import decorated, resolve
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.store import audit

_OURS = frozenset({"self", "func", "parent"})
"""Names that `add_task` takes itself."""


@dataclass(frozen=True, slots=True)
class Offered:
    """A function that can be triggered. `doc`: the first line of its docstring."""

    function: str
    name: str
    signature: str
    doc: str | None


def offered_tasks() -> list[Offered]:
    """The functions with `@task` that this process knows, by their paths."""
    return [
        Offered(
            function.path,
            function.name,
            str(function.signature),
            (inspect.getdoc(function.call) or "").partition("\n")[0] or None,
        )
        for function in decorated()
    ]


def check_types(target: TaskFunction, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise InvalidArguments for a value that its parameter's annotation does not allow.

    The application's own code is checked by its tools; what comes from outside is checked here.
    Annotations that Pydantic cannot check allow everything.
    """
    bound = target.signature.bind_partial(*args, **kwargs).arguments
    for name, adapter in _adapters(target).items():
        if name not in bound:
            continue
        try:
            adapter.validate_json(dumps(bound[name]), strict=True)
        except NotEncodable as error:
            raise InvalidArguments(f"{target.name}: {name}: {error}.", parameter=name) from None
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            raise InvalidArguments(f"{target.name}: {name}: {what}.", parameter=name) from None


@functools.cache
def _adapters(target: TaskFunction) -> dict[str, TypeAdapter[Any]]:
    try:
        hints = get_type_hints(target.call)
    except Exception:  # names that are there for type checkers only
        return {}
    adapters = {}
    for parameter in target.signature.parameters.values():
        single = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if single and parameter.name in hints and parameter.name not in target.injected:
            with suppress(PydanticSchemaGenerationError):
                adapters[parameter.name] = TypeAdapter(hints[parameter.name])
    return adapters


async def trigger(
    admin: QueueAdmin,
    tasks: QueuedTasks,
    function: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    options: Mapping[str, Any],
    parent: Sequence[UUID] = (),
    actor: str,
    source: str,
) -> UUID:
    """Add a task and note who did; returns its id, or that of the task that holds its unique key.

    The arguments are JSON's own types, and are rebuilt here as a worker will do it.

    Raises FunctionNotFound, FunctionRefused, InvalidArguments, InvalidOption, ParentNotFound,
    DuplicateTask.
    """
    target = resolve(function, tasks.config)
    target.rebuild(list(args), dict(kwargs))
    check_types(target, args, kwargs)
    maker = tasks.task(**options)
    parents = list(parent) or None
    if kwargs and not args:
        [ref] = maker.add_tasks(target.call, [kwargs], parent=parents)
    elif taken := sorted(_OURS & kwargs.keys()):
        raise InvalidArguments(
            f"{target.name}: give {taken[0]!r} and all other arguments by name here.",
            parameter=taken[0],
        )
    else:
        ref = maker.add_task(target.call, *args, parent=parents, **kwargs)
    id = await ref.get_task_id()
    async with admin.connection() as connection:
        await audit.note(
            connection, admin.tables, actor=actor, source=source, action="task.add",
            target=f"task:{id}", details={"function": target.path, "options": dict(options)},
        )  # fmt: skip
    return id
