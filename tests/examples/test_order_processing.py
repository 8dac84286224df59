"""Order processing: with healthy services, and with each of them failing."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
import sentry_sdk
from city import MOODS
from helpers import wait_until
from served import Example

from fastedgy.testing import wait_for_tasks

EXAMPLE = "order_processing"
PAYMENT, MAIL = "api.payment-gateway.com", "api.email-service.com"
WAREHOUSE, ANALYTICS, SLACK = "warehouse-api.internal", "analytics.internal", "hooks.slack.com"
ORDER = {
    "user_id": 7,
    "email": "ada@example.org",
    "payment_token": "tok_1",
    "items": [
        {"product_id": 1, "quantity": 2, "price": 9.5},
        {"product_id": 2, "quantity": 1, "price": 1.0},
    ],
}


@pytest.fixture(autouse=True)
def stocked(example: Example) -> None:
    example.db._connection.execute("INSERT INTO inventory VALUES (1, 10, 0), (2, 10, 0)")


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What was sent to Sentry."""
    errors: list[BaseException] = []
    monkeypatch.setattr(sentry_sdk, "capture_exception", errors.append)
    return errors


def post(example: Example) -> httpx.Response:
    answer = example.site.post("/orders", json=ORDER)
    wait_for_tasks(example.module.app)
    return answer


def test_an_order_goes_through_all_services(example: Example) -> None:
    answer = post(example)

    assert answer.json() == {"order_id": 12345, "status": "processing", "total": 20.0}
    [payment] = example.city[PAYMENT].bodies
    assert (payment["amount"], payment["metadata"]) == (20.0, {"order_id": 12345})
    assert example.rows("SELECT product_id, reserved FROM inventory") == [(1, 2), (2, 1)]
    assert len(example.rows("SELECT * FROM reservations")) == 1
    [mail] = example.city[MAIL].bodies
    assert (mail["to"], mail["data"]["total"]) == ("ada@example.org", 20.0)
    [shipment] = example.city[WAREHOUSE].bodies
    assert shipment["items"] == [{"sku": 1, "qty": 2}, {"sku": 2, "qty": 1}]
    [event] = example.city[ANALYTICS].bodies
    assert event["event"] == "order_created"
    assert example.alerts == []


@pytest.mark.parametrize("mood", MOODS)
def test_a_failing_payment_marks_the_order_and_alerts(
    example: Example, mood: str, captured: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: list[Any] = []

    async def update(order_id: int, status: str) -> None:
        statuses.append((order_id, status))

    monkeypatch.setattr(example.module, "update_order_status", update)
    example.city[PAYMENT].mood = mood
    answer = post(example)

    assert answer.status_code == 200
    assert statuses == [(12345, "payment_failed")]
    [alert] = example.alerts
    assert alert.startswith("Payment failed for order 12345")
    assert len(captured) == 1
    assert len(example.city[MAIL].bodies) == 1  # its neighbours go on


def test_a_failing_alert_harms_nothing(
    example: Example, captured: list[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    example.city[PAYMENT].mood = example.city[SLACK].mood = "fails"
    assert post(example).status_code == 200
    assert "The error handler of the in-process task payment_12345 failed" in caplog.text
    assert len(example.city[WAREHOUSE].bodies) == 1


def test_too_little_stock_is_undone_as_a_whole(
    example: Example, caplog: pytest.LogCaptureFixture
) -> None:
    example.db._connection.execute("UPDATE inventory SET available = 0 WHERE product_id = 2")
    assert post(example).status_code == 200
    assert "Insufficient inventory for product 2" in caplog.text
    assert example.rows("SELECT product_id, reserved FROM inventory") == [(1, 0), (2, 0)]
    assert example.rows("SELECT * FROM reservations") == []


@pytest.mark.parametrize("mood", ["times out", "hangs up"])
@pytest.mark.parametrize("service", [MAIL, WAREHOUSE, ANALYTICS])
def test_a_service_that_is_away_touches_neither_the_response_nor_the_others(
    example: Example, service: str, mood: str, caplog: pytest.LogCaptureFixture
) -> None:
    example.city[service].mood = mood
    assert post(example).status_code == 200
    asked = [len(example.city[name].asked) for name in (PAYMENT, MAIL, WAREHOUSE, ANALYTICS)]
    assert asked == [1, 1, 1, 1]
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(failures) == 1


def test_a_late_payment_does_not_hold_up_the_response(example: Example) -> None:
    example.city[PAYMENT].mood = "is late"
    answer = example.site.post("/orders", json=ORDER)
    assert answer.json()["status"] == "processing"
    wait_for_tasks(example.module.app)
    assert example.alerts == []


def test_a_payment_under_way_is_finished_although_the_server_stops(
    example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid: list[Any] = []
    process = example.module.process_payment

    async def pay(**payment: Any) -> None:
        paid.append(await process(**payment))

    monkeypatch.setattr(example.module, "process_payment", pay)
    example.city[PAYMENT].mood = "is late"
    example.site.post("/orders", json=ORDER)

    def asked() -> None:
        assert example.city[PAYMENT].asked

    wait_until(asked)
    example.site.stop()
    assert paid == [{"ok": True}]
