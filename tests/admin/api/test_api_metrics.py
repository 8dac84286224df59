"""What Prometheus and probes are told, by the application and by a supervisor."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import panel_tasks
import pytest
from helpers import NO_TLS, eventually
from panels import READ, Panel, Work, bearer
from prometheus_client.parser import text_string_to_metric_families
from rows import TABLES
from supervised import Supervised

from fastedgy.admin import QueueAdmin
from fastedgy.admin.health import HealthCheck
from fastedgy.admin.metrics import Metrics
from fastedgy.config import QueuedTaskConfig
from fastedgy.ids import new_id
from fastedgy.store import breakers, rollups, workers

ROOT = Path(__file__).parents[3]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Samples:
    """All samples by name and labels. The parser refuses what is no exposition."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def of(samples: Samples, name: str, /, **labels: str) -> float:
    """The sum of a metric over all labels that are not given."""
    return sum(
        value
        for (found, known), value in samples.items()
        if found == name and labels.items() <= dict(known).items()
    )


async def scrape(panel: Panel) -> Samples:
    answer = await panel.reader.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parsed(answer.text)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is answered from memory."""
    monkeypatch.setattr("fastedgy.admin.metrics.FRESH", 0.0)
    monkeypatch.setattr("fastedgy.admin.health.FRESH", 0.0)


async def test_what_the_workers_did_is_counted_by_name(panel: Panel, work: Work) -> None:
    async with work():
        refs = [panel.tasks.add_task(panel_tasks.add, number) for number in range(5)]
        refs += [panel.tasks.add_task(panel_tasks.fail)]
        waiting = panel.tasks.add_task(panel_tasks.talk, 1, "door")
        await asyncio.gather(*(ref.wait(30) for ref in refs), return_exceptions=True)
        running = await scrape(panel)
        panel_tasks.gates["door"].set()
        await waiting.wait(30)
    ended = await scrape(panel)

    assert of(running, "queued_tasks_active", task_name="panel_tasks.talk") == 1
    assert of(running, "queued_worker_slots") == 10
    assert of(running, "queued_workers", state="running") == 1
    add = {"task_name": "panel_tasks.add", "queue": "default"}
    assert of(ended, "queued_tasks_total", status="done", **add) == 5
    assert of(ended, "queued_tasks_total", status="failed", task_name="panel_tasks.fail") == 1
    assert of(ended, "queued_task_retries_total", task_name="panel_tasks.fail") == 1
    assert of(ended, "queued_task_duration_seconds_count", **add) == 5
    assert of(ended, "queued_task_duration_seconds_bucket", le="+Inf", **add) == 5
    assert of(ended, "queued_task_duration_seconds_sum", **add) > 0
    assert of(ended, "queued_task_wait_seconds_count", **add) == 5
    assert of(ended, "queued_tasks_state", state="done") == 6
    assert of(ended, "queued_tasks_claimed_total") == 8
    assert of(ended, "queued_database_up") == 1


async def test_buckets_grow_and_end_in_infinity(panel: Panel, work: Work) -> None:
    async with work():
        await panel.tasks.add_task(panel_tasks.add, 1).wait(30)
    samples = await scrape(panel)
    buckets = sorted(
        (float(dict(labels)["le"]), value)
        for (name, labels), value in samples.items()
        if name == "queued_task_duration_seconds_bucket"
    )

    assert 10 < len(buckets) < 25
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)
    assert buckets[-1] == (float("inf"), 1)


async def test_what_waits_is_measured(panel: Panel, connection: asyncpg.Connection) -> None:
    for _ in range(3):
        await panel.tasks.add_task(panel_tasks.sign_up, "ann", "secret").get_task_id()
    await connection.execute(
        "UPDATE queued_tasks SET date_enqueued = date_enqueued - interval '90 seconds'"
    )
    await panel.admin.pause_queue("mail", actor="ann")

    samples = await scrape(panel)

    assert of(samples, "queued_queue_depth", queue="mail") == 3
    assert 90 <= of(samples, "queued_queue_oldest_due_seconds", queue="mail") < 120
    assert of(samples, "queued_queue_paused", queue="mail") == 1
    assert of(samples, "queued_tasks_state", state="enqueued") == 3


def counters(samples: Samples) -> Samples:
    return {
        key: value
        for key, value in samples.items()
        if key[0].endswith(("_total", "_count", "_bucket", "_sum"))
    }


def assert_no_step_back(before: Samples, after: Samples) -> None:
    for key, value in counters(before).items():
        assert after.get(key, -1) >= value, (key, value, after.get(key))


async def test_counters_survive_a_killed_worker_and_the_deletion_of_its_row(
    panel: Panel, connection: asyncpg.Connection, work: Work
) -> None:
    async with work() as worker:
        await panel.tasks.add_task(panel_tasks.add, 1).wait(30)
        await panel.tasks.add_task(panel_tasks.fail).get_task_id()

        async def beaten() -> None:
            assert of(await scrape(panel), "queued_tasks_claimed_total") >= 3

        await eventually(beaten)
    before = await scrape(panel)
    other = new_id()
    await workers.register(
        connection, TABLES, worker_id=other, server_name="b", pid=1, supervisor_id=None, queues=[],
        concurrency=1, version="1",
    )  # fmt: skip
    await connection.execute(
        'UPDATE queued_task_workers SET counters = \'{"claimed": 7, "in_process": {}}\','
        " state = 'lost', date_ended = now() WHERE id = $1",
        other,
    )
    with_other = await scrape(panel)
    for _ in range(2):
        await connection.execute(
            "UPDATE queued_task_workers SET date_ended = now() - interval '2 days'"
        )
        assert await workers.forget_workers(connection, TABLES, older_than=86_400) in (2, 0)
        await rollups.tidy(connection, TABLES, keep_hours=86_400)
        after = await scrape(panel)
        assert_no_step_back(before, after)
        assert_no_step_back(with_other, after)
        assert (
            of(after, "queued_tasks_claimed_total") == of(before, "queued_tasks_claimed_total") + 7
        )
    rows = await connection.fetch("SELECT id, server_name FROM queued_task_workers")
    assert [row["server_name"] for row in rows] == ["(forgotten)"]
    assert worker.id not in [row["id"] for row in rows]


async def test_counters_of_killed_processes_never_go_backwards(
    panel: Panel, connection: asyncpg.Connection
) -> None:
    site = str(Path(__file__).parent / "site")
    app = "panel_app:app"
    supervised = Supervised(
        panel.url, Path(site), app=app, workers=2, environment={"PYTHONPATH": site}
    )
    try:
        await supervised.ready(connection, 2)
        last: Samples = {}
        for _ in range(3):
            for number in range(200):
                panel.tasks.add_task(panel_tasks.add, number)
            await panel.tasks.flush()
            await asyncio.sleep(0.2)
            for pid in supervised.workers()[:1]:
                os.kill(pid, signal.SIGKILL)
            for _ in range(5):
                now = await scrape(panel)
                assert_no_step_back(last, now)
                last = now

        async def all_done() -> None:
            states = (await panel.admin.count_states()).counts
            assert states["done"] == 600, states

        await eventually(all_done, within=40)
        assert_no_step_back(last, await scrape(panel))
    finally:
        supervised.close()


async def test_many_names_are_counted_together_beyond_a_limit(
    panel: Panel, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastedgy.admin.metrics.MOST_NAMES", 2)
    metrics = Metrics(panel.admin.connection, TABLES, panel.admin.config)
    async with work():
        for name in ("a", "b", "c", "d"):
            await panel.tasks.task(name=name).add_task(panel_tasks.add, 1).wait(30)

    samples = parsed((await metrics.exposition()).decode())
    again = parsed((await metrics.exposition()).decode())

    assert of(samples, "queued_tasks_total", status="done") == 4
    assert of(samples, "queued_tasks_total", task_name="(other)") == 2
    assert counters(samples) == counters(again)


async def test_labels_may_hold_anything(panel: Panel, work: Work) -> None:
    name = 'a "b" \\ c\nd é'
    async with work():
        await panel.tasks.task(name=name).add_task(panel_tasks.add, 1).wait(30)

    assert of(await scrape(panel), "queued_tasks_total", task_name=name, status="done") == 1


async def test_in_process_tasks_are_counted_by_the_process_that_runs_them(panel: Panel) -> None:
    before = await scrape(panel)
    for well in (True, True, False):
        await panel.nobody.post("/wave", params={"well": well})

    async def ended() -> Samples:
        samples = await scrape(panel)
        assert of(samples, "inprocess_task_duration_seconds_count", task_name=name) == 3
        return samples

    name = "panel_tasks.wave"
    samples = await eventually(ended)
    assert of(samples, "inprocess_tasks_total", task_name=name, status="done") == 2
    assert of(samples, "inprocess_tasks_total", task_name=name, status="failed") == 1
    assert of(samples, "inprocess_tasks_scheduled_total", task_name=name) == 3
    assert of(samples, "inprocess_tasks_running", task_name=name) == 0
    seconds = of(samples, "inprocess_task_duration_seconds_sum", task_name=name)
    assert 0 < of(samples, "inprocess_task_longest_seconds", task_name=name) <= seconds
    processes = {
        dict(labels)["process"] for (key, labels) in samples if key.startswith("inprocess_")
    }
    assert processes == {f"{socket.gethostname()}/{os.getpid()}"}
    assert of(before, "inprocess_tasks_scheduled_total", task_name=name) == 0


async def test_how_often_a_breaker_has_opened_is_counted(
    panel: Panel, connection: asyncpg.Connection
) -> None:
    await breakers.declare(
        connection, TABLES, "pay", failure_threshold=2, success_threshold=1, reset_timeout=0.0
    )
    for _ in range(2):
        await breakers.failed(connection, TABLES, "pay", token=None, error="no route")
    samples = await scrape(panel)
    assert of(samples, "circuit_breaker_opened_total", name="pay") == 1
    assert of(samples, "circuit_breaker_state", name="pay", state="open") == 1

    probe = new_id()
    given = {"token": probe, "task_id": None, "run": None, "seconds": 60.0}
    assert await breakers.probe(connection, TABLES, "pay", **given)
    await breakers.failed(connection, TABLES, "pay", token=probe, error="no route")
    await panel.admin.reset_breaker("pay", actor="ann")
    samples = await scrape(panel)
    assert of(samples, "circuit_breaker_opened_total", name="pay") == 2
    assert of(samples, "circuit_breaker_state", name="pay", state="closed") == 1


class Away(QueueAdmin):
    def connection(self) -> Any:
        raise ConnectionRefusedError("nobody there")


async def test_a_database_that_is_away_is_said_to_be() -> None:
    admin = Away(None, QueuedTaskConfig())
    metrics = Metrics(admin.connection, TABLES, QueuedTaskConfig())

    samples = parsed((await metrics.exposition()).decode())
    health = await HealthCheck().look(admin)

    assert samples == {("queued_database_up", ()): 0}
    assert (health.level, health.reasons) == ("unhealthy", ["nobody there"])


async def test_health_has_a_status_for_probes_and_reasons_for_people(
    panel: Panel, work: Work, connection: asyncpg.Connection
) -> None:
    async with work():
        well = await panel.reader.get("/health/queue")
    assert (well.status_code, well.json()["level"]) == (200, "healthy"), well.text

    await panel.tasks.add_task(panel_tasks.add, 1).get_task_id()
    await connection.execute(
        "UPDATE queued_tasks SET date_enqueued = date_enqueued - interval '1 hour'"
    )
    ill = await panel.reader.get("/health/queue")
    assert (ill.status_code, ill.json()["level"]) == (503, "unhealthy"), ill.text
    assert ill.json()["reasons"]


async def test_a_supervisor_answers_on_a_port_of_its_own(
    panel: Panel, connection: asyncpg.Connection, unused_tcp_port: int
) -> None:
    site = str(Path(__file__).parent / "site")
    supervised = Supervised(
        panel.url, Path(site), app="panel_app:app",
        environment={"PYTHONPATH": site, "QUEUE_ADMIN_READ_TOKEN": READ},
        arguments=["--metrics-port", str(unused_tcp_port)],
    )  # fmt: skip
    url = f"http://127.0.0.1:{unused_tcp_port}"
    try:
        await supervised.ready(connection)
        await panel.tasks.add_task(panel_tasks.add, 1).wait(30)
        async with httpx.AsyncClient(base_url=url, headers=bearer(READ), verify=NO_TLS) as client:

            async def counted() -> Samples:
                samples = parsed((await client.get("/metrics")).text)
                assert of(samples, "queued_tasks_total", status="done") == 1
                return samples

            samples = await eventually(counted)
            health = await client.get("/health/queue")
            assert (await client.get("/nothing")).status_code == 404
            assert (await client.post("/metrics")).status_code == 405
            assert (await client.get("/metrics", headers=bearer("x" * 20))).status_code == 401
    finally:
        supervised.close()

    assert of(samples, "queued_supervisor_workers") == 1
    assert of(samples, "queued_supervisor_deaths_total") == 0
    assert health.json()["level"] == "healthy"


def test_the_dashboard_and_the_alerts_name_series_that_exist(panel: Panel) -> None:
    known = set(re.findall(r"`(\w+)`", (ROOT / "docs/metrics.md").read_text()))
    dashboard = json.loads((ROOT / "docs/grafana.json").read_text())
    queries = [target["expr"] for p in dashboard["panels"] for target in p.get("targets", ())]
    alerts = (ROOT / "docs/alerts.yml").read_text()

    for text in [*queries, *re.findall(r"expr: (.+)", alerts)]:
        for name in re.findall(r"\b(?:queued|circuit|inprocess)_\w+", text):
            assert re.sub(r"_(bucket|count|sum)$", "", name) in known, name
