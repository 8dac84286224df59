"""The context of the running task: progress and notes that everybody can see while it runs.

Values are JSON, as everywhere in a row: what is set is copied, and comes back as it would after a
retry in another process.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Token
from functools import lru_cache
from types import TracebackType
from typing import Any
from uuid import uuid4

from fastedgy.errors import InvalidContext, NotInTask
from fastedgy.queued_task.encoding import NotEncodable, dumps, fault_of, loads
from fastedgy.queued_task.running import TaskRun, current


def get_current_task() -> TaskRun | None:
    """The task that is running here; None outside of one."""
    return current.get()


def set_current_task(task: TaskRun | None) -> Token[TaskRun | None]:
    """Make `task` the one that is running here. The token undoes it: `current.reset(token)`."""
    return current.set(task)


def set_context(path: str, value: Any, auto_commit: bool = True) -> None:
    """Set a value in the context of the running task.

    Dots in `path` lead into nested objects, which are made on the way; what stands in that way is
    replaced. The row follows within moments, however often this is called; with
    `auto_commit=False` it follows with the next change that is committed, or at the end of the run.

    Raises NotInTask outside of a task, InvalidContext when the value cannot be stored.
    """
    run = current.get()
    if run is None:
        raise NotInTask("set_context")
    keys = _keys(path) if type(path) is str else _refuse_path(path)
    kind = type(value)
    # The usual values cost no trip through JSON.
    if not (
        value is None
        or kind is bool
        or (kind is int and _LEAST <= value <= _MOST)
        or (kind is str and value.isascii() and "\x00" not in value)
        or (kind is float and value - value == 0)
    ):
        value = _copied(value, path)
    place = run.values()
    for key in keys[:-1]:
        below = place.get(key)
        if type(below) is not dict:
            below = place[key] = {}
        place = below
    place[keys[-1]] = value
    if auto_commit:
        run.touch()
    else:
        run.context_dirty = True


def get_context(path: str, default: Any = None) -> Any:
    """The value at a dotted path of the running task's context; `default` where there is none.

    A list or an object is a copy. Raises NotInTask outside of a task.
    """
    run = current.get()
    if run is None:
        raise NotInTask("get_context")
    value: Any = run.values()
    for key in _keys(path) if type(path) is str else _refuse_path(path):
        if type(value) is not dict or key not in value:
            return default
        value = value[key]
    return _copied(value, path) if isinstance(value, dict | list) else value


def get_full_context() -> dict[str, Any]:
    """A copy of the running task's whole context. Raises NotInTask outside of a task."""
    run = current.get()
    if run is None:
        raise NotInTask("get_full_context")
    copy: dict[str, Any] = _copied(run.values(), "")
    return copy


def set_full_context(context: Mapping[str, Any], auto_commit: bool = True) -> None:
    """Put other values in place of the running task's whole context.

    Raises NotInTask outside of a task, InvalidContext when a value cannot be stored.
    """
    run = current.get()
    if run is None:
        raise NotInTask("set_full_context")
    if not isinstance(context, Mapping):
        raise InvalidContext(f"A context is an object of names and values, not {context!r}.")
    run.replace_context(_copied(dict(context), ""), commit=auto_commit)


def clear_context(auto_commit: bool = True) -> None:
    """Empty the running task's context. Raises NotInTask outside of a task."""
    run = current.get()
    if run is None:
        raise NotInTask("clear_context")
    run.replace_context({}, commit=auto_commit)


class TaskContext:
    """`with TaskContext(): …` runs a block as if inside a task: what tests of task functions need.

    Without a `task` one is made up; `context` is what it starts with. The block gets the `TaskRun`,
    whose `context` and `logs` tell what the code did. Works with `async with` too.
    """

    def __init__(
        self, task: TaskRun | None = None, context: Mapping[str, Any] | None = None
    ) -> None:
        self.task = task or TaskRun(uuid4(), name="test", function="test:test")
        if context is not None:
            self.task.replace_context(_copied(dict(context), ""))
        self._tokens: list[Token[TaskRun | None]] = []

    def __enter__(self) -> TaskRun:
        self._tokens.append(current.set(self.task))
        return self.task

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        current.reset(self._tokens.pop())

    async def __aenter__(self) -> TaskRun:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)


_LEAST, _MOST = -(2**63), 2**64 - 1


@lru_cache(maxsize=4096)
def _keys(path: str) -> tuple[str, ...]:
    keys = tuple(path.split("."))
    if not all(keys):
        raise InvalidContext(f"{path!a} is no path into a context: write `a`, or `a.b`.")
    reason = fault_of(path)
    if reason is not None:
        raise InvalidContext(f"{path!a} is no path into a context: {reason}.")
    return keys


def _refuse_path(path: object) -> tuple[str, ...]:
    if isinstance(path, str):
        return _keys(str.__str__(path))
    raise InvalidContext(f"{path!r} is no path into a context: it must be text.")


def _copied(value: Any, path: str) -> Any:
    """A copy in JSON's own types, which nobody else can change while it is written."""
    try:
        return loads(dumps(value))
    except NotEncodable as error:
        where = f"{path}{error.path}" or "the context"
        raise InvalidContext(f"{where} cannot be stored: {error.reason}.") from None
