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

    def is_plain(self) -> bool:
        """Whether the short statements can write it: due now, and kept when done."""
        return (
            self.delay is None
            and self.at is None
            and not self.auto_remove
            and self.closure is None
            and self.owner is None
        )


class NewTask:
    """A task that is not written yet: what its row will say. `args`, `kwargs`, `context`: JSON."""

    __slots__ = ("args", "awaited", "context", "id", "kwargs", "parents", "spec", "unique_key")

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
    ) -> None:
        self.id = id
        self.spec = spec
        self.args = args
        self.kwargs = kwargs
        self.parents = parents
        self.unique_key = unique_key
        self.awaited = awaited
        self.context = context
