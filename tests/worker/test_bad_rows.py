"""Rows that no worker can run: they fail or wait, with the reason, and never stop a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import shop_tasks
from crew import Hire, reaches
from rows import add, change

from fastedgy.ids import new_id
from fastedgy.queued_task.signing import sign

REFUSED = [
    "os:system", "builtins:eval", "builtins:exec", "subprocess:run", "shop_tasks:_private",
    "shop_tasks:logger", "shop_tasks:Mailer", "shop_tasks:greet.__code__", "shop_tasks:os.system",
    "shop_tasks:logging.getLogger", "__main__:main", "asyncio:run", "json:loads", "pickle:loads",
    "", ":", "shop_tasks", "shop_tasks:", ":greet", "shop tasks:greet", "shop_tasks:greet()",
    "../shop_tasks:greet", "fastedgy.queued_task.closures:unpack", "x" * 5_000,
]  # fmt: skip
UNKNOWN = ["shop_tasks:no_longer_there", "no_such_module:send", "shop_tasks.inner:send"]
MISFITS: dict[str, dict[str, Any]] = {
    "args object": {"args": '{"name": "x"}'},
    "args number": {"args": "5"},
    "args null": {"args": "null"},
    "args text": {"args": '"abc"'},
    "kwargs list": {"kwargs": "[1]"},
    "kwargs number": {"kwargs": "5"},
    "too many": {"args": '["a", "b", "c"]'},
    "too few": {"args": "[]"},
    "unknown name": {"args": "[]", "kwargs": '{"nome": "x"}'},
    "twice": {"args": '["a"]', "kwargs": '{"name": "x"}'},
}


async def still_works(staff: Any) -> None:
    assert await staff.tasks.add_task(shop_tasks.greet, "you").wait(30) == "hello you"
    assert (staff.counters.errors, staff.worker.parts.executor.busy) == (0, 0)


async def test_functions_that_are_not_offered_are_refused(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    ids = {path: await add(connection, function=path, args='["true"]') for path in REFUSED}
    async with hire() as staff:
        for path, id in ids.items():
            row = await reaches(connection, id, "failed")
            assert row["error_type"] == "FunctionRefused", path
            assert row["attempt"] == 1, path
        assert staff.counters.refused == len(REFUSED)
        await still_works(staff)


async def test_functions_that_this_release_does_not_have_wait(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    ids = {path: await add(connection, function=path, args='["true"]') for path in UNKNOWN}
    async with hire() as staff:
        for path, id in ids.items():
            row = await reaches(connection, id, "scheduled")
            assert row["error_type"] == "FunctionNotFound", path
            assert row["attempt"] == 0, path
        await still_works(staff)


async def test_arguments_that_do_not_fit_fail_at_once(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    ids = {
        (what, func): await add(connection, function=f"shop_tasks:{func}", **columns)
        for what, columns in MISFITS.items()
        for func in ("greet", "greet_async")
    }
    async with hire() as staff:
        for what, id in ids.items():
            row = await reaches(connection, id, "failed")
            assert row["error_type"] == "InvalidArguments", what
            assert row["attempt"] == 1, what
        await still_works(staff)


async def test_arguments_of_another_type_fail_at_once(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    wrong = '["no day", "no time", "no id", 5]'
    id = await add(connection, function="shop_tasks:typed", args=wrong)
    async with hire() as staff:
        row = await reaches(connection, id, "failed")
        await still_works(staff)

    assert row["error_type"] == "InvalidArguments"
    assert "day" in row["error_message"]


FORGED: list[dict[str, Any]] = [
    {"context": "[]"}, {"context": "5"}, {"context": "null"}, {"history": "{}"},
    {"max_retries": -5}, {"timeout": -1.0}, {"timeout": float("inf")},
    {"priority": -(2**31)}, {"priority": 2**31 - 1}, {"queue": ""}, {"queue": "x" * 2_000},
    {"name": ""}, {"name": "n" * 100_000}, {"run": 2**31 - 1}, {"attempt": 2**31 - 1},
    {"attempt": -7}, {"losses": 2**31 - 1}, {"closure": b"evil"},
]  # fmt: skip


async def test_rows_with_forged_columns_come_to_an_end(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    forged = []
    for columns in FORGED:
        for function, args in (("greet", '["x"]'), ("control", '["retry", "raise"]')):
            id = await add(connection, function=f"shop_tasks:{function}", args=args)
            await change(connection, id, **columns)
            forged.append(id)
    async with hire() as staff:
        for id in forged:
            await reaches(connection, id, "done", "failed")
        assert await staff.tasks.add_task(shop_tasks.greet, "you").wait(30) == "hello you"


async def test_a_closure_without_our_signature_is_refused(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    id = new_id()
    signature = sign(["secret"], id, "<closure>:evil", "[]", "{}")
    await add(
        connection, id=id, function="<closure>:evil", closure=b"\x80\x04evil", signature=signature
    )
    async with hire(signing_keys=["secret"]) as staff:
        row = await reaches(connection, id, "failed")
        await still_works(staff)

    assert row["error_type"] == "ClosureRefused"


async def test_closures_run_where_keys_are_set(hire: Hire) -> None:
    factor = 3
    async with hire(signing_keys=["secret"]) as staff:
        ref = staff.tasks.add_task(lambda number: number * factor, 5)
        assert await ref.wait(30) == 15


REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF {condition} THEN RAISE 'cursed'; END IF; RETURN NEW; END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()
"""


@asynccontextmanager
async def refused(
    connection: asyncpg.Connection, table: str, condition: str
) -> AsyncIterator[None]:
    """While this is open, the database refuses such rows."""
    await connection.execute(REFUSE.format(table=table, condition=condition))
    try:
        yield
    finally:
        await connection.execute(f"DROP TRIGGER refuse ON {table}; DROP FUNCTION refuse()")


async def test_one_outcome_that_cannot_be_written_does_not_hold_up_the_others(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    """The rows of some are such that the database refuses what is to become of them."""
    async with (
        refused(connection, "queued_tasks", "NEW.state = 'done' AND NEW.name = 'cursed'"),
        hire() as staff,
    ):
        async with staff.tasks as tasks:
            refs = tasks.add_tasks(shop_tasks.mark, [(number,) for number in range(30)])
            talking = tasks.add_tasks(shop_tasks.talk, [(number,) for number in range(30)])
            parent = tasks.add_task(shop_tasks.talk, 2)
            child = tasks.add_task(shop_tasks.mark, 7, parent=parent)
            failing = tasks.add_task(shop_tasks.talk_and_fail)
            cursed = tasks.task(name="cursed").add_task(shop_tasks.talk, 3)
            mother = tasks.task(name="cursed").add_task(shop_tasks.talk, 3)
            orphan = tasks.add_task(shop_tasks.mark, 8, parent=mother)
        assert [await ref.wait(30) for ref in refs] == list(range(30))
        for number, ref in enumerate(talking):
            await ref.wait(30)
            assert len(await ref.logs()) == number
        assert await child.wait(30) == 7
        assert len(await parent.logs()) == 2
        rows = {ref: await reaches(connection, ref.id, "failed") for ref in (cursed, mother)}
        await reaches(connection, failing.id, "failed")
        await reaches(connection, orphan.id, "cancelled")
        for ref in (cursed, mother):
            assert len(await ref.logs()) == 3
        assert [line.message for line in await failing.logs()] == ["last words"]
        runs = await connection.fetch(
            "SELECT DISTINCT run FROM queued_tasks WHERE state <> 'cancelled'"
        )

    assert {row["error_type"] for row in rows.values()} == {"OutcomeNotStored"}
    assert [row["run"] for row in runs] == [1]


async def test_a_line_that_cannot_be_written_costs_no_outcome(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with (
        refused(connection, "queued_task_logs", "NEW.message = 'line 5'"),
        hire() as staff,
    ):
        async with staff.tasks as tasks:
            refs = tasks.add_tasks(shop_tasks.talk, [(number,) for number in range(10)])
        for ref in refs:
            await ref.wait(30)
        # In one statement with the outcome, and all of them or none.
        assert [len(await ref.logs()) for ref in refs] == [0, 1, 2, 3, 4, 5, 0, 0, 0, 0]
        assert staff.counters.errors >= 4


async def test_a_context_that_cannot_be_read_costs_no_outcome(hire: Hire) -> None:
    async with hire() as staff:
        torn = staff.tasks.add_task(shop_tasks.tear_the_context)
        assert await torn.wait(30) == "done all the same"
        await still_works(staff)
