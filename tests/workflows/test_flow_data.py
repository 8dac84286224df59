"""Tasks as arguments of others: they are waited for, and their results take their places."""

from __future__ import annotations

import json
import random
from typing import Any

import asyncpg
import flow_tasks
import pytest
from crew import Hire, reaches
from flow_tasks import (
    Order,
    Parcel,
    add,
    break_,
    give,
    give_object,
    look_at,
    one_of,
    order_sum,
    total,
    weigh,
)
from helpers import eventually
from rows import TABLES, count, read

from fastedgy.errors import (
    InvalidArguments,
    InvalidTransition,
    ParentNotFound,
    TaskCancelled,
    TaskFailed,
)
from fastedgy.ids import new_id
from fastedgy.queued_task.encoding import dumps_references, filled, references
from fastedgy.store import watch
from fastedgy.store.maintain import prune
from fastedgy.worker import results


async def test_a_result_is_an_argument_of_the_next_task(hire: Hire) -> None:
    async with hire() as staff:
        data = staff.tasks.add_task(give, 40)
        more = staff.tasks.add_task(add, data, second=1)
        last = staff.tasks.add_task(add, first=more)

        assert await last.wait(timeout=30) == 42


async def test_results_take_their_places_in_lists_dicts_and_dataclasses(hire: Hire) -> None:
    async with hire() as staff:
        one, two = staff.tasks.add_tasks(give, [(1,), (2,)])
        nested = staff.tasks.add_task(give, {"a": [one, {"b": two}], "c": (one, 3)})
        summed = staff.tasks.add_task(total, [one, two, 3])
        order = staff.tasks.add_task(order_sum, Order("you", [one, two]))  # type: ignore[list-item]

        assert await nested.wait(timeout=30) == {"a": [1, {"b": 2}], "c": [1, 3]}
        assert await summed.wait(timeout=30) == 6
        assert await order.wait(timeout=30) == "you: 3"


async def test_results_are_rebuilt_from_the_annotations_of_who_takes_them(hire: Hire) -> None:
    async with hire() as staff:
        order = staff.tasks.add_task(give, Order("you", [4, 5]))
        parcels = staff.tasks.add_tasks(give, [(Parcel(weight=1),), (Parcel(weight=0.5),)])

        assert await staff.tasks.add_task(order_sum, order).wait(timeout=30) == "you: 9"
        assert await staff.tasks.add_task(weigh, parcels).wait(timeout=30) == 1.5


LOOK_ALIKES: list[Any] = [
    {"$ref": "#/definitions/order"},
    {"$ref": {"$ref": "x"}},
    {"$$ref": 1},
    {"$$$ref": [{"$ref": 2}]},
    {"$ref": 1, "other": 2},
    {"$": 1},
    {"$refs": ["x"]},
    {"$$refs": [{"$refs": [1]}]},
]


@pytest.mark.parametrize("value", LOOK_ALIKES, ids=str)
async def test_a_dict_that_looks_like_a_place_for_a_result_stays_what_it_is(
    value: Any, hire: Hire
) -> None:
    async with hire() as staff:
        alone = staff.tasks.add_task(give, value)
        beside = staff.tasks.add_task(give, [value, alone, {"deep": [value]}])

        assert await beside.wait(timeout=30) == [value, value, {"deep": [value]}]


def test_places_survive_any_look_alikes() -> None:
    class Ref:
        def __queued_task__(self) -> Ref:
            return self

    ref = Ref()
    id = new_id()
    for value in LOOK_ALIKES:
        given = [value, ref, {"x": [ref, value]}, [ref, (ref, ref), []], [ref]]
        stored = json.loads(dumps_references(given, lambda each: id))
        assert references(stored) == 6 * [str(id)]
        assert filled(stored, lambda each: "R") == [
            value, "R", {"x": ["R", value]}, ["R", ["R", "R"], []], ["R"],
        ]  # fmt: skip


def test_only_a_list_of_nothing_but_tasks_is_one_place() -> None:
    class Ref:
        def __queued_task__(self) -> Ref:
            return self

    ref, id = Ref(), new_id()

    def write(*args: Any) -> Any:
        return json.loads(dumps_references(list(args), lambda each: id))

    place, places = {"$ref": str(id)}, {"$refs": [str(id), str(id)]}
    assert write(ref, ref) == [place, place]  # the arguments themselves stay a list
    assert write([ref, ref], [ref, 1]) == [places, [place, 1]]
    assert write([[ref, ref], ref]) == [[places, place]]


async def test_what_waits_holds_no_slot_and_is_not_polled(hire: Hire) -> None:
    async with hire(concurrency=1) as staff:
        first = staff.tasks.add_task(flow_tasks.wait_at, "slot", 1)
        second = staff.tasks.add_task(add, first)
        await second
        claimed = staff.counters.claimed
        other = staff.tasks.task(queue="other")
        assert await second.get_state() == "waiting"
        flow_tasks.gates["slot"].set()

        assert await second.wait(timeout=30) == 2
        assert await other.add_task(give, 3).wait(timeout=30) == 3
        assert staff.counters.claimed <= claimed + 3


async def test_a_tree_is_written_in_one_round_trip(
    hire: Hire, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    fetchrow = asyncpg.connection.Connection.fetchrow

    async def counted(self: Any, query: str, *args: Any, **keywords: Any) -> Any:
        sent.append(query)
        return await fetchrow(self, query, *args, **keywords)

    async with hire(queues=("nobody's",)) as staff:
        monkeypatch.setattr(asyncpg.connection.Connection, "fetchrow", counted)
        async with staff.tasks.__route__():
            first = staff.tasks.add_task(give, 1)
            middle = staff.tasks.add_tasks(add, [(first, number) for number in range(50)])
            last = staff.tasks.add_task(total, middle)
        inserts = [query for query in sent if "INSERT INTO queued_tasks " in query]

    assert len(inserts) == 1
    assert await count(connection, "state = 'waiting'") == 51
    row = await read(connection, last.id)
    assert (row["waiting_on"], row["takes_results"]) == (50, True)


async def test_ten_thousand_hang_together_in_one_write(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire(queues=("nobody's",)) as staff:
        first = staff.tasks.add_task(give, 1)
        middle = staff.tasks.add_tasks(give, [(first,)] * 6_000)
        last = await staff.tasks.add_task(total, middle)

    assert (await read(connection, last.id))["waiting_on"] == 6_000
    assert await connection.fetchval("SELECT count(*) FROM queued_task_links") == 12_000


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many results each statement reads that workers of this process send from now on."""
    reads: list[int] = []
    read_results = watch.read_results

    async def counted(connection: Any, tables: Any, ids: Any) -> Any:
        reads.append(len(ids))
        return await read_results(connection, tables, ids)

    monkeypatch.setattr(watch, "read_results", counted)
    return reads


async def test_what_a_worker_has_returned_itself_it_does_not_read(
    hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = count_reads(monkeypatch)
    async with hire() as staff:
        numbers = staff.tasks.add_tasks(give, [(number,) for number in range(4)])
        assert await staff.tasks.add_task(total, numbers).wait(timeout=30) == 6
    assert reads == []


async def test_a_result_is_read_once_at_most_and_not_copied_into_its_children(
    hire: Hire, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = count_reads(monkeypatch)
    large = {"x": "x" * 100_000}
    async with hire() as staff:
        first = staff.tasks.add_task(give, large)
        children = staff.tasks.add_tasks(look_at, [([first],)] * 30)
        last = staff.tasks.add_task(look_at, children)
        results = await last.wait(timeout=30)

    assert results == [repr([repr(large)])] * 30
    assert sum(reads) == 1 + 30
    assert await connection.fetchval(
        "SELECT max(length(args::text)) FROM queued_tasks WHERE id = ANY ($1)",
        [child.id for child in children],
    ) < 100  # fmt: skip


async def test_very_many_results_stand_where_their_tasks_did(
    hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "TOO_MANY", 3)
    async with hire() as staff:
        given = staff.tasks.add_tasks(give, [(number,) for number in range(40)])
        random.Random(1).shuffle(given)
        last = staff.tasks.add_task(look_at, given)
        expected = [await ref.wait(timeout=30) for ref in given]
        assert await last.wait(timeout=30) == [repr(number) for number in expected]


async def test_a_child_of_a_parent_that_failed_is_cancelled(hire: Hire) -> None:
    async with hire() as staff:
        bad = staff.tasks.add_task(break_)
        child = staff.tasks.add_task(give, bad)
        with pytest.raises(TaskCancelled, match="no such file"):
            await child.wait(timeout=30)


async def test_a_failed_parent_reads_as_its_error_where_that_was_asked_for(hire: Hire) -> None:
    async with hire() as staff:
        good, bad = staff.tasks.add_task(give, 7), staff.tasks.add_task(break_)
        late = staff.tasks.task(delay=3600).add_task(give)
        looking = staff.tasks.add_task(look_at, [good, bad, late])
        typed = staff.tasks.add_task(one_of, bad)
        await looking
        await late.cancel()

        assert await looking.wait(timeout=30) == [
            "7", "failed: ValueError: no such file", "TaskCancelled",
        ]  # fmt: skip
        assert await typed.wait(timeout=30) == "TaskFailed"


async def test_a_child_added_after_its_parents_ended_gets_their_results(hire: Hire) -> None:
    async with hire() as staff:
        good, bad = staff.tasks.add_task(give, 7), staff.tasks.add_task(break_)
        await good.wait(timeout=30)
        with pytest.raises(TaskFailed):
            await bad.wait(timeout=30)

        assert await staff.tasks.add_task(add, good).wait(timeout=30) == 8
        looked = staff.tasks.add_task(look_at, [bad])
        assert await looked.wait(timeout=30) == ["failed: ValueError: no such file"]


async def test_a_result_that_was_not_stored_fails_who_needs_it(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        odd = staff.tasks.add_task(give_object)
        child = staff.tasks.add_task(give, odd)
        looking = staff.tasks.add_task(look_at, odd)

        assert await looking.wait(timeout=30) == ["ResultNotStored"]
        with pytest.raises(TaskFailed, match="ResultNotStored"):
            await child.wait(timeout=30)
        assert (await read(connection, child.id))["attempt"] == 1


async def test_a_parent_that_is_not_there_is_refused(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        async with staff.tasks.__route__():
            child = staff.tasks.add_task(give, staff.tasks.ref(new_id()))
            with pytest.raises(ParentNotFound, match="as an argument"):
                await child
        assert await count(connection) == 0


async def test_a_task_that_was_dropped_is_no_argument(hire: Hire) -> None:
    async with hire() as staff:
        with pytest.raises(LookupError):
            async with staff.tasks.__route__():
                plain = staff.tasks.add_task(give)
                keyed = staff.tasks.task(unique_key="k").add_task(give)
                raise LookupError
        with pytest.raises(InvalidTransition, match="never written"):
            staff.tasks.add_task(give, keyed)
        child = staff.tasks.add_task(give, plain)
        await eventually(lambda: _is_cancelled(child))


def _is_cancelled(ref: Any) -> None:
    assert ref._state == "cancelled"


async def test_what_cannot_travel_is_named_though_a_task_stands_beside_it(hire: Hire) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(give)
        with pytest.raises(InvalidArguments, match=r"second\['x'\]: a set cannot travel"):
            staff.tasks.add_task(add, ref, {"x": {1}})  # type: ignore[arg-type]
        with pytest.raises(InvalidArguments, match="was given twice"):
            staff.tasks.add_task(add, ref, first=ref)


async def test_a_task_with_a_unique_key_is_an_argument_before_its_row_is_known(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        keyed = staff.tasks.task(unique_key="report", delay=3600)
        holder = await keyed.add_task(give, 5)
        async with staff.tasks.__route__():
            again = keyed.add_task(give, 6)
            child = staff.tasks.add_task(add, again)
        assert again.id == holder.id
        row = await read(connection, child.id)
        assert json.loads(row["args"]) == [{"$ref": str(holder.id)}]
        await connection.execute(
            "UPDATE queued_tasks SET date_due = now() WHERE id = $1", holder.id
        )
        staff.worker.parts.maintenance.due_in(0)

        assert await child.wait(timeout=30) == 6


async def test_pruning_keeps_the_results_that_are_still_needed(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        needed, other = staff.tasks.add_tasks(give, [(1,), (2,)])
        slow = staff.tasks.add_task(flow_tasks.wait_at, "prune", 3)
        last = staff.tasks.add_task(total, [needed, slow])
        await staff.tasks.add_task(give, other).wait(timeout=30)
        await needed.wait(timeout=30)
        await reaches(connection, slow.id, "doing")

        await prune(connection, TABLES, older_than=-3600.0)
        assert await read(connection, needed.id) is not None
        assert await read(connection, other.id) is None
        flow_tasks.gates["prune"].set()

        assert await last.wait(timeout=30) == 4
    await prune(connection, TABLES, older_than=-3600.0)
    assert await read(connection, needed.id) is None


async def test_forged_places_fail_their_task_and_nothing_else(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        refs = staff.tasks.task(queue="later", delay=3600).add_tasks(give, [(1,), (1,), (1,)])
        await refs[0]
        for ref, args in zip(
            refs, ('[{"$ref": 5}]', '[{"$ref": "no id"}]', f'[{{"$ref": "{new_id()}"}}]'),
            strict=True,
        ):  # fmt: skip
            await connection.execute(
                "UPDATE queued_tasks SET args = $2, takes_results = true, date_due = now()"
                " WHERE id = $1", ref.id, args,
            )  # fmt: skip
        staff.worker.parts.maintenance.due_in(0)
        types = [(await reaches(connection, ref.id, "failed"))["error_type"] for ref in refs]

        assert types == ["InvalidArguments", "InvalidArguments", "ResultGone"]
        assert await staff.tasks.add_task(give, 1).wait(timeout=30) == 1
