"""`tasks.task(…)`: options for one task, and the making of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from fastedgy.errors import InvalidArguments, InvalidFunction, InvalidOption, InvalidTransition
from fastedgy.garbage import uncollected
from fastedgy.ids import new_id, new_ids
from fastedgy.queued_task.callables import TaskAmongArguments
from fastedgy.queued_task.closures import pack
from fastedgy.queued_task.encoding import excess
from fastedgy.queued_task.functions import (
    TaskFunction,
    describe,
    describe_closure,
)
from fastedgy.queued_task.options import TaskOptions
from fastedgy.queued_task.signing import sign
from fastedgy.queued_tasks.buffer import Pending
from fastedgy.queued_tasks.duplicates import Uniqueness, uniqueness
from fastedgy.queued_tasks.ref import QueuedTaskRef
from fastedgy.store.newtask import Spec
from fastedgy.store.redaction import REDACTED

if TYPE_CHECKING:
    from fastedgy.queued_tasks.service import QueuedTasks

Parent = QueuedTaskRef | UUID | str
"""A task to wait for: a ref, or an id."""


class TaskMaker:
    """Makes tasks with these options. `tasks.task(queue="mail").add_task(send, address)`."""

    __slots__ = ("_known", "_options", "_service")

    def __init__(self, service: QueuedTasks, options: TaskOptions) -> None:
        self._service = service
        self._options = options
        self._known: dict[TaskFunction, _Kind] = {}

    def add_task(
        self,
        func: Callable[..., Any],
        *args: Any,
        parent: Parent | Iterable[Parent] | None = None,
        **kwargs: Any,
    ) -> QueuedTaskRef:
        """Like `QueuedTasks.add_task`, with the options that this was made with."""
        kind = self._kind(func)
        pending = self._pending(new_id(), kind, args, kwargs, _parents(parent))
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
        kind = self._kind(func)
        parents = _parents(parent)
        nothing: dict[str, Any] = {}
        calls = calls if isinstance(calls, list) else list(calls)
        with uncollected():
            batch = [
                self._pending(id, kind, call, nothing, parents)
                if type(call) is tuple
                else self._pending(id, kind, (), dict(call), parents)
                if isinstance(call, Mapping)
                else self._pending(id, kind, _positional(kind.function, call), nothing, parents)
                for id, call in zip(new_ids(len(calls)), calls, strict=True)
            ]
        self._service._add(batch)
        return [pending.ref for pending in batch]

    def make(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Pending:
        """The task of one call, in no buffer: whoever asked for it sees to its row.

        Raises InvalidArguments also for tasks among the arguments, as nobody waits for those here.
        """
        pending = self._pending(new_id(), self._kind(func), args, kwargs, ())
        if pending.takes_results:
            raise TaskAmongArguments(f"{pending.spec.name}: its arguments hold a task.")
        return pending

    def _kind(self, func: Callable[..., Any]) -> _Kind:
        """What tasks of this function have in common. Worked out once, as far as it can be."""
        closure = None
        try:
            function = describe(func)
        except InvalidFunction:
            keys = self._service.config.signing_keys
            if not keys:
                raise
            function, closure = describe_closure(func), pack(func, keys)
        default = self._service.config.max_retries
        kind = self._known.get(function)
        if kind is not None and kind.default_retries == default:
            return kind
        options = function.options.merge(self._options)
        spec = Spec(
            options.name or function.name,
            function.path,
            queue=options.queue or "default",
            priority=options.priority or 0,
            max_retries=default if options.max_retries is None else options.max_retries,
            timeout=options.timeout,
            delay=options.delay,
            at=options.at,
            on_parent_failure=options.on_parent_failure or "cancel",
            auto_remove=bool(options.auto_remove),
            closure=closure,
            limit=options.limit,
            rate=options.rate,
            breaker=options.breaker,
        )
        kind = _Kind(
            function, spec, uniqueness(options, function.name), options.unique_key is not None,
            _gate(options, spec), default,
        )  # fmt: skip
        if closure is None:
            self._known[function] = kind
        return kind

    def _pending(
        self,
        id: UUID,
        kind: _Kind,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        parents: Sequence[UUID | QueuedTaskRef],
    ) -> Pending:
        function = kind.function
        given: Given | None = None
        try:
            encoded_args, encoded_kwargs = function.bind(args, kwargs)
        except TaskAmongArguments:
            given = Given()
            encoded_args, encoded_kwargs = function.bind_tasks(args, kwargs, given.id_of)
        config = self._service.config
        if too_much := excess(config.max_result_size, encoded_args, encoded_kwargs):
            raise InvalidArguments(
                f"{function.name}: its arguments have {too_much}. Store them elsewhere, and pass "
                "where they are."
            )
        key = function.unique_key(self._options, args, kwargs) if kind.has_key else None
        ref = QueuedTaskRef(self._service, id if key is None else None)
        ref._pending = pending = Pending(
            id, kind.spec, encoded_args, encoded_kwargs, key, kind.uniqueness, parents, ref
        )
        if function.options.redact:
            pending.spec = replace(kind.spec, redact=_hidden(function, args, kwargs))
        if kind.gate is not None:
            pending.gate = function.filled("per", kind.gate, args, kwargs)
        if kind.uniqueness.answer == "replace" and (parents or given is not None):
            raise InvalidOption(
                f'{function.name}: on_duplicate="replace" does not go with parent= or with tasks '
                "among the arguments: the task that is replaced has its own parents."
            )
        if given is not None:
            pending.wanted = [*parents, *given.refs.values()]
            pending.takes_results = True
            pending.unsure = given.unsure
        if keys := config.signing_keys:
            path = kind.spec.function
            pending.signature = sign(keys, id, path, encoded_args, encoded_kwargs)
        return pending


def _hidden(
    function: TaskFunction, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[str, ...] | None:
    """The places of the arguments that people do not see."""
    shown, named = function.redacted(args, kwargs)
    places = [str(place) for place, value in enumerate(shown) if value is REDACTED]
    return (*places, *(name for name, value in named.items() if value is REDACTED)) or None


def _positional(function: TaskFunction, call: object) -> tuple[Any, ...]:
    if isinstance(call, str | bytes) or not isinstance(call, Iterable):
        raise InvalidArguments(
            f"{function.name}: each of the calls is a list of arguments or a mapping of them, not "
            f"{call!r}. A single argument is written ({call!r},)."
        )
    return tuple(call)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A function with the options of its tasks. `gate`: the template of its key. `default_retries`:
    what the settings said then."""

    function: TaskFunction
    spec: Spec
    uniqueness: Uniqueness
    has_key: bool
    gate: str | None
    default_retries: int


def _gate(options: TaskOptions, spec: Spec) -> str | None:
    """The template of the gate's key; None: they pass no gate. Raises InvalidOption."""
    if options.limit is not None or options.rate is not None:
        return options.per or _literal(spec.name)
    if options.per is not None:
        raise InvalidOption(
            f"{spec.name}: per={options.per!r} says what is counted, and needs limit= or rate=."
        )
    return None if spec.breaker is None else _literal(f"breaker:{spec.breaker}")


def _literal(name: str) -> str:
    return name.replace("{", "{{").replace("}", "}}")


class Given:
    """The tasks among the arguments of another. `unsure`: see `Pending`."""

    __slots__ = ("refs", "unsure")

    def __init__(self) -> None:
        self.refs: dict[UUID, QueuedTaskRef] = {}
        self.unsure: dict[UUID, QueuedTaskRef] = {}

    def id_of(self, ref: QueuedTaskRef) -> UUID:
        """What stands in the arguments for this one's result."""
        id, pending = ref._id, ref._pending
        if id is None:
            if pending is None:
                raise InvalidTransition(
                    "One of the arguments is a task that was never written: its route or its block "
                    "was undone."
                )
            id = pending.id
            self.unsure[id] = ref
        self.refs[id] = ref
        return id


def _parents(parent: Any) -> Sequence[UUID | QueuedTaskRef]:
    if parent is None:
        return ()
    if isinstance(parent, QueuedTaskRef | UUID | str):
        return [_parent(parent)]
    if hasattr(type(parent), "__queued_task__"):  # a chain or a group
        return _parents(parent.__queued_task__())
    try:
        several = list(parent)
    except TypeError:
        return [_parent(parent)]  # says what is wrong with it
    return [
        one
        for each in several
        for one in (_parents(each) if hasattr(type(each), "__queued_task__") else [_parent(each)])
    ]


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
