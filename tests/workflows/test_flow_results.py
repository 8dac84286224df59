"""How a worker reads what tasks take from others: together, once, and honestly."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fastedgy.errors import InvalidArguments, ResultGone, TaskCancelled, TaskFailed
from fastedgy.ids import new_id
from fastedgy.queued_task import Snooze
from fastedgy.queued_task.encoding import dumps, loads
from fastedgy.store.outcomes import Done, DoneParent, failed
from fastedgy.worker import results
from fastedgy.worker.results import Read, Results


class Rows:
    """What is in the table, and what was asked for."""

    def __init__(self) -> None:
        self.results: dict[str, str] = {}
        self.others: list[dict[str, Any]] = []
        self.asked: list[set[str]] = []
        self.asked_for_all = 0

    def reader(self) -> Results:
        return Results(self.read, self.read_plain)

    def done(self, result: str) -> str:
        id = str(new_id())
        self.results[id] = result
        return id

    def other(self, state: str) -> str:
        id = str(new_id())
        self.others.append({"id": id, "name": "f", "state": state, "error_type": "ValueError",
                            "error_message": "why", "error_traceback": None})  # fmt: skip
        return id

    async def read(self, ids: list[UUID]) -> Read:
        wanted = set(map(str, ids))
        self.asked.append(wanted)
        await asyncio.sleep(0)
        others = [row for row in self.others if row["id"] in wanted]
        return (
            {id: self.results[id] for id in wanted if id in self.results},
            json.dumps(others) if others else None,
        )

    async def read_plain(self, ids: list[UUID]) -> str | None:
        self.asked_for_all += 1
        wanted = sorted(map(str, ids))
        if not all(id in self.results for id in wanted):
            return None
        return f"[{','.join(self.results[id] for id in wanted)}]"


@pytest.fixture
def rows() -> Rows:
    return Rows()


def args_of(*ids: str) -> str:
    return json.dumps([{"$ref": id} for id in ids])


async def test_what_is_asked_for_at_once_is_read_at_once_and_kept(rows: Rows) -> None:
    made = rows.reader()
    one, two = rows.done("1"), rows.done('{"a": 2}')

    async def take(*ids: str) -> Any:
        return (await made.arguments("f", args_of(*ids), "{}", run_anyway=False))[0]

    first, second, third = await asyncio.gather(take(one), take(one, two), take(two, two))
    assert (first, second, third) == ([1], [1, {"a": 2}], [{"a": 2}, {"a": 2}])
    assert third[0] is not third[1]
    assert len(rows.asked) <= 2
    again = await take(one, two)
    assert again == second
    assert len(rows.asked) <= 2


async def test_what_is_kept_is_bounded(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "KEPT", 2 * results.EACH + 10)
    made = rows.reader()
    ids = [rows.done('"1234"'), rows.done("null"), rows.done('"5678"')]
    for id in ids:
        await made.arguments("f", args_of(id), "{}", run_anyway=False)

    assert list(made._kept) == ids[1:]


RETURNED = [
    (None, True), (True, True), (False, True), (5, True), (-(2**63), True), ("", True),
    ("{1.5e3}", True), ("\\\"\u00e9\n", True), ([], True), ([1, [2]], True), (["a"], True),
    (1.5, False), (1e16, False), (-0.0, False), ({"b": 1, "a": 2}, False), ([{}], False),
    ([1e16], False),
]  # fmt: skip


@pytest.mark.parametrize(("value", "kept"), RETURNED, ids=repr)
async def test_what_is_returned_here_is_not_read_if_it_comes_back_from_jsonb_as_it_is(
    rows: Rows, connection: asyncpg.Connection, value: Any, kept: bool
) -> None:
    made = rows.reader()
    text = None if value is None else dumps(value)
    stored = await connection.fetchval("SELECT coalesce($1::jsonb, 'null')::text", text)
    id = rows.done(stored)
    made.keep([DoneParent(UUID(id), 1, 0.0, 0.0, text)], [])

    [found], _ = await made.arguments("f", args_of(id), "{}", run_anyway=False)

    assert rows.asked == ([] if kept else [{id}])
    assert (type(found), repr(found)) == (type(loads(stored)), repr(loads(stored)))


async def test_only_the_outcomes_of_parents_that_were_written_are_kept(rows: Rows) -> None:
    made = rows.reader()
    ids = [rows.done("7") for _ in range(4)]
    parent, taken_over = (DoneParent(UUID(id), 1, 0.0, 0.0, "7") for id in ids[:2])
    childless = Done(UUID(ids[2]), 1, 0.0, 0.0, "7")
    failure = failed(UUID(ids[3]), 1, 0.0, 0.0, "ValueError", "why")

    made.keep([parent, taken_over, childless, failure], [taken_over])

    assert list(made._kept) == ids[:1]


async def test_of_very_many_only_those_are_read_that_were_not_returned_here(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "TOO_MANY", 3)
    made = rows.reader()
    ids = [rows.done(str(number)) for number in range(8)]
    made.keep([DoneParent(UUID(id), 1, 0.0, 0.0, rows.results.pop(id)) for id in ids[::2]], [])

    [together, alone], _ = await made.arguments(
        "f", json.dumps([{"$refs": ids[:7]}, {"$ref": ids[7]}]), "{}", run_anyway=False
    )

    assert (together, alone) == ([0, 1, 2, 3, 4, 5, 6], 7)
    assert (rows.asked_for_all, rows.asked) == (1, [])


async def test_very_many_are_read_by_themselves_unless_one_of_them_came_to_nothing(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "TOO_MANY", 3)
    made = rows.reader()
    ids = [rows.done(str(number)) for number in range(5)]

    async def take(*ids: str) -> list[Any]:
        return (await made.arguments("f", args_of(*ids), "{}", run_anyway=True))[0]

    assert await take(*reversed(ids)) == [4, 3, 2, 1, 0]
    assert (rows.asked_for_all, rows.asked, len(made._kept)) == (1, [], 0)
    assert await take(*ids, ids[0]) == [0, 1, 2, 3, 4, 0]
    assert rows.asked_for_all == 1
    failed = rows.other("failed")
    *values, error = await take(*ids, failed)
    assert values == [0, 1, 2, 3, 4]
    assert type(error) is TaskFailed


async def test_what_came_to_nothing_is_raised_or_stands_in_its_place(rows: Rows) -> None:
    made = rows.reader()
    failed, cancelled, gone = rows.other("failed"), rows.other("cancelled"), str(new_id())
    for id, kind in ((failed, TaskFailed), (cancelled, TaskCancelled), (gone, ResultGone)):
        with pytest.raises(kind):
            await made.arguments("f", args_of(id), "{}", run_anyway=False)
        [value], _ = await made.arguments("f", args_of(id), "{}", run_anyway=True)
        assert type(value) is kind


async def test_a_parent_that_is_at_work_again_is_waited_for(rows: Rows) -> None:
    busy = rows.other("doing")
    with pytest.raises(Snooze, match="at work again"):
        await rows.reader().arguments("f", args_of(busy), "{}", run_anyway=True)


FORGED = [
    '[{"$ref": 5}]', '[{"$ref": "x"}]', '[{"$ref": null}]', '[{"$ref": ["x"]}]', '[{"$refs": 5}]',
    '[{"$refs": "x"}]', '[{"$refs": ["x"]}]', '[{"$refs": [["x"]]}]', '[{"$refs": null}]',
    '[{"$refs": "01980000-0000-7000-8000-000000000000"}]',
]  # fmt: skip


@pytest.mark.parametrize("forged", FORGED)
async def test_forged_places_are_refused(forged: str) -> None:
    with pytest.raises(InvalidArguments, match="names no task"):
        await Rows().reader().arguments("f", forged, "{}", run_anyway=False)


async def test_an_error_of_the_reading_reaches_all_who_asked() -> None:
    async def broken(ids: list[UUID]) -> Read:
        raise OSError("away")

    made = Results(broken, Rows().read_plain)
    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            await made.arguments("f", args_of(str(new_id())), "{}", run_anyway=False)
