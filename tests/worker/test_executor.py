"""The executor alone: it needs no database."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import shop_tasks
from helpers import PATIENCE, eventually

from fastedgy.config import QueuedTaskConfig
from fastedgy.ids import new_id
from fastedgy.queued_task.running import TaskRun
from fastedgy.store.outcomes import Outcome
from fastedgy.worker import executor as module
from fastedgy.worker.counters import Counters
from fastedgy.worker.executor import Executor
from fastedgy.worker.report import Board
from fastedgy.worker.results import Results


class Row(dict[str, Any]):
    """A claimed task as the store gives it: by name, or all columns in their order."""

    def __iter__(self) -> Any:
        return iter(self.values())


def row(func: Any, args: str = "[]", **columns: Any) -> Any:
    known = {
        "id": new_id(), "run": 1, "attempt": 1, "max_retries": 0,
        "function": f"{func.__module__}:{func.__qualname__}", "name": func.__name__,
        "queue": "default", "priority": 0, "date_enqueued": datetime.now(UTC), "args": args,
        "kwargs": "{}", "context": "{}", "timeout": None, "closure": None, "extra": None,
        "gate": None,
    }  # fmt: skip
    return Row(known | columns)


class Completer:
    """Collects what came of tasks."""

    def __init__(self) -> None:
        self.outcomes: dict[UUID, Outcome] = {}
        self.is_behind = False
        self.traces = SimpleNamespace(wake=lambda run: None)

    def put(self, outcome: Outcome, run: TaskRun | None = None) -> None:
        assert outcome.id not in self.outcomes
        self.outcomes[outcome.id] = outcome


Make = Callable[..., Executor]


@pytest.fixture
def completer() -> Completer:
    return Completer()


@pytest.fixture
async def make(completer: Completer) -> Make:
    async def flush(run: TaskRun) -> None: ...

    async def unasked(ids: Any) -> Any:
        raise AssertionError("nothing here has parents")

    def made(concurrency: int = 4, **settings: Any) -> Executor:
        config = QueuedTaskConfig(task_modules="shop_tasks", **settings)
        return Executor(
            config, Counters(), completer, Board(None, concurrency),  # type: ignore[arg-type]
            Results(unasked, unasked), concurrency=concurrency, flush_added=flush,
        )  # fmt: skip

    return made


async def came(completer: Completer, *rows: Any) -> list[str]:
    """Wait until something has come of these tasks; what."""

    def check() -> list[str]:
        assert all(row["id"] in completer.outcomes for row in rows)
        return [completer.outcomes[row["id"]].word for row in rows]

    return await eventually(check)


@pytest.mark.parametrize("func", [shop_tasks.greet, shop_tasks.greet_async])
@pytest.mark.parametrize(("way", "word"), [("cancel", "cancelled"), ("interrupt", "interrupted")])
async def test_a_task_that_is_stopped_before_its_first_turn_gives_its_slot_back(
    make: Make, completer: Completer, func: Any, way: str, word: str
) -> None:
    executor = make(concurrency=1)
    first, second = row(func, '["a"]'), row(func, '["b"]')
    executor.accept([first, second])
    if way == "cancel":
        executor.cancel(first["id"])
    else:
        executor.interrupt()
        if func is shop_tasks.greet:
            word = "done"  # what runs in a thread is let be

    assert await came(completer, first, second) == [word, "done"]
    assert (executor.busy, executor.queued) == (0, 0)


async def test_more_tasks_than_slots_run_one_after_the_other_in_their_order(
    make: Make, completer: Completer
) -> None:
    executor = make(concurrency=1)
    rows = [row(shop_tasks.mark, f"[{number}]") for number in range(10)]
    executor.accept(rows)
    assert (executor.busy, executor.queued) == (1, 9)

    assert await came(completer, *rows) == ["done"] * 10
    assert shop_tasks.seen == list(range(10))


async def test_a_task_leaves_nothing_to_the_one_that_gets_its_slot(
    make: Make, completer: Completer
) -> None:
    executor = make(concurrency=1)
    rows = [row(shop_tasks.leave_something) for _ in range(3)]
    executor.accept(rows)
    assert await came(completer, *rows) == ["done"] * 3
    assert [completer.outcomes[row["id"]].result for row in rows] == ['"clean"'] * 3


async def test_no_more_run_at_a_time_than_there_are_slots(make: Make, completer: Completer) -> None:
    executor = make(concurrency=3)
    rows = [row(shop_tasks.hold) for _ in range(10)]
    executor.accept(rows)

    def began() -> None:
        assert len(shop_tasks.seen) == 3

    await eventually(began)
    assert (executor.busy, executor.queued, executor.room()) == (3, 7, 0)
    shop_tasks.gates["hold"].set()
    await came(completer, *rows)


async def test_nothing_starts_without_a_lease(make: Make, completer: Completer) -> None:
    class Lease:
        lease_until = 0.0

    executor = make()
    executor.lease = Lease()
    waiting = row(shop_tasks.greet, '["a"]')
    executor.accept([waiting])
    assert (executor.busy, executor.queued, executor.room()) == (0, 1, 0)

    Lease.lease_until = time.monotonic() + 60
    executor.resume()
    assert await came(completer, waiting) == ["done"]


async def test_closing_hands_back_what_has_not_started(make: Make, completer: Completer) -> None:
    executor = make(concurrency=1)
    first, second = row(shop_tasks.hold), row(shop_tasks.hold)
    executor.accept([first, second])
    executor.close()

    assert completer.outcomes[second["id"]].word == "interrupted"
    assert executor.room() == 0
    shop_tasks.gates["hold"].set()
    await executor.drained()
    assert completer.outcomes[first["id"]].word == "done"


async def test_short_tasks_are_claimed_ahead(make: Make, completer: Completer) -> None:
    executor = make(concurrency=2)
    assert executor.room() == 2
    for _ in range(20):
        rows = [row(shop_tasks.echo) for _ in range(50)]
        executor.accept(rows)
        await came(completer, *rows)
    assert executor.room() >= 4


async def test_who_is_behind_with_writing_has_no_room(make: Make, completer: Completer) -> None:
    executor = make(concurrency=2)
    completer.is_behind = True
    assert executor.room() == 0
    completer.is_behind = False
    assert executor.room() == 2


async def test_the_time_of_a_task_begins_with_its_first_turn(
    make: Make, completer: Completer
) -> None:
    executor = make()
    late = row(shop_tasks.greet_async, '["a"]', timeout=0.15)
    executor.accept([late])
    time.sleep(0.3)  # somebody blocks the event loop
    first_turn = time.monotonic()
    assert await came(completer, late) == ["done"]
    assert completer.outcomes[late["id"]].began >= first_turn


async def test_what_is_claimed_ahead_may_be_taken_by_another_thread(
    make: Make, completer: Completer
) -> None:
    executor = make(concurrency=1)
    rows = [row(shop_tasks.hold) for _ in range(100)]
    executor.accept(rows)

    taken = await asyncio.to_thread(executor.take_queue)

    assert [outcome.id for outcome in taken] == [row["id"] for row in rows[1:]]
    assert {outcome.word for outcome in taken} == {"interrupted"}
    shop_tasks.gates["hold"].set()
    assert await came(completer, rows[0]) == ["done"]
    assert len(completer.outcomes) == 1


async def test_a_sync_function_beyond_its_timeout_has_its_process_replaced_at_once(
    make: Make, completer: Completer
) -> None:
    executor = make()
    stuck: list[str] = []
    executor.on_stuck = stuck.append
    asleep = row(shop_tasks.nap_sync, "[3.0]", timeout=0.1)
    other = row(shop_tasks.hold)
    executor.accept([asleep, other])

    def told() -> None:
        assert len(stuck) == 1

    await eventually(told)
    assert "nap_sync" in stuck[0]
    executor.close()
    shop_tasks.gates["hold"].set()
    began = time.monotonic()
    await executor.drained()
    assert time.monotonic() - began < 2

    [(outcome, run)] = executor.leave_behind()
    assert (outcome.id, outcome.word, run.id) == (asleep["id"], "failed", asleep["id"])
    assert len(stuck) == 1


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_sync_function_that_was_cancelled_still_has_its_timeout(
    make: Make, completer: Completer, cancelled: bool
) -> None:
    executor = make()
    stuck: list[str] = []
    executor.on_stuck = stuck.append
    asleep = row(shop_tasks.nap_sync, "[3.0]", timeout=0.2)
    executor.accept([asleep])
    if cancelled:

        def entered() -> None:
            assert executor._caller._threads is not None

        await eventually(entered)
        executor.cancel(asleep["id"])

    def told() -> None:
        assert len(stuck) == 1

    await eventually(told)
    executor.close()
    [(outcome, _)] = executor.leave_behind()
    assert outcome.word == ("cancelled" if cancelled else "failed")


@pytest.mark.parametrize("why", ["timeout", "cancel"])
async def test_a_task_that_ignores_its_cancellation_has_its_process_replaced(
    make: Make, completer: Completer, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STUBBORN", 0.2)
    executor = make()
    stuck: list[str] = []
    executor.on_stuck = stuck.append
    deaf = row(shop_tasks.deaf, timeout=0.2)
    executor.accept([deaf])

    def began() -> None:
        assert shop_tasks.seen == ["began"]

    await eventually(began)
    if why == "cancel":
        executor.cancel(deaf["id"])

    def told() -> None:
        assert stuck == [f"deaf ({deaf['id']}) ignores its cancellation"]

    await eventually(told)
    executor.close()
    await executor.drained()
    shop_tasks.gates["deaf"].set()
    await came(completer, deaf)


async def test_the_task_that_occupies_the_event_loop_is_known(
    make: Make, completer: Completer
) -> None:
    executor = make()
    rows = [row(shop_tasks.hold), row(shop_tasks.block, "[1.0]")]
    executor.accept(rows)
    watching = asyncio.to_thread(wait_for_current, executor)

    assert await watching == rows[1]["id"]
    shop_tasks.gates["hold"].set()
    await came(completer, *rows)
    assert executor.current() is None


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no look into the context of a task")
async def test_the_task_whose_child_occupies_the_event_loop_is_known(
    make: Make, completer: Completer
) -> None:
    executor = make()
    blocks = row(shop_tasks.block_in_a_child, "[0.4]")
    executor.accept([blocks])

    assert await asyncio.to_thread(wait_for_current, executor, blocks["name"]) == blocks["id"]
    await came(completer, blocks)


async def test_other_threads_may_ask_for_sync_functions_while_tasks_come_and_go(
    make: Make,
) -> None:
    executor = make()

    class Leaves:
        @property
        def sync(self) -> bool:
            executor._running.clear()  # what the loop's thread may do at any moment
            return False

    executor._running = {new_id(): Leaves(), new_id(): Leaves()}  # type: ignore[dict-item]
    assert not executor.has_sync()


async def test_a_task_that_had_no_turn_yet_is_not_late(make: Make, completer: Completer) -> None:
    executor = make()
    held = row(shop_tasks.hold)
    executor.accept([held])
    [it] = executor._running.values()
    assert executor.late(it.deadline) == []
    await asyncio.sleep(0)
    assert executor.late(it.deadline) == [it]
    assert executor.late(it.deadline - 0.1) == []
    shop_tasks.gates["hold"].set()
    await came(completer, held)


def wait_for_current(executor: Executor, name: str = "block") -> UUID | None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        it = executor.current()
        if it is not None and it.name == name:
            return it.id
    return None
