"""Work on many ids: one task for each range of them, and a cursor that survives a crash."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Protocol, TypeVar

from fastedgy.errors import InvalidArguments, InvalidOption, NoOpenBuffer
from fastedgy.queued_task.context import get_context, get_current_task, set_context

Id = TypeVar("Id", int, str)


class Producer(Protocol):
    """What is needed of `QueuedTasks` here, which stands above this room."""

    def task(self, **options: Any) -> Any: ...

    async def flush(self) -> Any: ...


_producer: Callable[[], Producer] | None = None


def use_producer(find: Callable[[], Producer]) -> None:
    """Say how to find the producer. `fastedgy.queued_tasks` does."""
    global _producer
    _producer = find


async def enqueue_id_range_tasks(
    func: Callable[..., Any],
    ids: Iterable[Id],
    chunk_size: int = 200,
    *,
    queue: str | None = None,
    channel: str | None = None,
    priority: int | None = None,
    max_retries: int | None = None,
    auto_remove: bool = True,
    **kwargs: Any,
) -> list[Any]:
    """Enqueue `func(min_id=…, max_id=…, **kwargs)` for every `chunk_size` of the ids.

    The ids are sorted, and each is taken once. The task looks up its own ids between its bounds,
    so that its arguments stay small and its data fresh. With `auto_remove` a row goes when its task
    is done. Returns the refs; all are written, in one statement, when this returns.
    """
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise InvalidOption(f"chunk_size={chunk_size!r} makes no sense: it must be 1 or more.")
    for reserved in ("min_id", "max_id"):
        if reserved in kwargs:
            raise InvalidArguments(
                f"{reserved}= is filled with the bounds of each range; do not pass it.",
                parameter=reserved,
            )
    if _producer is None:
        raise NoOpenBuffer
    producer = _producer()
    options = {
        "queue": queue,
        "channel": channel,
        "priority": priority,
        "max_retries": max_retries,
        "auto_remove": auto_remove,
    }
    with_options = producer.task(**{k: v for k, v in options.items() if v is not None})
    wanted = _sorted(ids)
    refs = []
    for start in range(0, len(wanted), chunk_size):
        chunk = wanted[start : start + chunk_size]
        refs.append(with_options.add_task(func, min_id=chunk[0], max_id=chunk[-1], **kwargs))
    if refs:
        await producer.flush()
    return refs


async def iter_with_cursor(
    ids: Iterable[Id], key: str = "cursor", commit_every: int = 1
) -> AsyncIterator[Id]:
    """Iterate over the ids in ascending order, remembering in the context how far it came.

    After every `commit_every` ids that were worked on, the last of them goes to the context under
    `key`; a run that follows a crash or a failure starts behind it. Outside of a task it iterates
    and remembers nothing.
    """
    if isinstance(commit_every, bool) or not isinstance(commit_every, int) or commit_every < 1:
        raise InvalidOption(f"commit_every={commit_every!r} makes no sense: it must be 1 or more.")
    inside = get_current_task() is not None
    cursor = get_context(key) if inside else None
    wanted = _sorted(ids)
    if cursor is not None:
        wanted = [one for one in wanted if one > cursor]
    for count, one in enumerate(wanted, 1):
        yield one
        if inside and (count % commit_every == 0 or count == len(wanted)):
            set_context(key, one)


def _sorted(ids: Iterable[Id]) -> list[Id]:
    try:
        return sorted(set(ids))
    except TypeError as error:
        raise InvalidArguments(f"The ids cannot be put in order: {error}.") from None
