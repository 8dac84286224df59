"""Chains: tasks one after the other, each with the result of the one before it."""

from __future__ import annotations

from typing import Any

from fastedgy.errors import InvalidArguments
from fastedgy.queued_tasks.ref import QueuedTaskRef
from fastedgy.queued_tasks.waiting import wait_all
from fastedgy.workflows.bundle import Bundle, add, maker_of

End = QueuedTaskRef | list[QueuedTaskRef]


class Chain(Bundle):
    """Tasks one after the other. Its result is that of the last step: as an argument of another
    task, or returned by one, it stands for that.
    """

    def __init__(self, refs: list[QueuedTaskRef], end: End) -> None:
        super().__init__(refs)
        self.end = end

    @property
    def last(self) -> QueuedTaskRef:
        """The last task."""
        return self.refs[-1]

    def __queued_task__(self) -> End:
        return self.end

    async def wait(self, timeout: float | None = None) -> Any:
        """The result of the last step: of its task, or a list where it has several.

        Raises what `QueuedTaskRef.wait` raises. A task before it that failed shows as
        TaskCancelled, with a reason that names it.
        """
        if isinstance(self.end, list):
            return await wait_all(self.end, timeout=timeout)
        return await self.end.wait(timeout)


def chain(*steps: Any) -> Chain:
    """Add tasks one after the other: `chain((collect, 2025), render, (deliver, "a@example.com"))`.

    A step is a function, a tuple of one and further arguments, or a `functools.partial`. From the
    second on it gets the result of the step before: as the first argument, after those of a
    partial. A list of such steps runs side by side, all with the same result; what follows gets a
    list of theirs. The first step may be a task that was added before.

    Who adds the tasks may stand before the steps: `chain(tasks.task(queue="reports"), …)`; without,
    it is the producer of the application, or of the open script.
    """
    maker, steps = maker_of(steps)
    refs: list[QueuedTaskRef] = []
    before: tuple[()] | tuple[End] = ()
    for place, step in enumerate(steps):
        if place == 0 and hasattr(type(step), "__queued_task__"):
            refs += list(step) if isinstance(step, Bundle) else [step]
            before = (step.__queued_task__(),)
        elif isinstance(step, list):
            side_by_side = [add(maker, each, *before) for each in step]
            if not side_by_side:
                raise InvalidArguments("A step of a chain is an empty list: nothing would follow.")
            refs += side_by_side
            before = (side_by_side,)
        else:
            ref = add(maker, step, *before)
            refs.append(ref)
            before = (ref,)
    if not before:
        raise InvalidArguments("A chain needs at least one step.")
    return Chain(refs, before[0])
