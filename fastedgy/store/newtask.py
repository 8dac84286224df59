"""A task before it has a row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Spec:
    """What the tasks of one place in the code have in common: their row without the arguments."""

    name: str
    function: str
    queue: str = "default"
    priority: int = 0
    max_retries: int = 3
    timeout: float | None = None
    delay: float | None = None
    at: datetime | None = None
    on_parent_failure: str = "cancel"
    auto_remove: bool = False
    closure: bytes | None = None
    owner: UUID | None = None  # who runs it itself: the row starts as `doing`
    limit: int | None = None  # of its gate: so many at once
    rate: float | None = None  # of its gate: so many starts a second
    breaker: str | None = None
    redact: tuple[str, ...] | None = None  # places in the arguments: "0", "password"
    schedule: str | None = None

    def has_gate(self) -> bool:
        """Whether its tasks wait in the lines of gates."""
        return self.limit is not None or self.rate is not None or self.breaker is not None

    def is_plain(self) -> bool:
        """Whether the short statements can write it: due now, and kept when done."""
        return (
            self.delay is None
            and self.at is None
            and not self.auto_remove
            and self.closure is None
            and self.owner is None
            and self.breaker is None
            and self.redact is None
            and self.schedule is None
        )


class NewTask:
    """A task that is not written yet: what its row will say. `args`, `kwargs`, `context`: JSON.

    `gate`: the line of its own in which it waits. `takes_results`: there are refs among its
    arguments, in place of which it gets their results. `trace`: a W3C traceparent.
    """

    __slots__ = ("args", "awaited", "context", "gate", "id", "kwargs", "parents", "signature",
                 "spec", "takes_results", "trace", "unique_key")  # fmt: skip

    def __init__(
        self,
        id: UUID,
        spec: Spec,
        args: str = "[]",
        kwargs: str = "{}",
        *,
        parents: tuple[UUID, ...] = (),
        unique_key: str | None = None,
        awaited: bool = False,
        context: str = "{}",
        gate: str | None = None,
        takes_results: bool = False,
        trace: str | None = None,
        signature: str | None = None,
    ) -> None:
        self.id = id
        self.spec = spec
        self.args = args
        self.kwargs = kwargs
        self.parents = parents
        self.unique_key = unique_key
        self.awaited = awaited
        self.context = context
        self.gate = gate
        self.takes_results = takes_results
        self.trace = trace
        self.signature = signature
