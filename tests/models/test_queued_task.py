from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from fastedgy.models.queued_task import OnParentFailure, QueuedTaskState

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def test_states_are_their_words() -> None:
    assert QueuedTaskState.done == "done"
    assert f"{QueuedTaskState.done}" == "done"
    assert list(QueuedTaskState) == [
        "scheduled", "waiting", "enqueued", "doing", "done", "failed", "cancelled"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("state", "finished", "restartable"),
    [
        ("scheduled", False, False),
        ("waiting", False, False),
        ("enqueued", False, False),
        ("doing", False, False),
        ("done", True, False),
        ("failed", True, True),
        ("cancelled", True, True),
    ],
)
def test_a_task_knows_what_can_be_done_with_it(
    state: str, finished: bool, restartable: bool
) -> None:
    from fastedgy.models.queued_task import QueuedTask

    task = QueuedTask(name="n", function="m:f", state=state)
    assert task.is_finished is finished
    assert task.is_active is not finished
    assert task.can_be_cancelled is not finished
    assert task.can_be_restarted is restartable


def test_the_execution_time_is_that_of_the_last_run() -> None:
    from fastedgy.models.queued_task import QueuedTask

    task = QueuedTask(name="n", function="m:f", state="enqueued", date_started=None)
    assert task.execution_time is None
    task = QueuedTask(
        name="n", function="m:f", state="done",
        date_started=NOON, date_ended=NOON + timedelta(seconds=2),
    )  # fmt: skip
    assert task.execution_time == timedelta(seconds=2)
    running = QueuedTask(name="n", function="m:f", state="doing", date_started=datetime.now(UTC))
    assert running.execution_time is not None
    assert timedelta() <= running.execution_time < timedelta(minutes=1)


async def test_a_row_written_by_sql_reads_as_a_model(
    connected_models: None, connection: asyncpg.Connection
) -> None:
    from fastedgy.models.queued_task import QueuedTask

    key = uuid4()
    await connection.execute(
        "INSERT INTO queued_tasks (id, name, function, state, date_enqueued, args, context)"
        " VALUES ($1, 'mail', 'app:mail', 'enqueued', now(), '[1, \"x\"]', '{\"a\": {\"b\": 2}}')",
        key,
    )
    task = await QueuedTask.query.get(id=key)
    assert task.state is QueuedTaskState.enqueued
    assert task.on_parent_failure is OnParentFailure.cancel
    assert task.args == [1, "x"]
    assert task.context == {"a": {"b": 2}}
    assert task.result is None
    assert task.date_created.tzinfo is not None
    assert task.date_started is None


async def test_tasks_are_found_by_state_as_word_and_as_member(connected_models: None) -> None:
    from fastedgy.models.queued_task import QueuedTask

    for state in ("done", "failed", "cancelled"):
        await QueuedTask.query.create(name=state, function="m:f", state=state, date_ended=NOON)

    assert await QueuedTask.query.filter(state="done").count() == 1
    assert await QueuedTask.query.filter(state=QueuedTaskState.done).count() == 1
    assert await QueuedTask.query.filter(state__in=["done", QueuedTaskState.failed]).count() == 2
    assert await QueuedTask.query.exclude(state="done").count() == 2
    with pytest.raises(ValueError, match="dnoe"):
        await QueuedTask.query.filter(state="dnoe").count()


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process's own time zone is far from UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


async def test_a_naive_time_is_utc_and_comes_back_saying_so(
    connected_models: None, in_new_york: None
) -> None:
    from fastedgy.models.queued_task import QueuedTask

    task = await QueuedTask.query.create(
        name="n", function="m:f", state="scheduled", date_due=NOON.replace(tzinfo=None)
    )
    assert task.date_due == NOON
    again = await QueuedTask.query.get(id=task.id)
    assert again.date_due == NOON
    assert again.date_created == task.date_created


async def test_a_doing_row_without_an_owner_is_refused_by_the_table(
    connected_models: None,
) -> None:
    from sqlalchemy.exc import IntegrityError

    from fastedgy.models.queued_task import QueuedTask

    with pytest.raises(IntegrityError, match="queued_tasks_doing_has_owner"):
        await QueuedTask.query.create(name="n", function="m:f", state="doing")


async def test_a_task_knows_its_parents_children_and_logs(connected_models: None) -> None:
    from fastedgy.models.queued_task import QueuedTask
    from fastedgy.models.queued_task_link import QueuedTaskLink
    from fastedgy.models.queued_task_log import QueuedTaskLog

    def make(name: str, hour: int) -> object:
        created = NOON + timedelta(hours=hour)
        return QueuedTask.query.create(
            name=name, function="m:f", date_created=created, date_enqueued=created
        )

    parent, second, first = await make("parent", 0), await make("second", 2), await make("first", 1)
    for child in (second, first):
        await QueuedTaskLink.query.create(parent_id=parent.id, child_id=child.id)
    for run, seq in ((2, 1), (1, 2), (1, 1)):
        await QueuedTaskLog.query.create(
            task_id=parent.id, run=run, seq=seq, level="info", logger="app", logged_at=NOON,
            message=f"{run}.{seq}",
        )  # fmt: skip

    assert [task.name for task in await parent.children()] == ["first", "second"]
    assert [task.name for task in await first.parents()] == ["parent"]
    assert await parent.parents() == []
    assert [log.message for log in await parent.logs()] == ["1.1", "1.2", "2.1"]
    assert await first.logs() == []


async def test_rows_with_two_part_keys_can_be_changed_and_deleted(connected_models: None) -> None:
    from fastedgy.models.queued_task_link import QueuedTaskLink

    parent, child = uuid4(), uuid4()
    link = await QueuedTaskLink.query.create(parent_id=parent, child_id=child)
    other = await QueuedTaskLink.query.create(parent_id=parent, child_id=uuid4())
    link.settled = True
    await link.save()
    assert (await QueuedTaskLink.query.get(parent_id=parent, child_id=child)).settled is True
    await link.delete()
    assert [each.child_id for each in await QueuedTaskLink.query.all()] == [other.child_id]
