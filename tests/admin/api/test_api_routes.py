"""What the routes answer and do, beside a worker."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import panel_tasks
import pytest
from helpers import eventually
from panels import API, Panel, Work

MISSING = "01975c1e-8f3a-7b52-9c1d-2f6e0a4b7c11"


async def added(panel: Panel, func: Any, *args: Any, **options: Any) -> UUID:
    return await panel.tasks.task(**options).add_task(func, *args).get_task_id()


async def reaches(panel: Panel, id: UUID | str, state: str) -> Any:
    async def check() -> Any:
        status = await panel.get(f"/tasks/{id}/status")
        assert status["state"] == state, status
        return status

    return await eventually(check)


async def test_a_task_is_added_run_and_shown(panel: Panel, work: Work) -> None:
    body = {
        "function": "panel_tasks:talk", "args": [2], "options": {"queue": "loud", "priority": 3},
    }  # fmt: skip
    answer = await panel.client.post(f"{API}/tasks", json=body)
    assert answer.status_code == 201, answer.text
    id = answer.json()["id"]

    async with work():
        status = await reaches(panel, id, "done")

    assert status["progress"] == 100.0
    assert status["ended"] is True
    task = await panel.get(f"/tasks/{id}")
    assert (task["queue"], task["priority"], task["result"]) == ("loud", 3, "said")
    assert (await panel.get(f"/tasks/{id}/progress"))["context"] == {"progress": 100}
    lines = await panel.get(f"/tasks/{id}/logs", params={"limit": 3})
    after = {"after_run": lines[-1]["run"], "after_seq": lines[-1]["seq"]}
    lines += await panel.get(f"/tasks/{id}/logs", params=after)
    assert [line["message"] for line in lines] == ["before 0", "before 1", "after 0", "after 1"]
    assert await panel.get(f"/tasks/{id}/logs", params={"level": "error"}) == []
    [entry] = (await panel.get("/audit", params={"target": f"task:{id}"}))["items"]
    assert (entry["actor"], entry["source"], entry["action"]) == ("ann", "api", "task.add")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"function": "subprocess:run", "args": [["true"]]}, "is not offered as a task"),
        ({"function": "panel_tasks:nowhere"}, "no nowhere in it"),
        ({"function": "panel_tasks"}, "not the name of a function"),
        ({"function": "panel_tasks:add"}, "the argument 'left' is missing"),
        ({"function": "panel_tasks:add", "args": [1, 2, 3]}, "it takes at most 2"),
        ({"function": "panel_tasks:add", "kwargs": {"left": 1, "middle": 2}}, "middle"),
        ({"function": "panel_tasks:add", "args": ["seven"]}, "left"),
        ({"function": "panel_tasks:add", "args": [1], "kwargs": {"func": 1}}, "'func'"),
        ({"function": "panel_tasks:anything", "args": [1], "kwargs": {"func": 1}}, "by name"),
        ({"function": "panel_tasks:add", "args": [1], "parent": [MISSING]}, "No task has the id"),
    ],
)
async def test_what_is_not_offered_or_does_not_fit_is_not_added(
    panel: Panel, body: dict[str, Any], complaint: str
) -> None:
    answer = await panel.client.post(f"{API}/tasks", json=body)

    assert answer.status_code == 400, answer.text
    assert complaint in answer.json()["detail"]
    assert (await panel.get("/tasks"))["items"] == []
    assert (await panel.get("/audit"))["items"] == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"function": "a\x00b"},
        {"function": "a", "options": {"x": 1}},
        {"function": "a", "options": {"delay": -1}},
    ],
)
async def test_what_has_not_the_documented_form_is_422(panel: Panel, body: Any) -> None:
    answer = await panel.client.post(f"{API}/tasks", json=body)

    assert answer.status_code == 422
    assert answer.json()["code"] == "InvalidRequest"
    assert answer.json()["where"]


async def test_the_functions_on_offer_are_listed(panel: Panel) -> None:
    functions = {each["function"]: each for each in await panel.get("/functions")}

    assert functions["panel_tasks:add"]["signature"] == "(left: 'int', right: 'int' = 1) -> 'int'"
    assert functions["panel_tasks:add"]["doc"] == "Add two numbers."
    assert "panel_tasks:undecorated" not in functions


async def test_redacted_values_stay_redacted_everywhere(panel: Panel) -> None:
    answer = await panel.nobody.post("/sign-up", params={"name": "ann"})
    id = answer.json()["id"]

    for path in (f"/tasks/{id}", "/tasks", f"/tasks/{id}/tree", "/overview"):
        text = json.dumps(await panel.get(path))
        assert "hunter2" not in text, path
    assert "ann" in json.dumps((await panel.get(f"/tasks/{id}"))["args"])


async def test_a_listing_goes_page_by_page(panel: Panel) -> None:
    for number in range(5):
        await added(panel, panel_tasks.add, number, queue="many")
    await added(panel, panel_tasks.add, 9)

    seen, cursor = [], None
    while True:
        params = {"queue": "many", "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = await panel.get("/tasks", params=params)
        seen += [task["id"] for task in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break

    assert len(seen) == len(set(seen)) == 5
    assert seen == sorted(seen, reverse=True)
    wrong = await panel.reader.get(f"{API}/tasks", params={"cursor": "nonsense"})
    assert wrong.status_code == 400


async def test_tasks_are_changed_one_by_one(panel: Panel) -> None:
    id = await added(panel, panel_tasks.add, 1)
    url = f"{API}/tasks/{id}"

    assert (await panel.client.put(f"{url}/priority", json={"priority": 7})).status_code == 204
    assert (await panel.client.put(f"{url}/queue", json={"queue": "slow"})).status_code == 204
    task = await panel.get(f"/tasks/{id}")
    assert (task["priority"], task["queue"]) == (7, "slow")
    assert (await panel.client.delete(url)).status_code == 409
    assert (await panel.client.post(f"{url}/cancel", json={"reason": "typo"})).status_code == 204
    assert (await panel.get(f"/tasks/{id}"))["error_message"] == "typo"
    again = await panel.client.post(f"{url}/cancel")
    assert again.status_code == 409
    assert again.json()["detail"] == f"Task {id} is cancelled, and cannot be cancelled as that."
    assert (await panel.client.post(f"{url}/retry")).status_code == 204
    assert (await panel.get(f"/tasks/{id}"))["state"] == "enqueued"
    assert (await panel.client.post(f"{url}/cancel")).status_code == 204
    assert (await panel.client.delete(url)).status_code == 204
    assert (await panel.reader.get(url)).status_code == 404
    noted = await panel.get("/audit", params={"target": f"task:{id}"})
    assert [entry["action"].partition(".")[2] for entry in reversed(noted["items"])] == [
        "reprioritise", "move", "cancel", "retry", "cancel", "delete",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["", "/status", "/progress", "/logs", "/tree", "/explain"])
async def test_a_task_that_is_not_there_is_404(panel: Panel, path: str) -> None:
    answer = await panel.reader.get(f"{API}/tasks/{MISSING}{path}")

    assert answer.status_code == 404
    assert answer.json()["code"] == "TaskNotFound"


async def test_many_tasks_are_changed_after_a_look(panel: Panel) -> None:
    for number in range(3):
        await added(panel, panel_tasks.add, number, queue="many")
    body = {"action": "cancel", "filter": {"queue": "many"}}

    preview = (await panel.reader.post(f"{API}/bulk/preview", json=body)).json()
    assert (preview["total"], preview["states"]) == (3, {"enqueued": 3})
    done = (await panel.client.post(f"{API}/bulk/apply", json=body)).json()
    assert (done["changed"], done["finished"]) == (3, True)
    undone = await panel.client.post(f"{API}/bulk/{done['operation']}/undo")
    assert undone.json()["changed"] == 3
    lines = await panel.client.post(
        f"{API}/bulk/apply", json=body, headers={"Accept": "application/x-ndjson"}
    )
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert json.loads(lines.text.splitlines()[-1])["changed"] == 3
    wrong = await panel.client.post(f"{API}/bulk/apply", json={**body, "action": "move"})
    assert wrong.status_code == 400


async def test_queues_are_paused_limited_and_resumed(panel: Panel) -> None:
    url = f"{API}/queues/mail"

    assert (await panel.client.post(f"{url}/pause")).json()["known"] is False
    limits = {"max_running": 2, "rate": 0.5}
    assert (await panel.client.put(f"{url}/limits", json=limits)).json()["known"] is True
    [mail] = await panel.get("/queues")
    assert (mail["paused"], mail["max_running"], mail["rate"]) == (True, 2, 0.5)
    id = await added(panel, panel_tasks.sign_up, "ann", "secret")
    assert "paused" in (await panel.get(f"/tasks/{id}/explain"))["sentence"]
    assert (await panel.client.post(f"{url}/resume")).json()["depth"] == 1
    [mail] = await panel.get("/queues")
    assert mail["paused"] is False
    noted = await panel.get("/audit", params={"target": "queue:mail"})
    assert {entry["actor"] for entry in noted["items"]} == {"ann"}
    assert len(noted["items"]) == 3


async def test_schedules_are_added_changed_run_and_removed(panel: Panel, work: Work) -> None:
    body = {"name": "nightly", "function": "panel_tasks:add", "args": [1], "cron": "0 2 * * *",
            "timezone": "Europe/Paris"}  # fmt: skip
    made = await panel.client.post(f"{API}/schedules", json=body)
    assert made.status_code == 201, made.text
    assert (await panel.client.post(f"{API}/schedules", json=body)).status_code == 409
    url = f"{API}/schedules/nightly"

    assert len(await panel.get("/schedules/nightly/preview", params={"n": 3})) == 3
    changed = await panel.client.patch(url, json={"cron": "0 3 * * *"})
    assert changed.json()["cron"] == "0 3 * * *"
    assert (await panel.client.patch(url, json={"cron": "never"})).status_code == 400
    assert (await panel.client.post(f"{url}/pause")).json()["state"] == "paused"
    id = (await panel.client.post(f"{url}/run")).json()["id"]
    async with work():
        await reaches(panel, id, "done")
    assert (await panel.client.post(f"{url}/resume")).json()["state"] == "active"
    assert [each["name"] for each in await panel.get("/schedules")] == ["nightly"]
    assert (await panel.client.delete(url)).status_code == 204
    assert (await panel.reader.get(url)).status_code == 404
    noted = await panel.get("/audit", params={"target": "schedule:nightly"})
    assert {(entry["actor"], entry["source"]) for entry in noted["items"]} == {("ann", "api")}


async def test_the_figures_add_up(panel: Panel, work: Work) -> None:
    async with work() as worker:
        for number in range(3):
            await added(panel, panel_tasks.add, number)
        id = await added(panel, panel_tasks.talk, 1, "door")
        await reaches(panel, id, "doing")
        running = await panel.get("/tasks/running")
        workers = await panel.get("/workers")
        panel_tasks.gates["door"].set()
        await reaches(panel, id, "done")

    assert str(id) in [task["id"] for task in running]
    assert [each["id"] for each in workers] == [str(worker.id)]
    stats = await panel.get("/stats", params={"hours": 1})
    assert stats["done"] == 4
    names = {each["name"]: each["done"] for each in await panel.get("/names")}
    assert names == {"panel_tasks.add": 3, "panel_tasks.talk": 1}
    assert sum(point["done"] for point in await panel.get("/throughput")) == 4
    assert (await panel.get("/overview"))["states"]["counts"]["done"] == 4
    assert isinstance(await panel.get("/doctor"), list)
    found = await panel.get("/tasks/find", params={"id": str(id)[-8:]})
    assert found == {"id": str(id)}


async def test_a_breaker_is_shown_and_reset(panel: Panel) -> None:
    async with panel.admin.connection() as connection:
        await connection.execute(
            "INSERT INTO queued_task_breakers (name, state, failures, opened_at)"
            " VALUES ('payments', 'open', 5, clock_timestamp())"
        )
    [breaker] = await panel.get("/breakers")
    assert (breaker["name"], breaker["state"]) == ("payments", "open")

    assert (await panel.client.post(f"{API}/breakers/payments/reset")).status_code == 204

    [breaker] = await panel.get("/breakers")
    assert breaker["state"] == "closed"
    assert (await panel.client.post(f"{API}/breakers/none/reset")).status_code in (204, 404)


async def test_many_readers_do_not_hold_up_who_enqueues(panel: Panel) -> None:
    looking = [panel.get("/overview") for _ in range(20)]
    answers = await asyncio.gather(*looking, added(panel, panel_tasks.add, 1))

    assert isinstance(answers[-1], UUID)
