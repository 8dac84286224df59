"""`tasks.task(…)`: options for one task, and the making of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from fastedgy.errors import InvalidArguments, InvalidFunction, InvalidOption
from fastedgy.ids import new_id
from fastedgy.queued_task.closures import pack
from fastedgy.queued_task.functions import TaskFunction, describe, describe_closure
from fastedgy.queued_task.options import TaskOptions
from fastedgy.queued_tasks.buffer import Pending
from fastedgy.queued_tasks.ref import QueuedTaskRef
from fastedgy.store.insert import NewTask

if TYPE_CHECKING:
    from fastedgy.queued_tasks.service import QueuedTasks

Parent = QueuedTaskRef | UUID | str
"""A task to wait for: a ref, or an id."""


class TaskMaker:
    """Makes tasks with these options. `tasks.task(queue="mail").add_task(send, address)`."""

    __slots__ = ("_options", "_service")

    def __init__(self, service: QueuedTasks, options: TaskOptions) -> None:
        self._service = service
        self._options = options

    def add_task(
        self,
        func: Callable[..., Any],
        *args: Any,
        parent: Parent | Iterable[Parent] | None = None,
        **kwargs: Any,
    ) -> QueuedTaskRef:
        """Like `QueuedTasks.add_task`, with the options that this was made with."""
        function, closure = self._describe(func)
        pending = self._pending(function, closure, args, kwargs, _parents(parent))
        self._service._add([pending])
        return pending.ref

    def add_tasks(
        self,
        func: Callable[..., Any],
        calls: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        parent: Parent | Iterable[Parent] | None = None,
    ) -> list[QueuedTaskRef]:
        """Like `QueuedTasks.add_tasks`, with the options that this was made with."""
        function, closure = self._describe(func)
        parents = _parents(parent)
        batch = [
            self._pending(function, closure, (), dict(call), parents)
            if isinstance(call, Mapping)
            else self._pending(function, closure, _positional(function, call), {}, parents)
            for call in calls
        ]
        self._service._add(batch)
        return [pending.ref for pending in batch]

    def _describe(self, func: Callable[..., Any]) -> tuple[TaskFunction, bytes | None]:
        """The function, and itself as bytes if it has no import name and closures are allowed."""
        try:
            return describe(func), None
        except InvalidFunction:
            keys = self._service.config.signing_keys
            if not keys:
                raise
            return describe_closure(func), pack(func, keys)

    def _pending(
        self,
        function: TaskFunction,
        closure: bytes | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        parents: list[UUID | QueuedTaskRef],
    ) -> Pending:
        service = self._service
        options = function.options.merge(self._options)
        encoded_args, encoded_kwargs = function.bind(args, kwargs)
        unique_key = function.unique_key(self._options, args, kwargs)
        id = new_id()
        row = NewTask(
            id,
            options.name or function.name,
            function.path,
            encoded_args,
            encoded_kwargs,
            queue=options.queue or "default",
            priority=options.priority or 0,
            max_retries=service.config.max_retries
            if options.max_retries is None
            else options.max_retries,
            timeout=options.timeout,
            delay=options.delay,
            at=options.at,
            on_parent_failure=options.on_parent_failure or "cancel",
            unique_key=unique_key,
            auto_remove=bool(options.auto_remove),
            closure=closure,
        )
        ref = QueuedTaskRef(service, None if unique_key is not None else id)
        ref._pending = Pending(row, ref, parents, options.on_duplicate or "existing")
        return ref._pending


def _positional(function: TaskFunction, call: object) -> tuple[Any, ...]:
    if isinstance(call, str | bytes) or not isinstance(call, Iterable):
        raise InvalidArguments(
            f"{function.name}: each of the calls is a list of arguments or a mapping of them, not "
            f"{call!r}. A single argument is written ({call!r},)."
        )
    return tuple(call)


def _parents(parent: Parent | Iterable[Parent] | None) -> list[UUID | QueuedTaskRef]:
    if parent is None:
        return []
    if isinstance(parent, QueuedTaskRef | UUID | str):
        return [_parent(parent)]
    try:
        return [_parent(one) for one in parent]
    except TypeError:
        return [_parent(parent)]  # says what is wrong with it


def _parent(parent: Any) -> UUID | QueuedTaskRef:
    if isinstance(parent, QueuedTaskRef | UUID):
        return parent
    try:
        return UUID(parent)
    except (ValueError, AttributeError, TypeError):
        raise InvalidOption(
            f"parent={parent!r} is not a task: give the ref that add_task() returned, a task id, "
            "or a list of them."
        ) from None
