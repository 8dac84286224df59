"""Adding: parents in every form, unique keys, options, and what is refused at once."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from mail_samples import digest, later, only_one, report, send
from rows import add, add_ended, count, read, state_of

from fastedgy.errors import (
    DuplicateTask,
    InvalidArguments,
    InvalidFunction,
    InvalidOption,
    ParentNotFound,
)
from fastedgy.ids import new_id
from fastedgy.queued_task import clear_all_hooks, on_post_create, on_pre_create
from fastedgy.queued_tasks import QueuedTaskRef, QueuedTasks


async def test_a_ref_has_its_id_at_once(tasks: QueuedTasks, connection: asyncpg.Connection) -> None:
    ref = tasks.add_task(send, "a", copies=2)
    id = ref.id

    assert isinstance(id, UUID)
    assert id.version == 7
    assert await ref.get_task_id() == id
    assert (await ref).id == id
    row = await read(connection, id)
    assert (json.loads(row["args"]), json.loads(row["kwargs"])) == (["a"], {"copies": 2})
    assert (row["name"], row["function"]) == ("mail_samples.send", "mail_samples:send")


# Parents


def forms(ref: QueuedTaskRef) -> dict[str, Any]:
    return {
        "ref": ref,
        "id": ref.id,
        "text": str(ref.id),
        "list": [ref],
        "tuple": (ref, str(ref.id)),
        "set": {ref.id},
        "generator": (each for each in [ref]),
    }


@pytest.mark.parametrize("form", ["ref", "id", "text", "list", "tuple", "set", "generator"])
@pytest.mark.parametrize("written", [False, True])
async def test_a_parent_may_be_given_in_many_forms(
    tasks: QueuedTasks, connection: asyncpg.Connection, form: str, written: bool
) -> None:
    async with tasks:
        parent = tasks.add_task(send, "a")
        if written:
            await parent
        child = tasks.add_task(send, "b", parent=forms(parent)[form])

    assert await child.parents() == [parent]
    assert await parent.children() == [child]
    assert await child.get_state() == "waiting"


@pytest.mark.parametrize("nobody", [None, [], ()])
async def test_no_parent_may_be_given_in_many_forms(tasks: QueuedTasks, nobody: Any) -> None:
    assert await tasks.add_task(send, "a", parent=nobody).get_state() == "enqueued"


async def test_many_tasks_may_have_one_parent_and_one_many(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    async with tasks:
        parent = tasks.add_task(send, "a")
        pages = tasks.add_tasks(report, [(number,) for number in range(50)], parent=parent)
        last = tasks.add_task(send, "b", parent=pages)

    assert len(await parent.children()) == 50
    assert (await read(connection, await last.get_task_id()))["waiting_on"] == 50


@pytest.mark.parametrize("nonsense", ["no id", 5, [5], object(), ["no id"]])
async def test_nonsense_as_a_parent_is_refused_at_once(tasks: QueuedTasks, nonsense: Any) -> None:
    with pytest.raises(InvalidOption, match="parent="):
        tasks.add_task(send, "a", parent=nonsense)


async def test_a_missing_parent_is_found_at_the_write(tasks: QueuedTasks) -> None:
    missing = new_id()
    with pytest.raises(ParentNotFound, match=str(missing)):
        await tasks.add_task(send, "a", parent=missing)


@pytest.mark.parametrize(
    ("on_parent_failure", "state"),
    [("cancel", "cancelled"), ("fail", "failed"), ("run", "enqueued")],
)
async def test_a_task_says_what_becomes_of_it_when_its_parent_fails(
    tasks: QueuedTasks, connection: asyncpg.Connection, on_parent_failure: str, state: str
) -> None:
    dead = await add_ended(connection, "failed")

    ref = tasks.task(on_parent_failure=on_parent_failure).add_task(send, "a", parent=dead)

    assert await ref.get_state() == state


# Unique keys


async def test_a_second_task_with_the_same_key_is_the_first(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    first = tasks.add_task(digest, 1)
    assert first.id is None
    await first
    second = await tasks.add_task(digest, user=1)
    other = await tasks.add_task(digest, 2)

    assert first == second != other
    assert (await read(connection, await first.get_task_id()))["unique_key"] == "digest:1"
    assert await count(connection) == 2


async def test_of_fifty_requests_for_one_key_at_once_all_get_the_same_task(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    async def request() -> UUID:
        async with tasks:
            return await tasks.add_task(digest, 1).get_task_id()

    ids = await asyncio.gather(*(request() for _ in range(50)))

    assert len(set(ids)) == 1
    assert await count(connection) == 1


async def test_equal_keys_in_one_flush_are_one_task(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    async with tasks:
        refs = [tasks.add_task(digest, number % 3) for number in range(9)]

    assert len({ref.id for ref in refs}) == 3
    assert await count(connection) == 3


async def test_a_key_that_was_given_by_hand_wins(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    ref = await tasks.task(unique_key="mine").add_task(digest, 1)

    assert (await read(connection, await ref.get_task_id()))["unique_key"] == "mine"


async def test_a_duplicate_may_be_an_error(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    holder = await tasks.add_task(only_one, 1)
    async with tasks:
        tasks.add_task(send, "beside it")
        tasks.add_task(only_one, 1)
        with pytest.raises(DuplicateTask) as caught:
            await tasks.flush()

    assert (caught.value.key, caught.value.id) == ("only:1", holder.id)
    assert await count(connection) == 1


async def test_a_duplicate_in_the_same_flush_may_be_an_error(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    with pytest.raises(DuplicateTask):
        async with tasks:
            tasks.add_task(only_one, 1)
            tasks.add_task(only_one, 1)

    assert await count(connection) == 0


async def test_a_child_of_a_duplicate_is_a_child_of_the_task_that_holds_the_key(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    holder = await tasks.add_task(digest, 1)
    async with tasks:
        duplicate = tasks.add_task(digest, 1)
        child = tasks.add_task(send, "b", parent=duplicate)
        grandchild = tasks.add_task(send, "c", parent=[child, duplicate])

    assert await child.parents() == [holder]
    assert set(await grandchild.parents()) == {holder, child}
    assert await count(connection) == 3


async def test_a_duplicate_does_not_get_further_parents(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    holder = await tasks.add_task(digest, 1)
    async with tasks:
        parent = tasks.add_task(send, "a")
        tasks.add_task(digest, 1, parent=parent)

    assert await holder.get_state() == "enqueued"
    assert await parent.children() == []


# Options


async def test_options_of_the_function_and_of_the_task_reach_the_row(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    usual = await tasks.add_task(digest, 1)
    special = await tasks.task(queue="mail", max_retries=0, timeout=2.5, priority=-1).add_task(
        digest, 2
    )

    row = await read(connection, await usual.get_task_id())
    assert (row["queue"], row["max_retries"], row["name"]) == ("digests", 7, "the digest")
    row = await read(connection, await special.get_task_id())
    assert (row["queue"], row["max_retries"], row["timeout"]) == ("mail", 0, 2.5)
    assert (row["name"], row["priority"]) == ("the digest", -1)


async def test_a_delay_is_seconds_or_a_timedelta_and_a_time_is_a_time(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=60)
    for options in ({"delay": 60}, {"delay": timedelta(minutes=1)}, {"at": moment}, {}):
        ref = await tasks.task(**options).add_task(later)
        row = await read(connection, await ref.get_task_id())
        assert row["state"] == "scheduled"
        assert abs((row["date_due"] - moment).total_seconds()) < 5


# Refused


class Anything:
    def method(self) -> None: ...


async def test_what_cannot_become_a_task_is_refused_at_once_and_nothing_is_added(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    def nested() -> None: ...

    wrong: list[tuple[type[Exception], Any, tuple[Any, ...], dict[str, Any]]] = [
        (InvalidFunction, lambda: None, (), {}),
        (InvalidFunction, nested, (), {}),
        (InvalidFunction, Anything().method, (), {}),
        (InvalidFunction, report(1), (), {}),
        (InvalidFunction, print, (), {}),
        (InvalidFunction, "mail_samples:send", (), {}),
        (InvalidFunction, Anything, (), {}),
        (InvalidArguments, send, (), {}),
        (InvalidArguments, send, ("a", 1, 2), {}),
        (InvalidArguments, send, ("a",), {"unknown": 1}),
        (InvalidArguments, send, (object(),), {}),
        (InvalidArguments, send, ("\0",), {}),
        (InvalidArguments, send, (float("nan"),), {}),
        (InvalidArguments, send, ({1: 2},), {}),
    ]
    async with tasks:
        for error, func, args, kwargs in wrong:
            with pytest.raises(error):
                tasks.add_task(func, *args, **kwargs)
        for options in ({"retries": 1}, {"delay": -1}, {"priority": "high"}, {"timeout": 0}):
            with pytest.raises(InvalidOption):
                tasks.task(**options)
        with pytest.raises(InvalidArguments):
            tasks.add_tasks(send, [("a",), ("a", 1, 2)])

    assert await count(connection) == 0


@pytest.mark.parametrize("call", [5, None, "text", b"text"])
async def test_a_call_that_is_no_list_of_arguments_is_refused(
    tasks: QueuedTasks, call: Any
) -> None:
    with pytest.raises(InvalidArguments):
        tasks.add_tasks(send, [call])


# Hooks


async def test_hooks_see_the_task_before_and_after_it_is_written(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    seen: list[tuple[str, str | None]] = []

    async def before(task: Any) -> None:
        task.context["tenant"] = "acme"
        seen.append(("before", await state_of(connection, task.id)))

    async def broken(task: Any) -> None:
        raise ValueError

    async def after(task: Any) -> None:
        seen.append(("after", await state_of(connection, task.id)))

    try:
        for register, hook in ((on_pre_create, broken), (on_pre_create, before)):
            register(hook)
        on_post_create(after)
        ref = await tasks.add_task(send, "a")
    finally:
        clear_all_hooks()

    assert seen == [("before", None), ("after", "enqueued")]
    assert await ref.context() == {"tenant": "acme"}


async def test_a_task_that_exists_already_can_be_a_parent_by_its_id(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    parent = await add(connection)

    child = await tasks.add_task(send, "a", parent=parent)

    assert [ref.id for ref in await child.parents()] == [parent]
