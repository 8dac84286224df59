"""The queue in one look: the sentence, queues, workers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from rows import OTHER, TABLES, WORKER, add, add_taken, change, count_runs

from fastedgy.admin import Level, QueueAdmin
from fastedgy.admin.overview import Pace, judge
from fastedgy.dependencies import get_container_service
from fastedgy.errors import BreakerNotFound, InvalidOption, NoOpenBuffer
from fastedgy.store import queues
from fastedgy.store.breakers import Breaker
from fastedgy.store.counts import QueueDepth
from fastedgy.store.find import STATES
from fastedgy.store.overview import WorkerRow

NOW = datetime.now(UTC)


def worker(**changes: Any) -> WorkerRow:
    values: dict[str, Any] = {
        "id": WORKER, "server_name": "web", "pid": 1, "supervisor_id": None, "state": "running",
        "queues": None, "concurrency": 10, "busy": 0, "version": "1", "counters": {},
        "date_started": NOW, "last_heartbeat": NOW, "silent_for": 1.0,
    }  # fmt: skip
    return WorkerRow(**(values | changes))


def counted(**numbers: int) -> dict[str, int]:
    return {state: numbers.get(state, 0) for state in STATES}


def breaker(state: str, *, name: str = "pay", rest: float = 0.0) -> Breaker:
    error = "ConnectError: no route\nto host"
    return Breaker(name, state, 5, 0, 5, 2, 30.0, None, None, error, NOW, rest, 1)


BUSY = Pace(per_minute=1204.4, pick_up_ms_p95=4.2, ended=18_000)


@pytest.mark.parametrize(
    ("level", "sentence", "given"),
    [
        ("unhealthy", "Nothing to do, and no worker runs.", {"workers": []}),
        ("unhealthy", "1 task waits and no worker runs. Start some: fastedgy queue start",
         {"workers": [], "states": counted(enqueued=1)}),
        ("healthy", "All well: nothing waits in the line.", {}),
        ("healthy", "All well: 1 task runs, 2 tasks wait for parents, and nothing else waits.",
         {"states": counted(doing=1, waiting=2)}),
        ("healthy", "All well: 1,204 tasks a minute, 95 % start within 4 ms, nothing waits in the "
         "line.", {"pace": BUSY}),
        ("healthy", "All well: 1,204 tasks a minute, 95 % start within 4 ms, 3 tasks in the line, "
         "the oldest for 400 ms.",
         {"pace": BUSY, "states": counted(enqueued=3), "depths": {"a": QueueDepth(3, 0.4)}}),
        ("degraded", "Queue mail has no worker; 412 tasks wait. Start one: fastedgy queue start "
         "--queues mail",
         {"depths": {"mail": QueueDepth(412, 9)}, "workers": [worker(queues=["a"])]}),
        ("degraded", "1 worker gave no sign of life for 30.0 s; the others take over the tasks.",
         {"workers": [worker(), worker(silent_for=31.0)]}),
        ("degraded", "Queue a is late: the oldest of 2 tasks has been due for 10 min.",
         {"depths": {"a": QueueDepth(2, 600)}}),
        ("degraded", "80 of 100 tasks failed in 15 minutes, most of them send.",
         {"pace": Pace(ended=100, failed=80, failing="send")}),
        ("degraded", "Queue a is paused; 2 tasks wait.",
         {"depths": {"a": QueueDepth(2, 600)}, "paused": {"a", "b"}}),
        ("degraded", "Queue a is paused; nothing waits there.", {"paused": {"a"}}),
        ("degraded", "Breaker pay is open, so its tasks wait; it tries again in 12.5 s. "
         "Last error: ConnectError: no route", {"breakers": [breaker("open", rest=12.5)]}),
        ("degraded", "Breaker pay is open, so its tasks wait; the next call tries. Last error: "
         "ConnectError: no route", {"breakers": [breaker("closed", name="x"), breaker("open")]}),
        ("degraded", "Breaker pay is half open: one call at a time tries.",
         {"breakers": [breaker("half_open")]}),
        ("degraded", "Queue mial has no worker; 1 task is to come. Start one: fastedgy queue start "
         "--queues mial", {"coming": {"mial": 1, "a": 5}, "workers": [worker(queues=["a"])]}),
        ("degraded", "The only worker drains, so that no task starts. Start others: fastedgy queue "
         "start", {"workers": [worker(drain="worker")]}),
        ("healthy", "All well: nothing waits in the line.", {"breakers": [breaker("closed")]}),
    ],
)  # fmt: skip
def test_one_sentence_says_how_it_is(level: str, sentence: str, given: dict[str, Any]) -> None:
    judged = judge(
        given.get("states", counted()), given.get("depths", {}), given.get("workers", [worker()]),
        lease=30, paused=given.get("paused", ()), pace=given.get("pace"),
        coming=given.get("coming"), breakers=given.get("breakers", ()),
    )  # fmt: skip

    assert (judged.level, judged.sentence) == (Level(level), sentence)
    assert bool(judged.reasons) == (level != "healthy")


def test_the_most_serious_comes_first() -> None:
    judged = judge(
        counted(enqueued=4),
        {"late": QueueDepth(1, 900), "lonely": QueueDepth(1, 1), "held": QueueDepth(2, 1)},
        [worker(queues=["late", "held"]), worker(silent_for=99.0)],
        lease=30, paused={"held"}, coming={"mial": 1},
        breakers=[breaker("half_open", name="x"), breaker("open")],
        pace=Pace(ended=100, failed=80, failing="send"),
    )  # fmt: skip

    assert judged.sentence == judged.reasons[0]
    assert [reason.split(";")[0].split(",")[0] for reason in judged.reasons] == [
        "Queue lonely has no worker", "Queue mial has no worker", "Breaker pay is open",
        "Queue late is late: the oldest of 1 task has been due for 15 min.",
        "80 of 100 tasks failed in 15 minutes", "1 worker gave no sign of life for 30.0 s",
        "Breaker x is half open: one call at a time tries.", "Queue held is paused",
    ]  # fmt: skip


async def hire(connection: asyncpg.Connection, id: UUID = WORKER, **columns: Any) -> None:
    values = {"queues": None, "counters": "{}"} | columns
    await connection.execute(
        "INSERT INTO queued_task_workers (id, server_name, pid, concurrency, version, queues,"
        " counters) VALUES ($1, 'web-3', 1712, 4, '1', $2, $3)",
        id, values["queues"], values["counters"],
    )  # fmt: skip


async def test_the_overview_has_it_all(admin: QueueAdmin, connection: asyncpg.Connection) -> None:
    await hire(connection)
    running = await add_taken(connection)
    waiting = await add(connection, queue="mail")
    await count_runs(connection, *[0.1] * 30, name="a")
    await count_runs(connection, *[0.1] * 5, name="b", failed=3)

    view = await admin.overview()

    assert view.level is Level.healthy
    assert view.sentence.startswith("All well: 3 tasks a minute, 95 % start within ")
    assert view.states.counts["doing"] == view.states.counts["enqueued"] == 1
    assert view.workers.processes == 1
    assert view.last_hour == {"done": 35, "failed": 3}
    assert view.per_minute == pytest.approx(38 / 15, abs=0.1)
    assert [task.id for task in view.slowest] == [running["id"]]
    assert [task.id for task in view.oldest] == [waiting]
    assert [name.name for name in view.failing] == ["b"]
    assert [name.name for name in view.busiest] == ["a", "b"]
    assert {queue.name for queue in view.queues} == {"default", "mail", running["queue"]}


async def test_an_empty_queue_has_an_overview_too(admin: QueueAdmin) -> None:
    view = await admin.overview()

    assert view.sentence == "Nothing to do, and no worker runs."
    assert (view.queues, view.slowest, view.busiest, view.pick_up_ms_p95) == ([], [], [], None)


async def test_a_queue_tells_its_depth_its_rates_and_who_serves_it(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    await hire(connection, queues=["mail", "idle"])
    await hire(connection, OTHER)
    for _ in range(4):
        await add(connection, queue="mail")
    await add(connection, queue="lonely", delay=60.0)
    await count_runs(connection, *[0.1] * 20, queue="mail")
    await queues.set_limits(connection, TABLES, "mail", max_running=5, rate=2.5, actor="ann")
    await queues.pause(connection, TABLES, "closed", actor="ann")

    found = {queue.name: queue for queue in await admin.queues()}

    mail = found["mail"]
    assert (mail.depth, mail.depth_estimated, mail.max_running, mail.rate) == (4, False, 5, 2.5)
    assert (mail.workers, mail.slots) == (2, 8)
    assert (mail.in_per_minute, mail.out_per_minute) == (4.0, 10.0)
    assert mail.seconds_to_empty == 40.0
    assert found["closed"].paused
    assert (found["idle"].workers, found["idle"].depth) == (2, 0)
    assert found["lonely"].workers == 1


async def test_queues_are_paused_resumed_and_limited_by_somebody(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    await admin.pause_queue("mail", actor="ann", source="page")
    assert (await queues.read_rules(connection, TABLES)).paused == {"mail"}
    await admin.resume_queue("mail", actor="ann")
    await admin.set_queue_limits("mail", max_running=3, rate=None, actor="ann")
    for wrong in ({"max_running": 0, "rate": None}, {"max_running": None, "rate": 0.0}):
        with pytest.raises(InvalidOption):
            await admin.set_queue_limits("mail", **wrong, actor="ann")

    entries = await admin.audit(target="queue:mail")
    assert [(entry.action, entry.source) for entry in entries] == [
        ("queue.limit", "python"), ("queue.resume", "python"), ("queue.pause", "page")
    ]  # fmt: skip
    assert entries[0].details == {"max_running": 3, "rate": None}


async def test_workers_show_what_is_in_their_slots(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    await hire(connection, counters='{"memory_mb": 61, "claimed": 3}')
    tasks = [(await add_taken(connection))["id"] for _ in range(3)]
    await change(connection, tasks[2], date_started=NOW - timedelta(hours=1))

    [info] = await admin.workers(tasks=2)

    assert (info.server_name, info.pid, info.busy, info.alive) == ("web-3", 1712, 3, True)
    assert (info.memory_mb, dict(info.counters)) == (61, {"claimed": 3})
    assert len(info.tasks) == 2
    assert (await admin.workers(tasks=0))[0].tasks == []
    assert (await admin.workers())[0].tasks[0].id == tasks[2]


async def test_a_breaker_that_is_not_there_is_said(admin: QueueAdmin) -> None:
    assert await admin.breakers() == []
    assert await admin.schedules() == []
    with pytest.raises(BreakerNotFound, match="'payments'"):
        await admin.reset_breaker("payments", actor="ann")


async def test_a_script_connects_by_the_environment(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    async with QueueAdmin() as admin:
        assert (await admin.count_states()).total == 0
    with pytest.raises(NoOpenBuffer):
        await admin.count_states()


async def test_an_application_has_the_service(database_url: str) -> None:
    from fastedgy.app import running
    from fastedgy.config import Settings

    async with running(settings=Settings(database_url=database_url)):
        admin = get_container_service().get(QueueAdmin)
        assert (await admin.count_states()).total == 0
