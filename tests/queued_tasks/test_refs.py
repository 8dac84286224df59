"""Refs: waiting for the end, cancelling, retrying, reading. The tests play the worker."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import asyncpg
import pytest
from helpers import PATIENCE, eventually
from mail_samples import digest, report, send
from proxy import Proxy
from rows import (
    CHANNELS,
    TABLES,
    add,
    add_ended,
    add_taken,
    blocked,
    connections,
    count,
    end,
    outcome,
    read,
    state_of,
    states,
    take,
)

from fastedgy.app import running
from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.errors import (
    InvalidTaskId,
    InvalidTransition,
    ResultNotStored,
    TaskCancelled,
    TaskFailed,
    TaskNotFound,
)
from fastedgy.ids import new_id
from fastedgy.queued_task import clear_all_hooks, on_pre_create
from fastedgy.queued_tasks import QueuedTaskRef, QueuedTasks
from fastedgy.queued_tasks.waiter import Waiter
from fastedgy.queued_tasks.waiting import LOOK
from fastedgy.store import actions, watch
from fastedgy.store.finish import finish_any
from fastedgy.store.outcomes import done_without_result
from fastedgy.store.returned import finish_done
from fastedgy.store.traces import Said, append_logs


async def taken(connection: asyncpg.Connection) -> Any:
    """The next task, claimed once it is there."""

    async def check() -> Any:
        rows = await take(connection, 1)
        assert rows
        return rows[0]

    return await eventually(check)


async def end_next(connection: asyncpg.Connection, word: str = "done", **facts: Any) -> Any:
    """Run the next task to its end, telling who waits."""
    record = await taken(connection)
    await end(connection, record, word=word, channels=CHANNELS, **facts)
    return record


def waits_for(ref: QueuedTaskRef, timeout: float = PATIENCE) -> asyncio.Task[Any]:
    return asyncio.create_task(ref.wait(timeout))


# wait()


@pytest.mark.parametrize("result", [None, 1, "text", {"a": [1, 2.5, None]}, [], False])
async def test_wait_returns_the_result(
    tasks: QueuedTasks, connection: asyncpg.Connection, result: Any
) -> None:
    waiting = waits_for(tasks.add_task(send, "a"))
    await end_next(connection, result=None if result is None else json.dumps(result))

    assert await waiting == result


async def test_wait_learns_of_the_end_at_once(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    ref = tasks.add_task(send, "a")
    waiting = waits_for(ref)
    record = await taken(connection)

    async def is_awaited() -> None:
        assert (await read(connection, record["id"]))["awaited"]

    await eventually(is_awaited)
    began = time.monotonic()
    await finish_done(connection, TABLES, [outcome(record, result="1")], channels=CHANNELS)

    assert await waiting == 1
    assert time.monotonic() - began < LOOK / 2


async def test_a_task_that_its_wait_writes_is_not_looked_at_before_it_ends(
    tasks: QueuedTasks, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Any] = []
    mark_awaited = watch.mark_awaited

    async def counted(connection: Any, tables: Any, id: Any) -> Any:
        looks.append(id)
        return await mark_awaited(connection, tables, id)

    monkeypatch.setattr(watch, "mark_awaited", counted)
    async with tasks:
        fresh = waits_for(tasks.add_task(report, 1))
        await end_next(connection, result="5")
        assert (await fresh, looks) == (5, [])

        written = await tasks.add_task(report, 2)
        late = waits_for(written)
        await end_next(connection, result="6")
        assert (await late, looks) == (6, [written.id])


async def test_wait_for_a_task_that_is_cancelled_before_it_is_written_says_so(
    tasks: QueuedTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Waiter.start

    async def slow(self: Waiter, timeout: float | None) -> None:
        ref.cancel()
        await start(self, timeout)

    monkeypatch.setattr(Waiter, "start", slow)
    async with tasks:
        ref = tasks.add_task(report, 1)
        with pytest.raises(TaskCancelled, match="before it was written"):
            await ref.wait(timeout=PATIENCE)


async def test_wait_raises_what_the_task_failed_with(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    ref = tasks.add_task(send, "a")
    waiting = waits_for(ref)
    record = await taken(connection)
    ended = outcome(record, "failed", message="no such user")
    ended.error_traceback = "Traceback …"
    await finish_any(connection, TABLES, [ended], channels=CHANNELS)

    with pytest.raises(TaskFailed, match="mail_samples.send .* failed: ValueError: no such") as got:
        await waiting
    error = got.value
    assert (error.id, error.name) == (ref.id, "mail_samples.send")
    assert (error.error_type, error.error_message) == ("ValueError", "no such user")
    assert error.traceback == "Traceback …"


async def test_wait_says_that_the_task_was_cancelled_and_why(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    ref = await tasks.add_task(send, "a")
    waiting = waits_for(ref)

    async def check() -> None:
        assert (await read(connection, await ref.get_task_id()))["awaited"]

    await eventually(check)
    await tasks.ref(await ref.get_task_id()).cancel("not needed")

    with pytest.raises(TaskCancelled, match="not needed") as got:
        await waiting
    assert not isinstance(got.value, asyncio.CancelledError)


async def test_wait_says_that_the_result_could_not_be_stored(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    waiting = waits_for(tasks.add_task(send, "a"))
    record = await taken(connection)
    now = time.monotonic()
    ended = done_without_result(record["id"], record["run"], now, now, "it is a socket")
    await finish_any(connection, TABLES, [ended], channels=CHANNELS)

    with pytest.raises(ResultNotStored, match="it is a socket"):
        await waiting


async def test_wait_ends_with_its_time(tasks: QueuedTasks) -> None:
    ref = tasks.add_task(send, "a")
    with pytest.raises(TimeoutError, match=rf"Task {ref.id} has not ended within 0\.1 s"):
        await ref.wait(timeout=0.1)

    assert await ref.get_state() == "enqueued"


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
async def test_wait_for_a_task_that_has_ended_returns_at_once(
    tasks: QueuedTasks, connection: asyncpg.Connection, state: str
) -> None:
    ref = tasks.ref(await add_ended(connection, state))
    began = time.monotonic()
    waiting = await asyncio.gather(ref.wait(timeout=30), return_exceptions=True)

    expected = {"done": type(None), "failed": TaskFailed, "cancelled": TaskCancelled}
    assert [type(each) for each in waiting] == [expected[state]]
    assert time.monotonic() - began < LOOK / 2


async def test_wait_for_a_task_that_nobody_has_written_says_so(tasks: QueuedTasks) -> None:
    with pytest.raises(TaskNotFound):
        await tasks.ref(new_id()).wait(timeout=30)


async def test_many_may_wait_for_one_task(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    ref = await tasks.add_task(send, "a")
    waiting = [waits_for(tasks.ref(str(ref.id))) for _ in range(20)]

    async def check() -> None:
        assert len(tasks._waiter()._sleepers[await ref.get_task_id()]) == 20

    await eventually(check)
    await end_next(connection, result="7")

    assert await asyncio.gather(*waiting) == [7] * 20


async def test_one_may_wait_for_many_tasks(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    async with tasks:
        refs = tasks.add_tasks(report, [(number,) for number in range(200)])
        waiting = asyncio.gather(*(ref.wait(timeout=30) for ref in refs))

        async def work() -> None:
            ended = 0
            while ended < 200:
                ends = []
                for record in await take(connection, 70):
                    ends.append(outcome(record, result=json.loads(record["args"])[0].__repr__()))
                if not ends:
                    await asyncio.sleep(0)
                    continue
                await finish_any(connection, TABLES, ends, channels=CHANNELS)
                ended += len(ends)

        await work()
        assert await waiting == list(range(200))
    backends = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'fastedgy wait' AND datname = current_database()"
    )
    assert backends == 1


async def test_a_wait_that_is_given_up_leaves_nothing_behind(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    ref = await tasks.add_task(send, "a")
    waiting = waits_for(ref)

    async def check() -> None:
        assert tasks._waiter()._sleepers

    await eventually(check)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not tasks._waiter()._sleepers


async def test_wait_without_notifications(
    database_url: str, connection: asyncpg.Connection
) -> None:
    config = QueuedTaskConfig(use_postgresql_notify=False)
    async with running(settings=Settings(database_url=database_url), queue=config) as tasks:
        waiting = waits_for(tasks.add_task(send, "a"))
        await end_next(connection, result="1")
        assert await waiting == 1


async def test_wait_goes_on_when_its_listener_is_lost(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    waiting = waits_for(tasks.add_task(send, "a"))
    record = await taken(connection)

    async def listeners() -> list[int]:
        rows = await connection.fetch(
            "SELECT pid FROM pg_stat_activity"
            " WHERE application_name = 'fastedgy wait' AND datname = current_database()"
        )
        return [row["pid"] for row in rows]

    [old] = await listeners()
    await connection.execute("SELECT pg_terminate_backend($1)", old)

    async def check() -> None:
        assert old not in await listeners()

    await eventually(check)
    await end(connection, record, result="1", channels=CHANNELS)
    assert await waiting == 1


async def test_wait_survives_a_cut_line(
    database_url: str, connection: asyncpg.Connection, wire: Proxy
) -> None:
    async with running(settings=Settings(database_url=wire.url)) as tasks:
        ref = await tasks.add_task(send, "a")
        waiting = waits_for(ref, timeout=30)
        record = await taken(connection)
        await wire.close()
        await end(connection, record, result="1", channels=CHANNELS)
        await wire.open()
        assert await waiting == 1


async def test_wait_for_a_task_that_is_just_being_written_is_told(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    ref = tasks.add_task(send, "a")
    while ref._pending is not None and not ref._pending.on_its_way:
        await asyncio.sleep(0)
    waiting = waits_for(ref)
    record = await taken(connection)

    async def check() -> None:
        assert (await read(connection, record["id"]))["awaited"]

    await eventually(check)
    began = time.monotonic()
    await end(connection, record, result="1", channels=CHANNELS)
    assert await waiting == 1
    assert time.monotonic() - began < LOOK / 2


async def test_a_task_that_ends_while_it_is_looked_at_is_seen_to_have_ended(
    connection: asyncpg.Connection, database_url: str
) -> None:
    record = await add_taken(connection)
    async with connections(database_url, 2) as [other, watcher]:
        ending = connection.transaction()
        await ending.start()
        await end(connection, record)

        looking = asyncio.create_task(watch.mark_awaited(other, TABLES, record["id"]))
        await blocked(watcher, other)
        await ending.commit()

        row = await looking
        assert row is not None
        assert row["state"] == "done"


async def test_wait_for_a_child_that_is_born_dead_ends_at_once(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    dead = await add_ended(connection, "failed")
    began = time.monotonic()

    with pytest.raises(TaskCancelled, match="ended as failed"):
        await tasks.add_task(send, "a", parent=dead).wait(timeout=30)
    assert time.monotonic() - began < LOOK / 2


async def test_wait_for_a_duplicate_waits_for_the_task_that_holds_the_key(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    first = await tasks.add_task(digest, 1)
    waiting = waits_for(tasks.add_task(digest, 1))
    record = await taken(connection)
    assert record["id"] == first.id

    async def check() -> None:
        assert (await read(connection, record["id"]))["awaited"]

    await eventually(check)
    await end(connection, record, result="1", channels=CHANNELS)
    assert await waiting == 1


async def test_wait_goes_on_through_retries(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    waiting = waits_for(tasks.add_task(send, "a"))
    await end_next(connection, "retry", delay=0.0)
    await end_next(connection, "interrupted")
    await end_next(connection, result="3")

    assert await waiting == 3


async def test_wait_for_a_task_that_is_to_be_removed_returns_its_result(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    waiting = waits_for(tasks.task(auto_remove=True).add_task(send, "a"))
    await end_next(connection, result="5")

    assert await waiting == 5


async def test_wait_for_a_task_whose_queue_is_cleared_ends_as_cancelled(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    ref = await tasks.add_task(send, "a")
    waiting = waits_for(ref)

    async def check() -> None:
        assert (await read(connection, await ref.get_task_id()))["awaited"]

    await eventually(check)
    await actions.clear(connection, TABLES, channels=CHANNELS)

    with pytest.raises(TaskCancelled, match="its row was deleted"):
        await waiting


# cancel()


async def test_a_task_that_is_cancelled_before_it_is_written_never_is(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    async with tasks:
        ref = tasks.add_task(send, "a")
        assert await ref.cancel()
        assert await ref.get_state() == "cancelled"
        with pytest.raises(TaskCancelled):
            await ref.wait(timeout=1)

    assert await count(connection) == 0
    assert await ref.get_state() == "cancelled"


async def test_descendants_of_a_task_that_was_never_written_are_not_written_either(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    async with tasks:
        ref = tasks.add_task(send, "a")
        child = tasks.add_task(send, "b", parent=ref)
        grandchild = tasks.add_task(send, "c", parent=child)
        stubborn = tasks.task(on_parent_failure="run").add_task(send, "d", parent=[ref])
        ref.cancel()

    assert [await each.get_state() for each in (child, grandchild)] == ["cancelled", "cancelled"]
    assert await stubborn.get_state() == "enqueued"
    assert await count(connection) == 1


async def test_a_waiting_task_is_cancelled(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    async with tasks:
        parent = tasks.add_task(send, "a")
        child = tasks.add_task(send, "b", parent=parent)
        await child
        assert await child.cancel("not needed")
    record = await end_next(connection)

    assert record["id"] == parent.id
    assert await states(connection) == ["done", "cancelled"]


async def test_a_running_task_is_asked_to_stop(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    ref = await tasks.add_task(send, "a")
    await taken(connection)

    assert await ref.cancel()

    row = await read(connection, await ref.get_task_id())
    assert (row["state"], row["cancel_requested"]) == ("doing", True)


async def test_a_task_that_has_ended_cannot_be_cancelled(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    ref = tasks.ref(await add_ended(connection))

    assert not await ref.cancel()
    assert await ref.get_state() == "done"


async def test_a_cancellation_without_await_is_written_in_the_background(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    ref = await tasks.add_task(send, "a")
    ref.cancel("not needed")

    async def check() -> None:
        assert await state_of(connection, await ref.get_task_id()) == "cancelled"

    await eventually(check)


@pytest.mark.parametrize("func", [send, digest], ids=["plain", "with a key"])
async def test_a_task_that_is_cancelled_while_it_is_written_is_cancelled_in_its_row(
    tasks: QueuedTasks, connection: asyncpg.Connection, func: Any
) -> None:
    going, go = asyncio.Event(), asyncio.Event()

    async def slow(task: Any) -> None:
        going.set()
        await go.wait()

    on_pre_create(slow)
    try:
        ref = tasks.add_task(func, 1)
        await going.wait()
        cancelling = asyncio.ensure_future(_awaited(ref.cancel()))
        go.set()
        assert await cancelling
    finally:
        clear_all_hooks()

    assert await ref.get_state() == "cancelled"
    assert await states(connection) == ["cancelled"]


async def _awaited(cancellation: Any) -> bool:
    return bool(await cancellation)


async def test_a_cancellation_that_was_awaited_is_not_done_a_second_time(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    async with tasks:
        ref = await tasks.add_task(send, "a")
        assert await ref.cancel()
        await ref.retry()

    assert await states(connection) == ["enqueued"]


# retry()


async def test_a_failed_task_is_run_again(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    ref = tasks.ref(await add_ended(connection, "failed"))

    await ref.retry()

    assert await ref.get_state() == "enqueued"
    waiting = waits_for(ref)
    await end_next(connection, result="2")
    assert await waiting == 2


async def test_what_cannot_be_retried_says_why(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    ref = tasks.ref(await add_ended(connection))

    with pytest.raises(InvalidTransition, match="is done: only failed"):
        await ref.retry()


async def test_a_task_whose_key_was_taken_meanwhile_is_not_retried(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    old = tasks.ref(await add_ended(connection, "failed", unique_key="report"))
    await add(connection, unique_key="report")
    other = await add_ended(connection, "failed")

    with pytest.raises(InvalidTransition, match="unique key"):
        await old.retry()
    ids = [await old.get_task_id(), other]
    assert await actions.retry(connection, TABLES, ids) == [other]


# Reading


async def test_a_ref_tells_what_its_row_says(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    record = await add_taken(connection, context='{"step": {"name": "load"}}')
    lines = [
        Said(record["id"], 1, number, [("info", time.monotonic(), "shop", f"{number}", '{"a": 1}')])
        for number in range(3)
    ]
    await append_logs(connection, TABLES, lines)
    ref = tasks.ref(str(record["id"]))

    assert await ref.get_state() == "doing"
    assert await ref.context() == {"step": {"name": "load"}}
    assert [(line.message, line.level, line.info) for line in await ref.logs()] == [
        (f"{number}", "info", {"a": 1}) for number in range(3)
    ]
    details = await tasks.get_task_by_id(record["id"])
    assert (details.name, details.attempt) == ("shop.send", 1)


async def test_refs_of_one_task_are_equal(tasks: QueuedTasks) -> None:
    ref = await tasks.add_task(send, "a")
    same, other = tasks.ref(str(ref.id)), await tasks.add_task(send, "a")

    assert ref == same != other
    assert len({ref, same, other}) == 2


@pytest.mark.parametrize("id", ["zzz", "", "0" * 31, None, 7, [1]], ids=str)
async def test_what_cannot_be_an_id_is_named_with_the_cure(tasks: QueuedTasks, id: Any) -> None:
    for ask in (tasks.ref, tasks.get_task_by_id):
        with pytest.raises(InvalidTaskId) as caught:
            await ask(id)
        assert repr(id) in str(caught.value)
        assert "`ref.id`" in str(caught.value)
        assert isinstance(caught.value, TaskNotFound)


@pytest.mark.parametrize("question", ["get_state", "context", "retry"])
async def test_a_ref_without_a_row_says_so(tasks: QueuedTasks, question: str) -> None:
    with pytest.raises((TaskNotFound, InvalidTransition)):
        await getattr(tasks.ref(new_id()), question)()


async def test_a_ref_whose_row_was_pruned_says_so(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    ref = await tasks.add_task(send, "a")
    await connection.execute("DELETE FROM queued_tasks")

    with pytest.raises(TaskNotFound):
        await ref.wait(timeout=30)
