"""Groups: tasks side by side, waited for together."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from fastedgy.errors import InvalidArguments
from fastedgy.queued_tasks.ref import QueuedTaskRef
from fastedgy.queued_tasks.waiting import wait_all
from fastedgy.workflows.bundle import Bundle, add, maker_of


class Group(Bundle):
    """Tasks side by side. As an argument of another task it stands for the list of its results."""

    def __queued_task__(self) -> list[QueuedTaskRef]:
        return self.refs

    async def wait(
        self, timeout: float | None = None, *, return_exceptions: bool = False
    ) -> list[Any]:
        """The results, in the order in which the tasks were given.

        Raises the first failure that becomes known (TaskFailed, TaskCancelled, ResultNotStored);
        the other tasks go on. `return_exceptions`: waits for all of them, with the errors in the
        places of results. `timeout` is in seconds; raises the built-in TimeoutError.
        """
        return await wait_all(self.refs, timeout=timeout, return_exceptions=return_exceptions)


def group(*calls: Any) -> Group:
    """Add tasks side by side: `group((resize, 1), (resize, 2))`, or of `(resize, n) for n in …`.

    A call is a function, a tuple of one and its arguments, or a `functools.partial`. Tasks and
    chains that were added before may be among them: `group(tasks.add_tasks(resize, images))`.

    Who adds the tasks may stand before the calls: `group(tasks.task(priority=5), …)`; without, it
    is the producer of the application, or of the open script.
    """
    maker, calls = maker_of(calls)
    if len(calls) == 1 and _is_several(calls[0]):
        calls = tuple(calls[0])
    refs = []
    for call in calls:
        if hasattr(type(call), "__queued_task__"):
            meant = call.__queued_task__()
            if not isinstance(meant, QueuedTaskRef):
                raise InvalidArguments(
                    f"A group has one result for each of its members, and {call!r} has several. "
                    "Add a task that takes them: tasks.add_task(combine, group)."
                )
            refs.append(meant)
        else:
            refs.append(add(maker, call))
    return Group(refs)


def _is_several(call: Any) -> bool:
    """Whether it is an iterable of calls, and not one."""
    if callable(call) or isinstance(call, partial | str | bytes):
        return False
    if isinstance(call, tuple):
        return not (call and callable(call[0]))
    return isinstance(call, Iterable) and not hasattr(type(call), "__queued_task__")
