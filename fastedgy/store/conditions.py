"""The conditions under which a task may be taken, in the words of the statements that take it.

`explain` asks the same words of one row, so what it says cannot drift from what the engine does.
Literal states: a parameter can lose the partial index.
"""

from __future__ import annotations

READY = "state = 'enqueued' AND NOT alone AND gate IS NULL"
"""In the line of its lane: what a claim sees."""

GATED = "state = 'enqueued' AND NOT alone AND gate IS NOT NULL"
"""In the line of its gate: what a claim under a limit, a rate or a breaker sees."""

SUSPECT = "state = 'enqueued' AND alone"
"""May have killed its worker: what a claim of a solo worker sees."""

DUE = "state = 'scheduled' AND date_due <= statement_timestamp()"
"""What a promotion puts into the line."""
