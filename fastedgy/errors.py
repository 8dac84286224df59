"""Every exception that FastEdgy raises on purpose.

    FastEdgyError
    ├── ConfigurationError (ValueError)        a setting or option makes no sense
    │   ├── AppNotFound                        the application cannot be imported
    │   └── AdminClosed                        the queue's API and pages without any auth
    ├── DatabaseError
    │   ├── DatabaseUnavailable (ConnectionError)   nobody answers, or the answer was lost
    │   ├── DatabaseTooOld                     the server is older than PostgreSQL 13
    │   ├── EmbeddedPostgresError              the Postgres that comes with pip does not start
    │   ├── SchemaOutdated                     tables are missing or of another release
    │   └── MigrationFailed                    a revision cannot be loaded, found or run
    ├── DependencyError
    │   ├── ServiceNotFound (LookupError)      nothing is registered, and it cannot be built
    │   ├── ServiceExists (ValueError)         the key is taken, and no `force=True` was given
    │   └── CircularDependency                 a service needs itself
    ├── InvalidTask (ValueError)               what was given to `add_task` cannot become a task
    │   ├── InvalidFunction (TypeError)        not importable: lambda, method, nested, coroutine
    │   ├── InvalidArguments (TypeError)       do not fit the signature, or cannot travel as JSON
    │   └── InvalidOption (TypeError)          an unknown option, or a value it cannot have
    ├── InvalidSchedule (ValueError)           a schedule that makes no sense: its cron, its times
    ├── ScheduleNotFound (LookupError)         no schedule has that name
    ├── ScheduleExists (ValueError)            the name of a new schedule is taken
    ├── ParentNotFound (LookupError)           a `parent=` or an argument that is not in the table
    ├── CircularWorkflow (ValueError)          tasks that would wait for each other
    ├── DuplicateTask                          the unique key is taken and duplicates are errors
    ├── NoOpenBuffer (RuntimeError)            `add_task` where nothing would ever write it
    ├── TaskNotFound (LookupError)             no row has that id
    │   └── InvalidTaskId (ValueError)         what was given as an id cannot be one
    ├── BreakerNotFound (LookupError)          no circuit breaker has that name
    ├── WorkerNotFound (LookupError)           no worker, supervisor or server is called that
    ├── AmbiguousId (LookupError)              an abbreviated id that several rows have
    ├── InvalidTransition (ValueError)         that state cannot be left that way
    ├── InvalidContext (ValueError)            a value that a task's context cannot hold
    ├── NotInTask (RuntimeError)               a task's own tools used outside a task
    ├── WorkflowError                          steps, sagas, breakers and keys of a running task
    │   ├── NotConnected (RuntimeError)        no application and no script is open here
    │   ├── NotAsync (RuntimeError)            steps and waits in a sync task
    │   ├── CannotWait (RuntimeError)          sleep() where no worker's slot can be freed
    │   ├── InvalidStep (ValueError)           a name twice, a step in a step or a transaction …
    │   ├── StepsChanged                       this release's steps are not those that were done
    │   ├── StepFailed                         a failure of an earlier run, of an unknown class
    │   ├── StepResultNotStored                the step is done, its result could not be stored
    │   ├── TaskTakenOver                      the task is not this run's any more
    │   ├── SagaCompensated                    a saga failed, and its steps are undone
    │   ├── CompensationFailed                 a compensation failed to the end
    │   └── CircuitOpen                        an open breaker let nobody through
    ├── TooManyFollowers (RuntimeError)        as many streams of events are open as may
    ├── FunctionRefused                        a row names a function that the app does not offer
    ├── FunctionNotFound (LookupError)         a row names a function that is not in this release
    ├── ClosureRefused                         a closure that is unsigned, or signed by another key
    ├── SignatureRefused                       a task that is unsigned, or signed for another row
    ├── FastAPITasksError                      in-process tasks (`fastedgy.tasks`)
    │   ├── FastAPITasksUninitializedAppError  `Tasks` in an app that was never given `add_tasks`
    │   ├── TaskBacklogFull                    as many tasks wait for a place as may
    │   ├── TaskMomentOver                     the route or response it was to follow is over
    │   └── TasksNotRunning                    the application does not run (any more)
    └── TaskOutcomeError                       what `wait()` raises
        ├── TaskFailed                         with the remote type, message and traceback
        ├── TaskCancelled                      (not asyncio's)
        ├── ResultGone                         the task has no row (any more) to read a result from
        └── ResultNotStored                    the task is done, its result could not be stored

`wait(timeout=…)` raises the built-in `TimeoutError` when the time is over.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID


class FastEdgyError(Exception):
    """The root of all errors that FastEdgy raises on purpose."""


class ConfigurationError(FastEdgyError, ValueError):
    """A setting, an option or a combination of them makes no sense."""


class AppNotFound(ConfigurationError):
    """The application cannot be found or imported."""


class AdminClosed(ConfigurationError):
    """The queue's API and pages were to be mounted, and nothing says who may use them."""

    def __init__(self) -> None:
        super().__init__(
            "The queue's API and pages are closed: nothing says who may use them. Set "
            "QUEUE_ADMIN_TOKEN (and QUEUE_ADMIN_READ_TOKEN), or give queue_router(auth=…) "
            "tokens(…) or a dependency that returns a fastedgy.admin.Identity."
        )


class DatabaseError(FastEdgyError):
    """Something about the database itself, not about one statement."""


class DatabaseUnavailable(DatabaseError, ConnectionError):
    """Nobody answers at the database's address, or the connection was lost."""


class DatabaseTooOld(DatabaseError):
    """The server is older than PostgreSQL 13."""


class EmbeddedPostgresError(DatabaseError):
    """The Postgres that comes with pip is not installed or does not start."""


class SchemaOutdated(DatabaseError):
    """The queue's tables are missing, or were made by another release."""


class MigrationFailed(DatabaseError):
    """A revision could not be loaded, found or run. Nothing of the command was kept."""


class DependencyError(FastEdgyError):
    """A service cannot be provided."""


class ServiceNotFound(DependencyError, LookupError):
    """Nothing is registered under that key, and it cannot be built without help."""


class ServiceExists(DependencyError, ValueError):
    """A service is registered under that key already."""


class CircularDependency(DependencyError):
    """A service needs itself, directly or through others."""


class InvalidTask(FastEdgyError, ValueError):
    """What was given to `add_task` cannot become a task."""


class InvalidFunction(InvalidTask, TypeError):
    """The function has no name under which a worker could import it."""


class InvalidArguments(InvalidTask, TypeError):
    """The arguments do not fit the function, or cannot travel as JSON.

    `parameter` is the name of the one at fault, where there is one.
    """

    def __init__(self, message: str, *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class InvalidOption(InvalidTask, TypeError):
    """An unknown task option, or a value that it cannot have."""


class InvalidSchedule(FastEdgyError, ValueError):
    """A schedule makes no sense: its cron expression, its zone, its times or its name."""


class ScheduleNotFound(FastEdgyError, LookupError):
    """No schedule has that name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"No schedule has the name {name!r}. `fastedgy schedule list` shows which there are; "
            "those that code declares appear when a worker or the application starts."
        )
        self.name = name


class ScheduleExists(FastEdgyError, ValueError):
    """A schedule of that name is there already."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is a schedule {name!r} already. Change it with reschedule(), or remove it "
            "first."
        )
        self.name = name


class ParentNotFound(FastEdgyError, LookupError):
    """A parent is not in the table (never written, not committed yet, or pruned)."""

    def __init__(self, ids: list[UUID]) -> None:
        names = ", ".join(str(id) for id in ids)
        super().__init__(
            f"No task has the id {names}, which was given as parent= or as an argument. Nothing of "
            "this flush was written. A parent must be committed, or be added in the same request "
            "and block."
        )
        self.ids = ids


class CircularWorkflow(FastEdgyError, ValueError):
    """Tasks would wait for each other, and so for ever. `ids` are those of the circle."""

    def __init__(self, ids: list[UUID]) -> None:
        names = ", ".join(str(id) for id in ids[:5]) + (", …" if len(ids) > 5 else "")
        super().__init__(
            f"The tasks {names} would wait for each other for ever. A task can wait for those that "
            "were added before it, and return one that does not wait for it."
        )
        self.ids = ids


class DuplicateTask(FastEdgyError):
    """The unique key is held by another task, and `on_duplicate="error"` was asked for."""

    def __init__(self, key: str, id: UUID | None) -> None:
        super().__init__(f"The unique key {key!r} is held by task {id}.")
        self.key = key
        self.id = id


class NoOpenBuffer(FastEdgyError, RuntimeError):
    """`add_task` was called where nothing would ever write the task."""

    def __init__(self) -> None:
        super().__init__(
            "add_task() was called where no event loop runs and no application or script is open; "
            "nothing would write the task. In a script, use `async with QueuedTasks() as tasks:`."
        )


class BreakerNotFound(FastEdgyError, LookupError):
    """No circuit breaker has that name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"No circuit breaker has the name {name!r}. A breaker is there once it was first used."
        )
        self.name = name


class WorkerNotFound(FastEdgyError, LookupError):
    """No worker process that runs, no supervisor and no server is called that."""

    def __init__(self, name: str, known: list[str]) -> None:
        shown = ", ".join(known[:5]) + (", …" if len(known) > 5 else "")
        there = f"There are {shown}." if known else "No worker runs."
        super().__init__(f"No worker, supervisor or server is called {name!r}. {there}")
        self.name = name


class TaskNotFound(FastEdgyError, LookupError):
    """No row has that id (never written, or pruned)."""

    def __init__(self, id: UUID | str, message: str | None = None) -> None:
        super().__init__(
            message or f"No task has the id {id}. `fastedgy queue list` shows which there are."
        )
        self.id = id


class InvalidTaskId(TaskNotFound, ValueError):
    """What was given as a task's id cannot be one, so no row has it."""

    def __init__(self, id: object) -> None:
        super().__init__(
            str(id),
            f"{id!r} is not the id of a task: those are UUIDs, or their text, as `ref.id` has "
            "them. `fastedgy queue list` shows which there are.",
        )


class AmbiguousId(FastEdgyError, LookupError):
    """An abbreviated id is that of several tasks or workers. `ids` are some of them."""

    def __init__(self, text: str, ids: list[UUID], kind: str = "task") -> None:
        shown = ", ".join(str(id) for id in ids[:3]) + (", …" if len(ids) > 3 else "")
        super().__init__(f"{text} is short for more than one {kind} ({shown}). Give more digits.")
        self.ids = ids


class InvalidTransition(FastEdgyError, ValueError):
    """The task's state cannot be left that way."""


class InvalidContext(FastEdgyError, ValueError):
    """What was given to `set_context` cannot be stored, or its path leads nowhere."""


class NotInTask(FastEdgyError, RuntimeError):
    """`set_context`, `get_context` and their like were used outside a running task."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}() works inside a running task only; no task is running here.")


class WorkflowError(FastEdgyError):
    """A step, a wait, a saga, a breaker or a key cannot do what was asked.

    `final`: a task that raises it is not tried again by itself, since that would not help.
    """

    final = False


class NotConnected(WorkflowError, RuntimeError):
    """There is no application and no script here whose database could be used."""

    def __init__(self, word: str) -> None:
        super().__init__(
            f"{word}() needs the queue's database: call it in a running application (its routes and"
            " tasks), or in a script inside `async with QueuedTasks():`."
        )


class NotAsync(WorkflowError, RuntimeError):
    """A step or a wait in a sync task, whose thread nobody can stop or free."""

    final = True

    def __init__(self, word: str, task: str) -> None:
        super().__init__(
            f"{word}() works in async tasks only, and {task} is a sync function. Write `async def`;"
            " the functions of its steps may stay sync."
        )


class CannotWait(WorkflowError, RuntimeError):
    """The task has no worker whose slot could be freed."""

    final = True

    def __init__(self, task: str) -> None:
        super().__init__(
            f"{task} is not run by a worker (it is an in-process task, or a test's), so it cannot "
            "sleep or wait for an event. Add it with QueuedTasks."
        )


class InvalidStep(WorkflowError, ValueError):
    """A step cannot be made like that: its name, its place or its compensation."""

    final = True


class StepsChanged(WorkflowError):
    """The steps that were done are not those that this release of the task makes."""

    final = True

    def __init__(self, task: str, what: str) -> None:
        super().__init__(
            f"The steps of {task} are not those of the release that began it: {what}. Nothing was "
            "run. Run this task with the release that began it and `fastedgy queue retry`, or give "
            "the changed task another name."
        )


class StepFailed(WorkflowError):
    """A step failed in an earlier run, and the class of its exception is not to be found here."""

    def __init__(self, name: str, error_type: str, error_message: str) -> None:
        super().__init__(f"The step {name!r} failed: {error_type}: {error_message}")
        self.name = name
        self.error_type = error_type
        self.error_message = error_message


class StepResultNotStored(WorkflowError):
    """The step was made, but what it returned could not be stored, so nobody can go on from it."""

    final = True

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"{name!r} was made, but its result could not be stored: {reason}. Return plain values,"
            " or where the data is."
        )
        self.name = name


class TaskTakenOver(WorkflowError):
    """The task is not this run's any more: it was rescued, cancelled or removed meanwhile."""

    def __init__(self, task: str) -> None:
        super().__init__(
            f"{task} is not this run's any more (it was taken back, or has no row), so this run "
            "may not go on with its steps."
        )


class SagaCompensated(WorkflowError):
    """A saga failed, and what it had done is undone.

    Uncaught, it ends its task as `done` with `result`: `status`, `compensations`, `error`.
    """

    def __init__(self, saga: str, result: dict[str, Any]) -> None:
        super().__init__(f"The saga {saga!r} was compensated: {result.get('error')}")
        self.saga = saga
        self.result = result


class CompensationFailed(WorkflowError):
    """A compensation failed as often as it may. `fastedgy queue retry` goes on with it."""

    final = True

    def __init__(self, saga: str, step: str, reason: str) -> None:
        super().__init__(
            f"The saga {saga!r} is not undone: the compensation of {step!r} failed to the end: "
            f"{reason}. Remove the cause, then `fastedgy queue retry` goes on with it."
        )
        self.saga = saga
        self.step = step


class CircuitOpen(WorkflowError):
    """The breaker is open, or half open and being probed. `retry_after` is in seconds."""

    def __init__(self, name: str, retry_after: float, error: str | None) -> None:
        because = f" (last error: {error})" if error else ""
        super().__init__(
            f"The circuit breaker {name!r} is open{because}; try again in {retry_after:.1f} s."
        )
        self.name = name
        self.retry_after = retry_after


class TooManyFollowers(FastEdgyError, RuntimeError):
    """As many streams of events are open in this process as may be."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit:,} streams of events are open in this process, and no more may be. Try again "
            "later, or ask for the state instead."
        )


class FunctionRefused(FastEdgyError):
    """A row names a function that the application does not offer as a task."""


class FunctionNotFound(FastEdgyError, LookupError):
    """A row names a function that this release of the application does not have."""


class ClosureRefused(FastEdgyError):
    """A closure whose signature is missing or was made with an unknown key."""


class SignatureRefused(FastEdgyError):
    """A task whose signature is missing, of an unknown key, or of another task."""


class FastAPITasksError(FastEdgyError, RuntimeError):
    """In-process tasks cannot do what was asked."""


class FastAPITasksUninitializedAppError(FastAPITasksError):
    """`Tasks` was used in an application that has no in-process tasks, or does not run."""

    def __init__(self) -> None:
        super().__init__(
            "This application has no in-process tasks. Call add_tasks(app) right after making it "
            "(a FastEdgy has them from the start), and run it with its lifespan: under a server, "
            "or in tests by `with TestClient(app) as client:`. A mounted application uses those "
            "of the one it is mounted in."
        )


class TaskBacklogFull(FastAPITasksError):
    """As many tasks of a name wait for a place as `backlog=` allows."""

    def __init__(self, name: str, waiting: int, limit: int) -> None:
        super().__init__(
            f"{waiting} in-process tasks of {name} wait already, besides the {limit} that may run "
            "at once (limit=). Raise backlog= or limit=, answer 503, or give the work to the queue "
            "(QueuedTasks)."
        )
        self.name = name
        self.waiting = waiting


class TaskMomentOver(FastAPITasksError):
    """The route or the response that a task was to follow is over."""

    def __init__(self, name: str, moment: str) -> None:
        super().__init__(
            f"{name} was scheduled by tasks.{moment}, but that moment is over. Use "
            "tasks.schedule(…), which starts it now."
        )
        self.name = name


class TasksNotRunning(FastAPITasksError):
    """The application that was to run a task does not run any more."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} cannot run: its application has been shut down.")
        self.name = name


class TaskOutcomeError(FastEdgyError):
    """The task ended, but there is no result to return."""

    def __init__(self, message: str, *, id: UUID) -> None:
        super().__init__(message)
        self.id = id


class TaskFailed(TaskOutcomeError):
    """The task failed for good.

    `error_type`, `error_message` and `traceback` are those of the exception that the function
    raised in its worker.
    """

    def __init__(self, *, id: UUID, name: str, error_type: str, error_message: str,
                 traceback: str | None) -> None:  # fmt: skip
        super().__init__(f"Task {name} ({id}) failed: {error_type}: {error_message}", id=id)
        self.name = name
        self.error_type = error_type
        self.error_message = error_message
        self.traceback = traceback


class TaskCancelled(TaskOutcomeError):
    """The task was cancelled, by hand or because a parent came to nothing."""

    def __init__(self, *, id: UUID, name: str, reason: str | None) -> None:
        super().__init__(f"Task {name} ({id}) was cancelled: {reason or 'on request'}", id=id)
        self.name = name
        self.reason = reason


class ResultNotStored(TaskOutcomeError):
    """The task is done, but what it returned could not be stored as JSON."""


class ResultGone(TaskOutcomeError):
    """A task that was given as an argument has no row (any more), so there is no result of it."""
