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
    ├── ParentNotFound (LookupError)           a `parent=` that is not in the table
    ├── DuplicateTask                          the unique key is taken and duplicates are errors
    ├── NoOpenBuffer (RuntimeError)            `add_task` where nothing would ever write it
    ├── TaskNotFound (LookupError)             no row has that id
    ├── AmbiguousId (LookupError)              an abbreviated id that several rows have
    ├── InvalidTransition (ValueError)         that state cannot be left that way
    ├── InvalidContext (ValueError)            a value that a task's context cannot hold
    ├── NotInTask (RuntimeError)               a task's own tools used outside a task
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
        └── ResultNotStored                    the task is done, its result could not be stored

`wait(timeout=…)` raises the built-in `TimeoutError` when the time is over.
"""

from __future__ import annotations

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


class ParentNotFound(FastEdgyError, LookupError):
    """A parent is not in the table (never written, not committed yet, or pruned)."""

    def __init__(self, ids: list[UUID]) -> None:
        names = ", ".join(str(id) for id in ids)
        super().__init__(
            f"No task has the id {names}, which was given as parent=. Nothing of this flush was "
            "written. A parent must be committed, or be added in the same request and block."
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
            "add_task() was called outside a route, a task and a running event loop, so nothing "
            "would write the task. In a script, use `async with QueuedTasks() as tasks:`."
        )


class TaskNotFound(FastEdgyError, LookupError):
    """No row has that id (never written, or pruned)."""

    def __init__(self, id: UUID | str) -> None:
        super().__init__(f"No task has the id {id}. `fastedgy queue list` shows which there are.")
        self.id = id


class AmbiguousId(FastEdgyError, LookupError):
    """An abbreviated id is that of several tasks. `ids` are some of them."""

    def __init__(self, text: str, ids: list[UUID]) -> None:
        shown = ", ".join(str(id) for id in ids[:3]) + (", …" if len(ids) > 3 else "")
        super().__init__(f"{text} is short for more than one task ({shown}). Give more digits.")
        self.ids = ids


class InvalidTransition(FastEdgyError, ValueError):
    """The task's state cannot be left that way."""


class InvalidContext(FastEdgyError, ValueError):
    """What was given to `set_context` cannot be stored, or its path leads nowhere."""


class NotInTask(FastEdgyError, RuntimeError):
    """`set_context`, `get_context` and their like were used outside a running task."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}() works inside a running task only; no task is running here.")


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
