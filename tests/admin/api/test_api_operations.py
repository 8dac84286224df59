"""Draining, whole trees, the doctor's cures and the audit over HTTP; and what is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import panel_tasks
import pytest
from helpers import PATIENCE, eventually
from panels import API, Panel
from supervised import Supervised, reaches

SITE = Path(__file__).parent / "site"
MISSING = "01975c1e-8f3a-7b52-9c1d-2f6e0a4b7c11"


async def post(panel: Panel, path: str, **options: Any) -> Any:
    answer = await panel.client.post(API + path, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def noted(panel: Panel, **filters: Any) -> list[tuple[str, str, str]]:
    """Who did what to what, the newest first."""
    entries = (await panel.get("/audit", params=filters))["items"]
    return [(entry["actor"], entry["action"], entry["target"]) for entry in entries]


# Draining.


async def test_a_worker_is_drained_and_replaced_and_then_its_supervisor_with_all(
    panel: Panel, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    supervised = Supervised(
        panel.url, SITE, app="panel_app:app", environment={"PYTHONPATH": str(SITE)},
        drain_timeout=PATIENCE,
    )  # fmt: skip
    try:
        [pid] = await supervised.ready(connection)
        [first] = await panel.get("/workers")
        name = f"{first['server_name']}/{pid}"
        id = await panel.tasks.add_task(
            panel_tasks.rest_until, str(tmp_path / "over")
        ).get_task_id()
        await reaches(connection, id, "doing")

        planned = await panel.get(f"/workers/{name}/drain")
        assert (planned["workers"], planned["supervisors"]) == ([first["id"]], [])
        assert planned["running"] == 1
        assert planned["sentence"].startswith(
            f"Worker {name} takes no more tasks and ends; its supervisor starts another one. "
            "1 task runs there"
        )
        assert (await panel.get("/workers"))[0]["drain"] is None, "it was only looked at"
        assert await post(panel, f"/workers/{name}/drain") == planned

        (tmp_path / "over").touch()
        row = await reaches(connection, id, "done")
        assert (row["run"], str(row["worker_id"])) == (1, first["id"])
        reason = await row_of(connection, first["id"], "stopped")
        assert reason == "ann asked for it"

        async def replaced() -> dict[str, Any]:
            workers = await panel.get("/workers")
            assert [(each["state"], each["drain"]) for each in workers] == [("running", None)]
            return dict(workers[0])

        second = await eventually(replaced)
        assert second["id"] != first["id"]
        assert second["supervisor_id"] == first["supervisor_id"]

        told = await post(panel, f"/workers/{first['supervisor_id']}/drain")
        assert (told["workers"], told["supervisors"]) == (
            [second["id"]], [first["supervisor_id"]],
        )  # fmt: skip
        assert await supervised.ended() == 0
        assert await row_of(connection, second["id"], "stopped")
    finally:
        supervised.close()
    assert await noted(panel, action="worker.") == [
        ("ann", "worker.drain", f"supervisor:{first['supervisor_id']}"),
        ("ann", "worker.drain", f"worker:{first['id']}"),
    ]


async def row_of(connection: asyncpg.Connection, worker: str, state: str) -> str:
    """Why a worker has ended, once it has."""

    async def check() -> str:
        row = await connection.fetchrow(
            "SELECT state, exit_reason FROM queued_task_workers WHERE id = $1", UUID(worker)
        )
        assert row["state"] == state, dict(row)
        return str(row["exit_reason"])

    return await eventually(check)


async def test_who_is_not_there_cannot_drain(panel: Panel) -> None:
    for ask in (panel.reader.get, panel.client.post):
        answer = await ask(f"{API}/workers/web-9/drain")
        assert (answer.status_code, answer.json()["code"]) == (404, "WorkerNotFound")
        assert answer.json()["detail"] == (
            "No worker, supervisor or server is called 'web-9'. No worker runs."
        )


# Trees.


async def test_a_tree_is_cancelled_and_retried_after_a_look(panel: Panel) -> None:
    root = panel.tasks.add_task(panel_tasks.add, 1)
    child = panel.tasks.task(on_parent_failure="run").add_task(panel_tasks.add, 2, parent=root)
    panel.tasks.task(queue="late").add_task(panel_tasks.add, 3, parent=child)
    alone = await panel.tasks.add_task(panel_tasks.add, 4).get_task_id()
    url = f"/tasks/{await root.get_task_id()}/tree"

    planned = await panel.get(f"{url}/cancel")
    assert planned["states"] == {"waiting": 2, "enqueued": 1}
    assert planned["sentence"] == "Cancels 3 tasks in 2 queues."
    assert await post(panel, f"{url}/cancel", json={"reason": "a mistake"}) == {
        "action": "cancel", "changed": 3,
    }  # fmt: skip
    assert (await panel.get(f"{url}/cancel"))["sentence"] == "Cancels no task."
    task = await panel.get(f"/tasks/{await child.get_task_id()}")
    assert (task["state"], task["error_message"]) == ("cancelled", "a mistake")

    planned = await panel.get(f"{url}/retry")
    assert (planned["total"], planned["sentence"]) == (3, "Retries 3 tasks in 2 queues.")
    assert (await post(panel, f"{url}/retry"))["changed"] == 3
    assert (await panel.get(f"/tasks/{alone}/status"))["state"] == "enqueued"
    assert (await panel.get("/stats"))["states"]["counts"]["waiting"] == 2
    target = f"task:{await root.get_task_id()}"
    assert await noted(panel, target=target) == [
        ("ann", "task.retry_tree", target), ("ann", "task.cancel_tree", target),
    ]  # fmt: skip


async def test_the_tree_of_a_task_that_is_not_there(panel: Panel) -> None:
    for action, status in (("cancel", 404), ("retry", 404), ("delete", 422)):
        url = f"{API}/tasks/{MISSING}/tree/{action}"
        assert (await panel.reader.get(url)).status_code == status
        assert (await panel.client.post(url)).status_code == status
    assert await noted(panel) == []


# The doctor.


async def test_cures_are_applied_noted_and_told_where_they_are_refused(
    panel: Panel, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastedgy.admin.doctor.LOCK_WAIT", 0.2)
    for table in ("audit", "queues"):
        await connection.execute(
            f"ALTER TABLE queued_task_{table} SET (autovacuum_enabled = false)"
        )
    findings = [each for each in await panel.get("/doctor") if each["fix"]]
    assert {finding["code"] for finding in findings} == {"autovacuum_off"}
    one = next(finding for finding in findings if "queued_task_queues" in str(finding))

    assert await post(panel, "/doctor/fix", json={"code": "missing_index"}) == []
    async with connection.transaction():
        await connection.execute("LOCK TABLE queued_task_queues IN SHARE UPDATE EXCLUSIVE MODE")
        [refused] = await post(panel, "/doctor/fix", json={"title": one["title"]})
    assert "lock timeout" in refused["error"]
    assert refused["statements"] == []
    cured = await post(panel, "/doctor/fix")

    assert {each["title"] for each in cured} == {finding["title"] for finding in findings}
    assert [each["error"] for each in cured] == [None] * len(findings)
    assert not [each for each in await panel.get("/doctor") if each["fix"]]
    entries = await noted(panel, action="doctor.fix", actor="an")
    assert entries == [("ann", "doctor.fix", "doctor:autovacuum_off")] * (1 + len(findings))


# The audit.


async def test_the_audit_is_filtered_and_read_page_by_page(panel: Panel) -> None:
    for name in ("a", "b"):
        await panel.admin.pause_queue(name, actor="bob")
        await panel.admin.resume_queue(name, actor="ann", source="page")

    assert await noted(panel, actor="bo", action="queue.") == [
        ("bob", "queue.pause", "queue:b"), ("bob", "queue.pause", "queue:a"),
    ]  # fmt: skip
    assert await noted(panel, action="queue.resume", target="queue:a") == [
        ("ann", "queue.resume", "queue:a")
    ]
    assert await noted(panel, actor="carl") == []
    seen: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = await panel.get("/audit", params={"actor": "bob", "limit": 1, **cursor})
        seen += page["items"]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert [entry["target"] for entry in seen] == ["queue:b", "queue:a"]


# A slip of the fingers.


async def test_a_queue_that_nobody_knows_may_be_paused_and_that_is_said(panel: Panel) -> None:
    await panel.tasks.task(queue="mail", delay=60).add_task(panel_tasks.add, 1).get_task_id()

    assert await post(panel, "/queues/mail/pause") == {
        "name": "mail", "depth": 0, "known": True, "warning": None,
    }  # fmt: skip
    slip = await post(panel, "/queues/mial/resume")
    assert (slip["name"], slip["known"]) == ("mial", False)
    assert slip["warning"] == (
        "Nothing is known of a queue mial: no task of it waits or ever ran, no worker serves it by "
        "name. Known are mail."
    )
    assert (await post(panel, "/queues/mial/pause"))["known"] is True, "it has settings now"


# What is not there.


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "detail"),
    [
        ("GET", "/nothing", 404, "NotFound", "There is nothing at /queue/api/nothing."),
        ("POST", "/queues/mail", 404, "NotFound", "There is nothing at /queue/api/queues/mail."),
        ("PATCH", "/tasks", 405, "MethodNotAllowed",
         "/queue/api/tasks takes GET, POST, not PATCH."),
        ("DELETE", "/workers/web-1/17/drain", 405, "MethodNotAllowed",
         "/queue/api/workers/web-1/17/drain takes GET, POST, not DELETE."),
    ],
)  # fmt: skip
async def test_what_no_route_has_is_answered_like_all_problems(
    panel: Panel, method: str, path: str, status: int, code: str, detail: str
) -> None:
    answer = await panel.reader.request(method, API + path)
    assert (answer.status_code, answer.json()) == (
        status, {"code": code, "detail": detail, "where": []},
    )  # fmt: skip
    assert answer.headers.get("allow") == ("GET, POST" if status == 405 else None)
    unknown = await panel.nobody.request(method, API + path)
    assert (unknown.status_code, unknown.json()["code"]) == (401, "Unauthorized")


async def test_a_slash_at_the_end_leads_to_the_same(panel: Panel) -> None:
    answer = await panel.reader.get(f"{API}/functions/", follow_redirects=True)
    assert answer.status_code == 200
    assert [each.status_code for each in answer.history] == [307]
