"""`QueuedTaskRef`: what `add_task` returns, a handle on one task."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from fastedgy.errors import InvalidTaskId, InvalidTransition, TaskCancelled, TaskNotFound
from fastedgy.queued_task.encoding import loads
from fastedgy.queued_tasks.outcome import ENDED, in_time, outcome
from fastedgy.store import details, watch
from fastedgy.wakeups import until_rung

if TYPE_CHECKING:
    from fastedgy.queued_tasks.buffer import Buffer, Pending, Wish
    from fastedgy.queued_tasks.service import QueuedTasks


IN_TRANSACTION = (
    "wait() inside the transaction that is to write the task would never end: no worker sees the "
    "task before the commit. Leave the transaction first."
)


def task_id(id: UUID | str) -> UUID:
    """The id that is meant. Raises InvalidTaskId for what cannot be one."""
    if isinstance(id, UUID):
        return id
    try:
        return UUID(id)
    except (ValueError, AttributeError, TypeError):
        raise InvalidTaskId(id) from None


class QueuedTaskRef:
    """A task that was added, written or not yet.

    Any await on it writes it first, with everything that was added beside it. `await ref` does
    only that, and returns the ref itself.

    As an argument of another task, also inside lists and dicts, it stands for its result: that task
    waits for this one.
    """

    __slots__ = ("__weakref__", "_id", "_pending", "_service", "_state", "_whole_tree")

    def __init__(self, service: QueuedTasks, id: UUID | None) -> None:
        self._service = service
        self._id = id
        self._pending: Pending | None = None
        self._state: str | None = None
        self._whole_tree = False

    @property
    def id(self) -> UUID | None:
        """The task's id, known at once; with a unique key None until the task is written."""
        return self._id

    def __repr__(self) -> str:
        return f"<QueuedTaskRef {self._id or 'not written yet'}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QueuedTaskRef):
            return NotImplemented
        return self is other or (self._id is not None and self._id == other._id)

    def __hash__(self) -> int:
        # A ref with a unique key has no id before it is written: put it into sets after that.
        return id(self) if self._id is None else hash(self._id)

    def __queued_task__(self) -> QueuedTaskRef:
        """What is meant where it stands among arguments, or is returned by a task."""
        return self

    def __await__(self) -> Generator[Any, None, QueuedTaskRef]:
        return self._written().__await__()

    async def get_task_id(self) -> UUID:
        """The task's id, once it is written."""
        await self._written()
        assert self._id is not None
        return self._id

    async def get_state(self) -> str:
        """The task's state, as it stands in its row. Raises TaskNotFound when there is no row."""
        if self._state is not None:
            return self._state
        id = await self.get_task_id()
        async with self._service._connection() as connection:
            state = await details.task_state(connection, self._service._tables, id)
        if state is None:
            raise TaskNotFound(id)
        return state

    async def wait(self, timeout: float | None = None) -> Any:
        """Wait for the end and return the result.

        `timeout` is in seconds; None waits for as long as it takes.

        Raises TaskFailed (with the remote type, message and traceback), TaskCancelled (also when
        the row is deleted meanwhile), ResultNotStored, TaskNotFound when there is no such row, and
        the built-in TimeoutError.
        """
        if self._state == "cancelled":
            raise TaskCancelled(id=self._id or UUID(int=0), name="", reason="before it was written")
        async with in_time(timeout, f"Task {self._id} has" if self._id else "The task has"):
            return await self._wait()

    async def _wait(self) -> Any:
        service = self._service
        if self._pending is not None and service._in_transaction():
            raise InvalidTransition(IN_TRANSACTION)
        pending, looked_at, name = self._pending, True, ""
        if pending is not None:
            name = pending.spec.name
            # Told from its birth on. Then there is nothing to look at first, but for what may be an
            # earlier task, or born dead.
            looked_at = pending.on_its_way or not pending.is_simple()
            pending.awaited = True
        waiter = service._waiter()
        await waiter.start(timeout=5.0)
        if self._id is None:
            await self._written()
        id = self._id
        assert id is not None  # it is written, or has no unique key
        with waiter.watch(id) as woken:
            await self._written()
            if self._state == "cancelled":
                raise TaskCancelled(id=id, name=name, reason="before it was written")
            if looked_at:
                row = await service._repeatedly(
                    lambda connection, _: watch.mark_awaited(connection, service._tables, id)
                )
                if row is None and service._in_transaction():  # it was flushed into that, perhaps
                    raise InvalidTransition(IN_TRANSACTION)
                if row is None:
                    raise TaskNotFound(id)
                if row["state"] in ENDED:
                    return outcome(row)
                name = row["name"]
            pause = 0.02
            while True:
                await until_rung(woken, pause if waiter.polls else 5.0)
                # Without notifications look soon, and then less and less often; with them, a look
                # now and then covers the one that was lost.
                pause = min(2 * pause, 1.0)
                told = await service._repeatedly(
                    lambda connection, _: watch.read_outcome(connection, service._tables, id)
                )
                if told is None:
                    # It was there a moment ago, and rows that are waited for are not removed when
                    # they are done: somebody has cleared its queue.
                    raise TaskCancelled(id=id, name=name, reason="its row was deleted")
                if told["state"] in ENDED:
                    return outcome(told)

    def cancel(self, reason: str | None = None, *, tree: bool = False) -> Cancellation:
        """Cancel the task: at once with `await`, without it with the route's other writes.

        A task that runs is asked to stop. One that has ended is left alone. A task that was not
        written yet never will be, and its state is `cancelled`. What waits for it meets its
        `on_parent_failure`.

        `tree`: with all that waits for it, whatever the `on_parent_failure`, also if the task
        itself has ended; and with the task that it returned to stand for it.
        """
        buffer = None
        if self._state is None:
            if self._pending is not None and not self._pending.on_its_way:
                self._state = "cancelled"
                self._whole_tree = tree
            elif self._id is not None:
                buffer = self._service._ask_to_cancel(self._id, (reason, tree))
        return Cancellation(self, (reason, tree), buffer)

    async def retry(self, *, tree: bool = False) -> None:
        """Run a failed or cancelled task again: the same row, with a fresh budget.

        `tree`: with the parents that came to nothing before it, and all that did so because of
        them. What is done stays done.

        Raises InvalidTransition when it is in another state, has a parent that came to nothing, or
        another task has its unique key by now.
        """
        if self._state == "cancelled":
            raise InvalidTransition(
                "The task cannot be retried: it was cancelled before it was written, or its route "
                "or block was undone. Add it again."
            )
        id = await self.get_task_id()
        if not await self._service.retry(id, tree=tree):
            state = await self.get_state()
            raise InvalidTransition(
                f"Task {id} cannot be retried: one of its parents failed or was cancelled (retry "
                "that one first), or another task has its unique key."
                if state in ("failed", "cancelled")
                else f"Task {id} is {state}: only failed and cancelled tasks can be retried."
            )

    async def logs(self) -> list[details.LogRow]:
        """The task's log lines so far, in their order (at most 10,000)."""
        id = await self.get_task_id()
        async with self._service._connection() as connection:
            return await details.task_logs(connection, self._service._tables, id, limit=10_000)

    async def context(self) -> dict[str, Any]:
        """What the task has said with `set_context` so far."""
        id = await self.get_task_id()
        async with self._service._connection() as connection:
            text = await watch.read_context(connection, self._service._tables, id)
        if text is None:
            raise TaskNotFound(id)
        context: dict[str, Any] = loads(text)
        return context

    async def children(self) -> list[QueuedTaskRef]:
        """The tasks that have this one as a parent, oldest first."""
        id = await self.get_task_id()
        async with self._service._connection() as connection:
            ids = await watch.children_of(connection, self._service._tables, id)
        return [QueuedTaskRef(self._service, child) for child in ids]

    async def parents(self) -> list[QueuedTaskRef]:
        """The tasks that this one waits or waited for, oldest first."""
        id = await self.get_task_id()
        async with self._service._connection() as connection:
            ids = await watch.parents_of(connection, self._service._tables, id)
        return [QueuedTaskRef(self._service, parent) for parent in ids]

    async def _written(self) -> QueuedTaskRef:
        if self._pending is not None:
            await self._service._write_now(self)
        if self._id is None:
            raise TaskNotFound("(never written: its route or block was undone)")
        return self

    def _settle(self, id: UUID) -> None:
        """It is written, and this is its id (with a unique key perhaps an earlier task's)."""
        self._id = id
        self._pending = None

    def _dropped(self) -> None:
        """It will never be written."""
        self._pending = None
        self._state = "cancelled"


class Cancellation:
    """What `cancel()` returns: `await` it to have it done now."""

    __slots__ = ("_buffer", "_ref", "_wish")

    def __init__(self, ref: QueuedTaskRef, wish: Wish, buffer: Buffer | None) -> None:
        self._ref = ref
        self._wish = wish
        self._buffer = buffer

    def __await__(self) -> Generator[Any, None, bool]:
        """True when the task is cancelled or was asked to stop, False when it had ended."""
        return self._do().__await__()

    async def _do(self) -> bool:
        ref = self._ref
        if self._buffer is not None and ref._id is not None:
            self._buffer.cancellations.pop(ref._id, None)  # done now, and not once more later
        if ref._state is None and ref._pending is not None:
            await ref._written()
        if ref._state == "cancelled" or ref._id is None:
            return True
        reason, tree = self._wish
        return await ref._service.cancel(ref._id, reason=reason, tree=tree)
