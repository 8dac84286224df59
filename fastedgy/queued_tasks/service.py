"""`QueuedTasks`: the service that routes, tasks and scripts add tasks with."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from asyncpg import Connection

from fastedgy import database
from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.connections import Connections, Lent
from fastedgy.database import caller_transaction, in_transaction, resolve_url, transaction
from fastedgy.errors import ConfigurationError, NoOpenBuffer
from fastedgy.models import queue_tables
from fastedgy.queued_task import tracing
from fastedgy.queued_task.options import NO_OPTIONS, TaskOptions
from fastedgy.queued_task.running import current
from fastedgy.queued_tasks.buffer import Buffer, Pending, Wish, open_buffer
from fastedgy.queued_tasks.flushing import flush
from fastedgy.queued_tasks.here import Here
from fastedgy.queued_tasks.maker import Parent, TaskMaker
from fastedgy.queued_tasks.ref import QueuedTaskRef, task_id
from fastedgy.queued_tasks.routes import RouteBuffer
from fastedgy.queued_tasks.scripts import Script, open_script
from fastedgy.queued_tasks.waiter import Waiter
from fastedgy.store import actions, details
from fastedgy.store.notify import channels_of
from fastedgy.store.outage import is_outage

R = TypeVar("R")

logger = logging.getLogger("fastedgy.queued_tasks")


class QueuedTasks:
    """Adds durable tasks.

    One for the whole process; in an application get it by `Inject(QueuedTasks)` or
    `get_service(QueuedTasks)`. In a script, `async with QueuedTasks() as tasks:` connects by
    `DATABASE_URL`, writes what was added at the end of the block, and drops it when the block
    raises.

    What `add_task` adds is written

    - in a route: after it returned and before its response is sent, in one round trip. A route that
      raises writes nothing; when the write fails, so does the route.
    - in a task: when its function returned, before the task itself is `done`.
    - by `await` on a ref, or `await tasks.flush()`: then. Inside an open transaction of the
      application's database `flush` writes with that transaction.
    - inside `async with tasks.transaction():` with that block's transaction.
    - elsewhere in a running event loop, and in threads: at once, in the background.

    What has begun to be written is written, also if who waits for it is cancelled.
    """

    def __init__(
        self,
        connections: Connections | None = None,
        config: QueuedTaskConfig | None = None,
        *,
        in_application: bool = False,
    ) -> None:
        """`in_application`: transactions of the application's database may be joined, and threads
        without a loop of their own have the one that runs here.
        """
        self.config = config or QueuedTaskConfig()
        self._connections = connections
        self._in_application = in_application
        self._tables = queue_tables()
        self._channels = channels_of(self.config)
        self._defaults = TaskMaker(self, NO_OPTIONS)
        self._heres: dict[asyncio.AbstractEventLoop, Here] = {}
        self._home = self._here() if in_application else None
        self._scripts: list[Script] = []
        self._owns_connections = False

    # What users call.

    def add_task(
        self,
        func: Callable[..., Any],
        *args: Any,
        parent: Parent | Iterable[Parent] | None = None,
        **kwargs: Any,
    ) -> QueuedTaskRef:
        """Add a call of `func(*args, **kwargs)`, to be made by a worker.

        `func` is any function, sync or async, that can be imported by its name. `parent` is a task
        (a ref or an id) or several; the new one starts after all of them are done. A ref among the
        arguments, also inside lists and dicts, is a parent whose result takes its place. Everything
        else belongs to the function; options of the task itself go through `tasks.task(…)`.

        Needs no await. Raises InvalidFunction, InvalidArguments or InvalidOption at once, and then
        nothing is added.
        """
        return self._defaults.add_task(func, *args, parent=parent, **kwargs)

    def add_tasks(
        self,
        func: Callable[..., Any],
        calls: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        parent: Parent | Iterable[Parent] | None = None,
    ) -> list[QueuedTaskRef]:
        """Add many calls of one function: each of `calls` is a sequence of arguments, or a mapping.

        `tasks.add_tasks(resize, [(image.id, 200) for image in images])`. If one call does not fit
        the function, none is added.
        """
        return self._defaults.add_tasks(func, calls, parent=parent)

    def task(self, **options: Any) -> TaskMaker:
        """Options for the tasks made with what this returns.

        `name`, `queue`, `priority` (higher runs first), `delay` (seconds or a timedelta) or `at` (a
        datetime with a time zone), `max_retries`, `timeout` (seconds), `unique_key`,
        `on_duplicate`, `unique_for`, `unique_while`, `on_parent_failure`, `auto_remove`, `limit`,
        `rate`, `per`, `breaker`. Raises InvalidOption for anything else, and for what makes no
        sense.
        """
        return TaskMaker(self, TaskOptions.of_call(options))

    async def flush(self) -> None:
        """Write what was added so far: in the open transaction of the application's database, if
        there is one in this asyncio task, else at once by itself.
        """
        buffer = self._buffer()
        assert buffer is not None  # there is a loop
        if self._in_transaction():
            async with caller_transaction(self._database) as connection:
                await self._write(buffer, connection)
        else:
            await self._write(buffer)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """A block in one transaction of the application's database, its tasks included.

        Opens a transaction (or a savepoint in the one that is open). At the end the block's tasks
        are written on the same connection, before the commit; a block that raises leaves neither
        its writes nor its tasks.
        """
        if not self._in_application:
            raise ConfigurationError(
                "tasks.transaction() is a transaction of the application's database, and there is "
                "no application here. Run the script in one: `async with running(app) as tasks:`."
            )
        outer = open_buffer.get()
        buffer = Buffer()
        try:
            async with transaction(self._database):
                open_buffer.set(buffer)
                try:
                    yield
                finally:
                    open_buffer.set(outer)
                async with caller_transaction(self._database) as connection:
                    await self._write(buffer, connection)
        finally:
            buffer.close()

    def ref(self, id: UUID | str) -> QueuedTaskRef:
        """A ref on the task that has this id, whether there is one or not.

        Raises InvalidTaskId for what cannot be an id.
        """
        return QueuedTaskRef(self, task_id(id))

    async def cancel(self, id: UUID, *, reason: str | None = None, tree: bool = False) -> bool:
        """Cancel a task now. True: it is cancelled or was asked to stop; False: it had ended."""
        async with self._connection() as connection:
            done = await actions.cancel(
                connection, self._tables, [id], reason=reason, tree=tree, channels=self._channels
            )
        return bool(done.ended or done.asked)

    async def retry(self, id: UUID, *, tree: bool = False) -> bool:
        """Run a failed or cancelled task again. False: it cannot be (see `QueuedTaskRef.retry`)."""
        async with self._connection() as connection:
            return bool(
                await actions.retry(
                    connection, self._tables, [id], tree=tree, channels=self._channels
                )
            )

    async def get_task_by_id(self, id: UUID | str) -> details.TaskDetails:
        """All that is known of a task. Raises TaskNotFound."""
        wanted = task_id(id)
        async with self._connection() as connection:
            return await details.task_details(connection, self._tables, wanted)

    # How it is opened and closed.

    def __route__(self) -> RouteBuffer:
        """The scope of one route: entered by `Inject(QueuedTasks)`, left before the response."""
        return RouteBuffer(self)

    async def __aenter__(self) -> Self:
        if self._connections is None:
            settings = Settings()
            url = await resolve_url(settings)
            if self._connections is None:  # nobody was faster meanwhile
                self._connections = Connections(url, settings, self.config)
                self._owns_connections = True
        if not self._scripts and not self._in_application:
            self._home = self._here()
        script = Script(Buffer(), open_buffer.get(), open_script.get())
        self._scripts.append(script)
        open_buffer.set(script.buffer)
        open_script.set(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Blocks may be nested, and several asyncio tasks may have one each: the buffer that is open
        # here tells which one ends.
        here = open_buffer.get()
        script = next((each for each in self._scripts if each.buffer is here), self._scripts[-1])
        self._scripts.remove(script)
        open_buffer.set(script.outer)
        open_script.set(script.around)
        try:
            if error is None:
                await self._write(script.buffer)
        finally:
            script.buffer.close()
            if not self._scripts and not self._in_application:
                self._home = None
            if self._owns_connections and not self._scripts:
                await self.close()

    async def close(self) -> None:
        """Write what is still on its way in the background, and close the connections."""
        loop = asyncio.get_running_loop()
        here = self._heres.get(loop)
        if here is not None:
            await here.close()
            self._heres.pop(loop, None)
        if self._home is here:
            self._home = None
        if self._connections is not None:
            await self._connections.close()

    # What maker, refs and the worker use.

    def _add(self, batch: list[Pending]) -> None:
        if tracing.active:
            tracing.mark(batch)
        self._put(batch)

    def _put(self, batch: list[Pending]) -> None:
        buffer = self._buffer()
        if buffer is None:
            self._from_thread(self._put, batch)
            return
        inside = self._in_transaction()
        for pending in batch:
            pending.buffer = buffer
            pending.in_transaction = inside
        buffer.tasks.extend(batch)
        self._see_to(buffer)

    def _ask_to_cancel(self, id: UUID, wish: Wish) -> Buffer | None:
        buffer = self._buffer()
        if buffer is None:
            self._from_thread(self._ask_to_cancel, id, wish)
        else:
            buffer.cancellations[id] = wish
            self._see_to(buffer)
        return buffer

    def _buffer(self) -> Buffer | None:
        """The buffer of the route, block, script or task that is running; else the event loop's
        loose one. None in a thread that has none of them.
        """
        buffer = open_buffer.get()
        if buffer is not None and not buffer.closed:
            return buffer
        run = current.get()
        if run is not None:
            if run.buffer is None:
                # A sync task may be in a loop of its own here; its end is in the worker's.
                run.buffer = Buffer() if self._home is None else Buffer(loop=self._home.loop)
            own: Buffer = run.buffer
            if not own.closed:
                return own
        try:
            return self._here().loose
        except RuntimeError:
            return None

    def _see_to(self, buffer: Buffer) -> None:
        """What nobody's end will write is written in the background, right away."""
        if buffer.is_loose:
            self._here().write_soon()

    def _from_thread(self, work: Callable[..., object], *args: Any) -> None:
        """Have the loop do it in which the application or the script runs."""
        home = self._home
        if home is None:
            raise NoOpenBuffer
        try:
            home.loop.call_soon_threadsafe(work, *args)
        except RuntimeError:  # it has ended
            raise NoOpenBuffer from None

    def _here(self) -> Here:
        """What belongs to this event loop. Raises RuntimeError where none runs."""
        loop = asyncio.get_running_loop()
        here = self._heres.get(loop)
        if here is None:
            for other in list(self._heres):
                if other.is_closed():
                    self._heres.pop(other, None)
            here = self._heres.setdefault(loop, Here(self, loop))
        return here

    async def _write_now(self, ref: QueuedTaskRef) -> None:
        """Write the buffer that holds this ref's task, and everything beside it."""
        pending = ref._pending
        if pending is None or pending.buffer is None:
            return
        if pending.buffer is self._buffer() and self._in_transaction():
            await self.flush()
        else:
            await self._write(pending.buffer)

    async def _write(self, buffer: Buffer, connection: Connection | None = None) -> None:
        """Write a buffer, on this connection or on one of ours: see `flushing`."""
        await flush(self, buffer, connection)

    async def _repeatedly(self, work: Callable[[Connection, bool], Awaitable[R]]) -> R:
        """Do something on a connection of ours; again for up to `QUEUE_ENQUEUE_TIMEOUT` while the
        database is away. `work` is told whether it is a repetition.
        """
        deadline = time.monotonic() + self.config.enqueue_timeout
        pause, again = 0.05, False
        while True:
            try:
                async with self._connection() as own:
                    return await work(own, again)
            except Exception as error:
                left = deadline - time.monotonic()
                if not is_outage(error) or left <= 0:
                    raise
                again = True
                await asyncio.sleep(min(pause, left))
                pause = min(2 * pause, 1.0)

    def _connection(self) -> Lent:
        if self._connections is None:
            raise NoOpenBuffer
        return self._connections.acquire()

    def _waiter(self) -> Waiter:
        if self._connections is None:
            raise NoOpenBuffer
        return self._here().waiter(self._connections.url)

    @property
    def _database(self) -> Any:
        """The application's databasez Database. Imports Edgy."""
        return database.registry.database

    def _in_transaction(self) -> bool:
        return self._in_application and database.in_use() and in_transaction(self._database)
