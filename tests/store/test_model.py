"""The store against a model of it: any order of operations by several workers, on a real Postgres.

The model is the state machine of a task in a few lines of Python; after every step all rows must be
what it says. `FASTEDGY_MODEL_EXAMPLES=1000` looks longer.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from rows import TABLES, new, outcome, take

from fastedgy.admin.explain import Explanation, explain
from fastedgy.config import QueuedTaskConfig
from fastedgy.database import connect
from fastedgy.errors import ParentNotFound
from fastedgy.store import actions, claim, maintain, recovery, workers
from fastedgy.store.finish import finish_any
from fastedgy.store.insert import insert
from fastedgy.store.notify import SILENT
from fastedgy.store.returned import finish_done
from fastedgy.store.traces import write_contexts

EXAMPLES = int(os.environ.get("FASTEDGY_MODEL_EXAMPLES", "40"))
STEPS = 50
# Finding the shortest way to a failure takes many minutes: FASTEDGY_TEST_SHRINK=1 asks for it.
QUICK = (Phase.explicit, Phase.generate)
PHASES = tuple(Phase) if os.environ.get("FASTEDGY_TEST_SHRINK") else QUICK
MAX_LOSSES = 3
CONFIG = QueuedTaskConfig()
LEASE = 600.0
HELD_UP = 120.0
"""Seconds: nothing here comes of the time that the machine takes, only of what is written."""
LATER = 3600.0
"""What is put off for so many seconds is due when the model says so, and not before."""
HIRED = tuple(UUID(int=number) for number in range(1, 4))
WORKERS = st.sampled_from(HIRED)
WORDS = ("done", "done", "done", "failed", "cancelled", "retry", "interrupted", "snoozed")
# As often as they are named here.
OPERATIONS = (
    *("enqueue",) * 6, *("claim",) * 8, *("claim_alone",) * 3, *("finish",) * 8, "cancel", "retry",
    "retry", "write_context", *("dies",) * 3, *("freezes",) * 3, *("reconciles",) * 3,
    "time_passes", "promote", "prune", "enqueue_below_a_stranger",
)  # fmt: skip
ENDED = ("done", "failed", "cancelled")
OPEN = ("scheduled", "waiting", "enqueued", "doing")


@dataclass
class Task:
    """What the model knows of a task. `open` are the parents that it still waits for."""

    state: str = "enqueued"
    run: int = 0
    attempt: int = 0
    losses: int = 0
    alone: bool = False
    cancel_requested: bool = False
    later: bool = False
    policy: str = "cancel"
    owner: UUID | None = None
    parents: tuple[UUID, ...] = ()
    open: set[UUID] = field(default_factory=set)

    def free(self) -> None:
        """Nothing keeps it from the line any more, but perhaps the time."""
        self.state = "scheduled" if self.later else "enqueued"


@dataclass(frozen=True)
class Claim:
    """What a worker holds, or believes to hold."""

    record: Any
    worker: UUID

    @property
    def id(self) -> UUID:
        id: UUID = self.record["id"]
        return id


class Store(RuleBasedStateMachine):
    """Operations in any order."""

    connection: asyncpg.Connection
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.tasks: dict[UUID, Task] = {}
        self.claims: list[Claim] = []
        self.order: list[UUID] = []
        self.marks = 0

    def do(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    @initialize()
    def begin(self) -> None:
        async def clear() -> None:
            for table in ("tasks", "task_links", "task_logs", "task_workers"):
                await self.connection.execute(f"DELETE FROM queued_{table}")
            await self._hire(HIRED)

        self.do(clear())
        for _ in range(6):  # an empty store tells little
            self._add((), "cancel", later=False, again=False)

    async def _hire(self, ids: Any) -> None:
        for id in ids:
            await self.connection.execute("DELETE FROM queued_task_workers WHERE id = $1", id)
            await workers.register(
                self.connection, TABLES, worker_id=id, server_name="host", pid=1,
                supervisor_id=UUID(int=9), queues=(), concurrency=1_000, version="1",
            )  # fmt: skip

    def pick(self, data: Any, *states: str) -> UUID | None:
        """One of the tasks in these states."""
        fitting = [id for id in self.order if self.tasks[id].state in states]
        return data.draw(st.sampled_from(fitting)) if fitting else None

    @rule(data=st.data(), what=st.sampled_from(OPERATIONS))
    def step(self, data: Any, what: str) -> None:
        """One rule for all: Hypothesis would leave some of them out of each example, and most
        orders that matter need many."""
        getattr(self, what)(data)

    def draw_holder(self, data: Any) -> UUID:
        """A worker, one that has something if there is any."""
        holders = [worker for worker in HIRED if self.held_by(worker)]
        drawn: UUID = data.draw(st.sampled_from(holders or HIRED))
        return drawn

    def draw_claim(self, data: Any) -> Claim:
        """One of all that ever were, mostly of those that hold."""
        holding = [
            held
            for held in self.claims
            if (task := self.tasks.get(held.id)) is not None
            and (task.state, task.run) == ("doing", held.record["run"])
        ]
        stale = not holding or data.draw(st.booleans())
        drawn: Claim = data.draw(st.sampled_from(self.claims if stale else holding))
        return drawn

    # What producers do.

    def enqueue(self, data: Any) -> None:
        policy = data.draw(st.sampled_from(["cancel", "run", "fail"]))
        later = data.draw(st.sampled_from([False, False, True]))
        again = data.draw(st.booleans())
        parents = tuple(
            data.draw(st.lists(st.sampled_from(self.order), max_size=3, unique=True))
            if self.order
            else ()
        )
        self._add(parents, policy, later=later, again=again)

    def _add(self, parents: tuple[UUID, ...], policy: str, *, later: bool, again: bool) -> None:
        row = new(*parents, on_parent_failure=policy, delay=LATER if later else None)
        self.do(insert(self.connection, TABLES, [row], channel=None))
        if again:  # its answer was lost
            self.do(insert(self.connection, TABLES, [row], channel=None, again=True))
        task = self.tasks[row.id] = Task(later=later, policy=policy, parents=parents)
        self.order.append(row.id)
        dead = [id for id in parents if self.tasks[id].state in ("failed", "cancelled")]
        task.open = {id for id in parents if self.tasks[id].state not in ENDED}
        if dead and policy != "run":
            self.end(row.id, "cancelled" if policy == "cancel" else "failed")
        elif task.open:
            task.state = "waiting"
        else:
            task.free()

    def enqueue_below_a_stranger(self, data: Any) -> None:
        try:
            self.do(insert(self.connection, TABLES, [new(UUID(int=7))], channel=None))
        except ParentNotFound:
            return
        raise AssertionError("a parent that does not exist was accepted")

    def cancel(self, data: Any) -> None:
        id = self.pick(data, *OPEN, *ENDED)
        if id is None:
            return
        self.do(actions.cancel(self.connection, TABLES, [id]))
        task = self.tasks[id]
        if task.state == "doing":
            task.cancel_requested = True
        elif task.state in OPEN:
            task.cancel_requested = True
            self.end(id, "cancelled")

    def retry(self, data: Any) -> None:
        id = self.pick(data, *ENDED)
        if id is None:
            return
        retried = self.do(actions.retry(self.connection, TABLES, [id]))
        task = self.tasks[id]
        there = [self.tasks[parent] for parent in task.parents if parent in self.tasks]
        dead = [parent for parent in there if parent.state in ("failed", "cancelled")]
        allowed = task.state != "done" and (not dead or task.policy == "run")
        assert bool(retried) == allowed
        if not allowed:
            return
        task.open = {
            parent
            for parent in task.parents
            if parent in self.tasks and self.tasks[parent].state not in ENDED
        }
        task.run += 1
        task.attempt = task.losses = 0
        task.alone = task.cancel_requested = task.later = False
        task.state = "waiting" if task.open else "enqueued"

    # What workers do.

    def claim(self, data: Any) -> None:
        worker = data.draw(WORKERS)
        limit = data.draw(st.integers(1, 4))
        ready = [id for id, task in self.tasks.items() if task.state == "enqueued"]
        ready = [id for id in ready if not self.tasks[id].alone]
        self._line_up()
        next_in_line = self._explained(ready, limit)
        records = self.do(take(self.connection, limit, worker=worker))
        assert len(records) == min(limit, len(ready))
        assert {record["id"] for record in records} == next_in_line
        self._claimed(records, worker, ready)

    def claim_alone(self, data: Any) -> None:
        worker = data.draw(WORKERS)
        ready = [id for id, task in self.tasks.items() if task.state == "enqueued" and task.alone]
        self._line_up()
        next_in_line = self._explained(ready, 1)
        records = self.do(claim.claim_alone(self.connection, TABLES, worker_id=worker, queues=()))
        assert len(records) == min(1, len(ready))
        assert {record["id"] for record in records} == next_in_line
        self._claimed(records, worker, ready)

    def _line_up(self) -> None:
        """Rows that one statement put into the line have no order of their own. Hypothesis wants
        the same in each repetition."""
        self.do(
            self.connection.execute(
                "UPDATE queued_tasks SET date_enqueued = date_created WHERE state = 'enqueued'"
            )
        )

    def _explained(self, ready: list[UUID], limit: int) -> set[UUID]:
        """What `explain` calls ready, and next: those and no others are claimed then."""

        async def ask(id: UUID) -> Explanation:
            return await explain(self.connection, TABLES, id, CONFIG)

        said = {id: self.do(ask(id)) for id in self.tasks}
        called_ready = {id for id, each in said.items() if each.ready}
        assert called_ready == {id for id, task in self.tasks.items() if task.state == "enqueued"}
        return {id for id in ready if (said[id].position or 0) <= limit}

    def _claimed(self, records: Any, worker: UUID, ready: list[UUID]) -> None:
        for record in sorted(records, key=itemgetter("id")):
            assert record["id"] in ready
            task = self.tasks[record["id"]]
            task.state, task.owner = "doing", worker
            task.run += 1
            task.attempt += 1
            assert (record["run"], record["attempt"]) == (task.run, task.attempt)
            self.claims.append(Claim(record, worker))

    def finish(self, data: Any) -> None:
        """By any claim, also one that was lost long ago; also twice."""
        if not self.claims:
            return
        word = data.draw(st.sampled_from(WORDS))
        delay = data.draw(st.sampled_from([0.0, LATER]))
        times = data.draw(st.integers(1, 2))
        held = self.draw_claim(data)
        facts = {"delay": LATER} if word == "snoozed" else {"delay": delay}
        for _ in range(times):
            task = self.tasks.get(held.id)
            run = held.record["run"]
            holds = task is not None and task.state == "doing" and task.run == run
            written = task is not None and task.state != "doing" and task.run == run
            made = outcome(held.record, word, **(facts if word in ("retry", "snoozed") else {}))
            fenced = self.do(self._write(made))
            assert fenced == (not holds and not written)
            if holds:
                assert task is not None
                self._ended(held.id, task, word, delay)

    async def _write(self, made: Any) -> bool:
        """As the completer does; whether it was fenced off."""
        if made.word == "done" and await finish_done(
            self.connection, TABLES, [made], channels=SILENT
        ):
            return False
        finished = await finish_any(self.connection, TABLES, [made], channels=SILENT)
        return bool(finished.fenced)

    def _ended(self, id: UUID, task: Task, word: str, delay: float) -> None:
        kept = word == "interrupted"
        task.losses, task.alone = (task.losses, task.alone) if kept else (0, False)
        if word in ENDED:
            self.end(id, word)
            return
        if word in ("interrupted", "snoozed"):
            task.attempt -= 1
        if task.cancel_requested:
            self.end(id, "cancelled")
        elif word == "snoozed" or (word == "retry" and delay):
            task.state, task.later = "scheduled", True
        else:
            task.state = "enqueued"

    def write_context(self, data: Any) -> None:
        """By any claim, too."""
        if not self.claims:
            return
        held = self.draw_claim(data)
        run = held.record["run"]
        self.marks += 1
        mark = f'{{"mark": {self.marks}}}'
        self.do(write_contexts(self.connection, TABLES, [(held.id, run, mark)]))
        context = self.do(
            self.connection.fetchval("SELECT context FROM queued_tasks WHERE id = $1", held.id)
        )
        task = self.tasks.get(held.id)
        holds = task is not None and task.state == "doing" and task.run == run
        assert (context == mark) == holds

    # What happens to workers.

    def dies(self, data: Any) -> None:
        """Its supervisor saw it, and knows which tasks had started."""
        worker = self.draw_holder(data)
        held = self.held_by(worker)
        started = data.draw(st.lists(st.sampled_from(held), unique=True)) if held else []
        self.do(
            recovery.report_lost(
                self.connection, TABLES, worker_id=worker, exit_reason="exit code 1",
                started=started, max_losses=MAX_LOSSES,
            )
        )  # fmt: skip
        self._taken_back(held, set(started), alone=True)
        self.do(self._hire([worker]))

    def freezes(self, data: Any) -> None:
        """Its heartbeats stop, and another worker rescues; nobody knows what had started."""
        worker = self.draw_holder(data)
        self.do(
            self.connection.execute(
                "UPDATE queued_task_workers SET last_heartbeat = now() - interval '1 hour'"
                " WHERE id = $1",
                worker,
            )
        )
        held = self.held_by(worker)
        rescued = self.do(
            recovery.rescue(
                self.connection, TABLES, lease=LEASE, licence=HELD_UP, max_losses=MAX_LOSSES
            )
        )
        assert set(rescued) == {worker}
        assert rescued[worker].total == len(held)
        self._taken_back(held, set(held), alone=False)
        self.do(self._hire([worker]))

    def reconciles(self, data: Any) -> None:
        """It gives back what it does not know; if that comes late, nothing happens."""
        worker = self.draw_holder(data)
        late = data.draw(st.booleans())
        held = self.held_by(worker)
        known = data.draw(st.lists(st.sampled_from(held), unique=True)) if held else []
        taken = self.do(
            recovery.hand_back(
                self.connection, TABLES, worker_id=worker, known=known,
                within=0.0 if late else HELD_UP,
            )
        )  # fmt: skip
        unknown = [] if late else [id for id in held if id not in known]
        assert taken.total == len(unknown)
        self._taken_back(unknown, set(), alone=False)

    def held_by(self, worker: UUID) -> list[UUID]:
        return [
            id
            for id in self.order
            if self.tasks[id].state == "doing" and self.tasks[id].owner == worker
        ]

    def _taken_back(self, ids: list[UUID], started: set[UUID], *, alone: bool) -> None:
        for id in ids:
            task = self.tasks[id]
            task.run += 1
            task.attempt -= 1
            task.alone = task.alone or (id in started and (alone or task.losses > 0))
            task.losses += id in started
            if task.cancel_requested:
                self.end(id, "cancelled")
            elif id in started and task.losses >= MAX_LOSSES:
                self.end(id, "failed")
            else:
                task.state = "enqueued"

    # What time does.

    def time_passes(self, data: Any) -> None:
        id = self.pick(data, "scheduled", "waiting")
        if id is None:
            return
        self.do(
            self.connection.execute(
                "UPDATE queued_tasks SET date_due = now() - interval '1 second'"
                " WHERE id = $1 AND date_due IS NOT NULL",
                id,
            )
        )
        self.tasks[id].later = False

    def promote(self, data: Any) -> None:
        due = [task for task in self.tasks.values() if task.state == "scheduled"]
        due = [task for task in due if not task.later]
        promoted = self.do(maintain.promote(self.connection, TABLES, limit=1_000, channel=None))
        assert promoted.moved == len(due)
        for task in due:
            task.state = "enqueued"

    def prune(self, data: Any) -> None:
        ended = [id for id, task in self.tasks.items() if task.state in ENDED]
        pruned, _ = self.do(maintain.prune(self.connection, TABLES, older_than=0.0, limit=1_000))
        assert pruned == len(ended)
        for id in ended:
            del self.tasks[id]
            self.order.remove(id)

    # What the model knows of families.

    def end(self, id: UUID, state: str) -> None:
        """A task has ended, and its descendants hear of it."""
        self.tasks[id].state = state
        for child_id, child in self.tasks.items():
            if child.state != "waiting" or id not in child.open:
                continue
            child.open.discard(id)
            if state != "done" and child.policy != "run":
                self.end(child_id, "cancelled" if child.policy == "cancel" else "failed")
            elif not child.open:
                child.free()

    @invariant()
    def rows_are_what_the_model_says(self) -> None:
        rows = self.do(
            self.connection.fetch(
                "SELECT id, state, run, attempt, losses, alone, worker_id, waiting_on"
                "  FROM queued_tasks"
            )
        )
        assert {row["id"] for row in rows} == set(self.tasks)
        for row in rows:
            task = self.tasks[row["id"]]
            told = (row["state"], row["run"], row["attempt"], row["losses"], row["alone"])
            expected = (task.state, task.run, task.attempt, task.losses, task.alone)
            assert told == expected, (row["id"], "state, run, attempt, losses, alone")
            if task.state == "doing":
                assert row["worker_id"] == task.owner
            if task.state == "waiting":
                assert row["waiting_on"] == len(task.open) > 0


@pytest.mark.timeout(600)
def test_the_store_does_what_its_model_says_in_any_order(database_url: str) -> None:
    with asyncio.Runner() as runner:
        connection = runner.run(connect(database_url, application_name="fastedgy model"))

        class Bound(Store):
            pass

        Bound.connection, Bound.runner = connection, runner
        try:
            run_state_machine_as_test(  # type: ignore[no-untyped-call]
                Bound,
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=STEPS,
                    phases=PHASES,
                    deadline=None,
                    database=None,
                    print_blob=True,
                    verbosity=Verbosity.normal,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(connection.close())
