"""How rows say what went wrong in a task's own code, which may break even while it is asked."""

from __future__ import annotations

from fastedgy.queued_task.encoding import clean


def type_of(error: BaseException | None) -> str:
    """The name of an exception's class, as rows have it."""
    kind = type(error)
    if kind.__module__ in ("builtins", "__main__"):
        return clean(kind.__qualname__, 200)
    return clean(f"{kind.__module__}.{kind.__qualname__}", 200)


def message_of(error: BaseException, longest: int) -> str:
    """What an exception says, in at most so many characters."""
    try:
        return clean(str(error), longest)
    except BaseException as broken:  # the task's own code, and nothing it does may harm us
        return f"(its message cannot be printed: {type(broken).__name__})"
