"""Reports and patterns of `examples/service`, as the guide calls them, on real workers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from commands import shell
from helpers import wait_until
from openpyxl import load_workbook
from service_partner import Partner
from service_site import SERVICE, TOKEN, Service, kill

PATTERNS = "examples.advanced_patterns"
SPEC = {"report_type": "sales", "start_date": "2025-01-01", "end_date": "2025-01-31"}


@pytest.fixture(scope="module", autouse=True)
def january(service: Service) -> None:
    """Ten orders of 10 in January, five of Ada and five of Alan; five books on the shelf."""
    service.execute(
        "INSERT INTO orders (customer, amount, placed)"
        " SELECT CASE WHEN n % 2 = 0 THEN 'Ada' ELSE 'Alan' END, 10,"
        "        timestamptz '2025-01-01 12:00Z' + n * interval '3 days'"
        "   FROM generate_series(1, 10) AS n"
    )
    service.execute("INSERT INTO stock (product, free) VALUES ('book', 5)")


def mails_to(service: Service, recipient: str) -> list[str]:
    return [text for to, text in service.postbox.mails if to == recipient]


def free_books(service: Service) -> int:
    found: int = service.execute("SELECT free FROM stock WHERE product = 'book'")[0]["free"]
    return found


def buy(service: Service, order: str) -> str:
    body = {"order_id": order, "user_id": "user_456", "amount": 99.99}
    task: str = service.post("/tasks/examples/purchase", body)["task_id"]
    return task


def test_the_metrics_are_those_of_the_guide(service: Service) -> None:
    task = service.post("/tasks/examples/kick", {"data": {"test": "value"}})["task_id"]
    service.ends(task)
    url = str(service.client.base_url).replace("/api/v1/", "/metrics")

    def counted() -> None:
        answer = httpx.get(url, headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200
        for series in ("queued_tasks_total", "queued_task_duration_seconds"):
            assert series in answer.text
        assert re.search(r"queued_tasks_total.*example", answer.text), answer.text[:3000]

    wait_until(counted)
    assert httpx.get(url).status_code == 401


def test_a_report_is_collected_formatted_and_delivered(service: Service) -> None:
    spec = SPEC | {"output_format": "pdf", "recipients": ["manager@example.com"]}
    report = service.ends(service.post("/tasks/examples/report", spec)["task_id"])
    assert (report["status"], report["rows"], report["total"]) == ("delivered", 2, 100.0)
    assert Path(report["path"]).read_bytes().startswith(b"%PDF-")
    [mail] = mails_to(service, "manager@example.com")
    assert "2 rows, 100.0 in all." in mail
    assert Path(report["path"]).name in mail


@pytest.mark.parametrize("parallel", [True, False])
def test_a_batch_tells_what_succeeded_and_what_failed(service: Service, parallel: bool) -> None:
    client = f"client-{parallel}@example.com"
    specs = [
        SPEC | {"output_format": "excel", "recipients": [client]},
        SPEC | {"report_type": "weather", "output_format": "pdf", "recipients": [client]},
        SPEC | {"report_type": "revenue", "output_format": "csv", "recipients": [client]},
    ]
    body = {"report_specs": specs, "parallel": parallel}
    batch = service.ends(service.post("/tasks/examples/reports", body)["task_id"])
    assert batch["summary"] == {"total": 3, "successful": 2, "failed": 1}
    assert "weather" in str(batch["errors"])
    table, days = batch["reports"]
    rows = [list(row) for row in load_workbook(table).active.values]
    assert rows == [["customer", "amount"], ["Ada", "50.00"], ["Alan", "50.00"]]
    assert len(Path(days).read_text().splitlines()) == 11
    assert len(mails_to(service, client)) == 2


def test_a_large_sum_takes_another_path(service: Service) -> None:
    path = "reports.tasks.generate_conditional_report"
    dates = ("2025-01-01", "2025-01-31")
    small, large = service.add(
        (path, (*dates, 100.0, ["a@example.com"])), (path, (*dates, 99.0, ["b@example.com"]))
    )
    assert service.ends(small)["recipients"] == ["a@example.com"]
    found = service.ends(large)
    assert found["recipients"] == ["b@example.com", "management@example.com"]
    assert found["path"].endswith(".xlsx")


def test_a_purchase_goes_through_or_is_undone(service: Service, partner: Partner) -> None:
    done = service.ends(buy(service, "order_123"))
    assert done["status"] == "completed"
    assert done["charge"] == partner.effects["charge order_123"]["id"]
    left = free_books(service)

    partner.refuses.add("/shipments")
    try:
        undone = service.ends(buy(service, "order_124"))
    finally:
        partner.refuses.clear()
    assert undone["status"] == "compensated"
    assert undone["compensations"] == ["payment", "inventory"]
    charge = partner.effects["charge order_124"]["id"]
    assert partner.made("/refunds", charge)
    assert free_books(service) == left


def test_what_is_sold_out_is_neither_reserved_nor_charged(
    service: Service, partner: Partner
) -> None:
    [task] = service.add((f"{PATTERNS}.payment_saga", ("order_125", "u", 5.0, "unicorn")))
    undone = service.ends(task)
    assert (undone["status"], undone["compensations"]) == ("compensated", [])
    assert "unicorn is sold out" in undone["error"]
    assert not service.execute("SELECT FROM reservations WHERE order_id = 'order_125'")
    assert not partner.made("/charges", "order_125")


def test_a_payment_that_is_asked_for_twice_is_made_once(service: Service, partner: Partner) -> None:
    body = {"order_id": "1", "user_id": "user_456", "amount": 10}
    path, headers = "/tasks/examples/payment", {"Idempotency-Key": "once"}
    answers = [service.client.post(path, json=body, headers=headers) for _ in range(3)]
    tasks = [answer.json()["task_id"] for answer in answers]
    assert len(set(tasks)) == 3
    results = [service.ends(task) for task in tasks]
    assert results[0] == results[1] == results[2]
    assert results[0]["made_by"] in tasks
    assert partner.seen.count(("/charges", "once")) == 1
    assert service.client.post(path, json=body).status_code == 422


def test_a_broken_partner_is_called_no_more(service: Service, partner: Partner) -> None:
    rate, charge = (
        f"{PATTERNS}.call_external_api_with_circuit_breaker",
        f"{PATTERNS}.charge_in_line",
    )
    partner.down = True
    try:
        for task in service.add(*[(rate, ("USD",))] * 5):
            assert "503" in service.ends(task, "failed")
        asked = len(partner.seen)
        [fallback, waiting] = service.add((rate, ("USD",)), (charge, ("in line", "u", 5.0)))
        assert service.ends(fallback) == {"status": "fallback", "rate": 1.08, "circuit": "partner"}
        assert len(partner.seen) == asked
        assert service.get(f"/tasks/{waiting}/status")["status"] == "enqueued"
    finally:
        partner.down = False
    service.execute("UPDATE queued_task_breakers SET opened_at = opened_at - interval '1 minute'")
    [first] = service.add((rate, ("USD",)))
    service.ends(first)
    [second] = service.add((rate, ("USD",)))
    assert service.ends(second) == {"status": "success", "rate": 1.25}
    assert service.ends(waiting) == partner.effects["in line"]["id"]
    [row] = service.execute("SELECT state FROM queued_task_breakers WHERE name = 'partner'")
    assert row["state"] == "closed"


def test_a_rate_comes_from_the_best_source_there_is(service: Service, partner: Partner) -> None:
    path = f"{PATTERNS}.convert_with_fallback"
    [task] = service.add((path, (100, "USD")))
    assert service.ends(task) == {"amount": 125.0, "source": "live", "degraded": False}
    partner.down = True
    try:
        cached, default, nobody = service.add(
            (path, (100, "USD")), (path, (100, "CHF")), (path, (100, "XXX"))
        )
        assert service.ends(cached) == {"amount": 125.0, "source": "cache", "degraded": True}
        assert service.ends(default) == {"amount": 94.0, "source": "default", "degraded": True}
        assert "XXX" in service.ends(nobody, "failed")
    finally:
        partner.down = False


def test_good_rows_count_and_bad_ones_are_told(service: Service) -> None:
    levels: list[dict[str, Any]] = [{"product": f"pen {n}", "free": n} for n in range(5)]
    levels += [{"product": "pen", "free": -1}, {"free": 3}, {"product": "cup", "free": "two"}]
    path = f"{PATTERNS}.restock_with_partial_success"
    mixed, bad = service.add((path, (levels,)), (path, (levels[5:],)))
    found = service.ends(mixed)
    assert (found["status"], found["successful"], found["failed"]) == ("partial", 5, 3)
    assert [error["row"] for error in found["errors"]] == [5, 6, 7]
    assert service.ends(bad)["status"] == "failed"
    [row] = service.execute("SELECT sum(free) AS n FROM stock WHERE product LIKE 'pen %'")
    assert row["n"] == 10


def test_all_come_to_their_results_though_the_workers_are_killed(
    service: Service, partner: Partner
) -> None:
    left, pids = free_books(service), service.workers()
    rates = partner.seen.count(("/rates/USD", None))
    report = SPEC | {"output_format": "pdf", "recipients": ["k1@example.com"]}
    batch = {
        "report_specs": [
            SPEC | {"output_format": "csv", "recipients": ["k2@example.com"]},
            SPEC | {"report_type": "weather", "recipients": ["k2@example.com"]},
        ]
    }
    partner.open.clear()
    try:
        with service.locked("orders"):
            chained = service.post("/tasks/examples/report", report)["task_id"]
            batched = service.post("/tasks/examples/reports", batch)["task_id"]
            branched, restocked, kicked, converted, rated, charged = service.add(
                ("reports.tasks.generate_conditional_report",
                 ("2025-01-01", "2025-01-31", 1.0, ["k3@example.com"])),
                (f"{PATTERNS}.restock_with_partial_success",
                 ([{"product": f"mug {n}", "free": 1} for n in range(200)],)),
                ("notifications.tasks.send_due_reminders",),
                (f"{PATTERNS}.convert_with_fallback", (100, "USD")),
                (f"{PATTERNS}.call_external_api_with_circuit_breaker", ("USD",)),
                (f"{PATTERNS}.charge_in_line", ("killed in line", "u", 5.0)),
            )  # fmt: skip
            bought = buy(service, "killed_1")
            answer = service.client.post(
                "/tasks/examples/payment",
                json={"order_id": "2", "user_id": "u", "amount": 10},
                headers={"Idempotency-Key": "killed"},
            )
            paid = answer.json()["task_id"]

            def in_the_middle() -> None:
                assert {"charge killed_1", "killed", "killed in line"} <= partner.effects.keys()
                assert partner.seen.count(("/rates/USD", None)) == rates + 2
                [row] = service.execute(
                    "SELECT count(*) AS n FROM queued_tasks"
                    " WHERE name LIKE '%collect' AND state = 'doing'"
                )
                assert row["n"] == 3  # the weather is refused without a look at the orders

            wait_until(in_the_middle)
            for pid in pids:
                kill(pid)
    finally:
        partner.open.set()
    assert service.ends(chained, within=90)["status"] == "delivered"
    summary = service.ends(batched)["summary"]
    assert summary == {"total": 2, "successful": 1, "failed": 1}
    assert service.ends(branched)["path"].endswith(".xlsx")
    for recipient in ("k1", "k2", "k3"):
        assert len(mails_to(service, f"{recipient}@example.com")) == 1
    assert service.ends(restocked)["successful"] == 200
    service.ends(kicked)
    assert service.ends(bought)["status"] == "completed"
    assert service.ends(paid)["charge"] == partner.effects["killed"]["id"]
    assert service.ends(converted) == {"amount": 125.0, "source": "live", "degraded": False}
    assert service.ends(rated) == {"status": "success", "rate": 1.25}
    assert service.ends(charged) == partner.effects["killed in line"]["id"]
    assert free_books(service) == left - 1
    assert len(partner.made("/charges", "charge killed_1")) == 1


def test_a_purchase_is_undone_to_the_end_though_the_workers_are_killed(
    service: Service, partner: Partner
) -> None:
    left, pids = free_books(service), service.workers()
    partner.refuses.add("/shipments")
    try:
        task = buy(service, "killed_2")

        def refused() -> None:
            assert ("/shipments", "ship killed_2") in partner.seen

        wait_until(refused)
        partner.open.clear()

        def undoing() -> None:
            assert partner.made("/refunds", partner.effects["charge killed_2"]["id"])

        wait_until(undoing)
        for pid in pids:
            kill(pid)
        partner.open.set()
        undone = service.ends(task, within=90)
    finally:
        partner.open.set()
        partner.refuses.clear()
    assert undone["compensations"] == ["payment", "inventory"]
    assert free_books(service) == left
    charge = partner.effects["charge killed_2"]["id"]
    assert len(partner.made("/refunds", charge)) == 1


def test_the_migrations_are_those_of_the_models(service: Service, tmp_path: Path) -> None:
    # Without the embedded Postgres that somebody may have started there by hand.
    ours = shutil.ignore_patterns(".fastedgy", "__pycache__")
    copy = shutil.copytree(SERVICE, tmp_path / "service", ignore=ours)
    said = shell("fastedgy db makemigrations -m nothing", copy, service.env)
    assert "Nothing to write" in said
