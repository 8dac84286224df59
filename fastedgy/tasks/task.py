"""`Task`: one call of one function, in this process."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar
from uuid import UUID

import anyio

from fastedgy.errors import InvalidTransition
from fastedgy.ids import new_id
from fastedgy.queued_task.running import LogRecord, TaskRun
from fastedgy.tasks.config import TaskConfig

if TYPE_CHECKING:
    from fastedgy.tasks.counts import TaskCounts
    from fastedgy.tasks.durable import Claim
    from fastedgy.tasks.runner import Runner
    from fastedgy.tasks.scheduler import TasksScheduler

P = ParamSpec("P")
T = TypeVar("T")

DEFAULTS = TaskConfig()
CO_COROUTINE = inspect.CO_COROUTINE
ENDED = ("done", "failed", "cancelled")


class Task(Generic[P, T]):
    """What `schedule` returns: `func`, `args`, `kwargs` and `config`, and how it goes.

    `state` is `scheduled` (its moment has not come), `waiting` (for a place under `limit`),
    `running`, `done`, `failed` or `cancelled` (at shutdown, or because its route raised).
    """

    __slots__ = ("__weakref__", "_asyncio", "_began", "_claim", "_context", "_counts", "_error",
                 "_in_thread", "_moment", "_name", "_run", "_runner", "_started", "_stopping",
                 "_value", "_waiters", "args", "config", "func", "kwargs", "state")  # fmt: skip

    def __init__(
        self,
        func: Callable[P, Coroutine[Any, Any, T]] | Callable[P, T],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        config: TaskConfig = DEFAULTS,
    ) -> None:
        self.func: Callable[P, Any] = func
        self.args = args
        self.kwargs: dict[str, Any] = {} if kwargs is None else dict(kwargs)
        self.config = config
        self.state = "scheduled"
        self._name = config.name
        self._runner: Runner | None = None
        self._counts: TaskCounts | None = None
        self._run: TaskRun | None = None
        self._context: Context | None = None
        self._asyncio: asyncio.Task[None] | None = None
        self._moment: TasksScheduler | None = None
        self._began = 0.0
        self._in_thread: asyncio.Future[None] | None = None
        self._stopping: str | None = None
        """Why it was told to stop: "shutdown", "interrupt" or "cancel"."""
        self._claim: Claim | None = None
        self._started: anyio.Event | bool | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._waiters: list[asyncio.Future[None]] | None = None

    def __repr__(self) -> str:
        return f"<Task {self.name}, {self.state}>"

    @property
    def name(self) -> str:
        """What it is called in logs and metrics."""
        name = self._name
        if name is None:
            name = self._name = function_name(self.func)
        return name

    @property
    def run(self) -> TaskRun:
        """What `get_current_task()` gives inside the task: its id, attempt, context and logs."""
        run = self._run
        if run is None:
            run = self._run = InProcessRun(self)
        return run

    @property
    def context(self) -> dict[str, Any]:
        """What the task has said with `set_context` so far."""
        return {} if self._run is None else self._run.values()

    @property
    def logs(self) -> list[LogRecord]:
        """The lines of `getLogger` so far: level, `time.monotonic()`, logger, message, info. Those
        of a durable task are in its row, and leave this list on their way there.
        """
        return [] if self._run is None else list(self._run.logs)

    @property
    def started(self) -> anyio.Event:
        """Set when the function is first called."""
        event = self._started
        if event is None or isinstance(event, bool):
            self._started = fresh = anyio.Event()
            if event:
                fresh.set()
            return fresh
        return event

    async def __call__(self) -> T | None:
        """Call the function now, here, and return its result.

        None after an error, which is logged and handled as usual. Inside an error handler, what the
        function raised is raised, and no handler is called: so that a handler can try again.
        """
        from fastedgy.tasks.performing import by_hand

        result: T | None = await by_hand(self)
        return result

    async def wait(self, timeout: float | None = None) -> T:
        """Wait for the end of the task, and return its result.

        Raises the task's own exception, TaskCancelled if it was cancelled or dropped (or raised
        asyncio's CancelledError itself), and the built-in TimeoutError after `timeout` seconds.
        """
        if self.state not in ENDED:
            await self._end(timeout)
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value

    async def _end(self, timeout: float | None) -> None:
        moment = self._moment
        if moment is not None and moment.is_awaited_by(self):
            raise InvalidTransition(
                f"wait() for {self.name} in the route that it comes after would never end. "
                "Schedule it by tasks.schedule(…) to use its result in the route."
            )
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        async with asyncio.timeout(timeout):
            await waiter

    # What the runner says.

    def _begin(self) -> None:
        self.state = "running"
        event = self._started
        if event is None:
            self._started = True
        elif not isinstance(event, bool):
            event.set()

    def _settle(self, state: str, value: Any = None, error: BaseException | None = None) -> None:
        self.state = state
        self._value = value
        self._error = error
        waiters = self._waiters
        if waiters is not None:
            self._waiters = None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


class InProcessRun(TaskRun):
    """The run of a task without a row. Most are over before anybody asks for their id or name, so
    making these waits until somebody does.
    """

    __slots__ = ("_id", "_task")

    run = 1
    function = ""
    queue = "in-process"
    priority = 0
    wake = None
    log_limit = 10_000

    def __init__(self, task: Task[..., Any]) -> None:
        # Not by way of TaskRun's, which costs more than a short task.
        self._task = task
        self._id: UUID | None = None
        self.attempt = 1
        self.buffer = None
        self.context_dirty = False
        self.logs_taken = 0
        self.logs_dropped = 0
        self._context_text = "{}"
        self._context = None
        self._shared = False
        self._logs = []
        self._awake = False

    @property
    def id(self) -> UUID:  # type: ignore[override]
        """The id of this run."""
        id = self._id
        if id is None:
            id = self._id = new_id()
        return id

    @property
    def name(self) -> str:  # type: ignore[override]
        """The task's name."""
        return self._task.name

    @property
    def max_retries(self) -> int:  # type: ignore[override]
        """How many attempts follow the first."""
        return self._task.config.retries or 0


def function_name(func: Any) -> str:
    """`module.function`, for anything that can be called."""
    while isinstance(func, partial):
        func = func.func
    name = getattr(func, "__qualname__", None) or type(func).__qualname__
    return f"{getattr(func, '__module__', None) or type(func).__module__}.{name}"


def is_async(func: Any) -> bool:
    """Whether calling it gives a coroutine."""
    if type(func) is FunctionType and func.__code__.co_flags & CO_COROUTINE:
        return True
    while isinstance(func, partial):
        func = func.func
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(
        getattr(func, "__call__", None)  # noqa: B004 - the method itself is looked at
    )
