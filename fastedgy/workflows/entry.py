"""How a step, a wait or a saga finds the journal of the task that it is called in."""

from __future__ import annotations

from fastedgy.errors import InvalidStep, NotInTask
from fastedgy.queued_task.running import current
from fastedgy.workflows import engine
from fastedgy.workflows.engine import in_step
from fastedgy.workflows.journal import Journal


def journal_of(word: str) -> Journal:
    """The journal of the task that is running here. `word` is what was called.

    Raises NotInTask, NotAsync, InvalidStep inside of a step.
    """
    run = current.get()
    if run is None:
        raise NotInTask(word)
    engine.refuse_sync(word, run)
    outer = in_step.get()
    if outer is not None:
        raise InvalidStep(
            f"{word}() was called inside the function of the step {outer!r}. Steps do not nest: "
            "call it from the task itself."
        )
    journal = getattr(run, "journal", None)
    if journal is None:
        journal = run.journal = Journal(run, engine.producer(word))
    return journal
