"""Registration with e-mail verification: with healthy services, and with each of them failing."""

from __future__ import annotations

import logging

import pytest
from city import MOODS
from served import Example

from fastedgy.testing import wait_for_tasks

EXAMPLE = "registration"
MAIL, ANALYTICS, SLACK = "api.email-service.com", "analytics.internal", "hooks.slack.com"
ADA = {"email": "ada@example.org", "password": "secret", "name": "Ada"}


def register(example: Example) -> None:
    answer = example.site.post("/register", json=ADA)
    assert answer.status_code == 200
    assert answer.json()["user_id"] == 1
    wait_for_tasks(example.module.app)


def test_a_user_registers_and_verifies_the_address(example: Example) -> None:
    register(example)
    [mail] = example.city[MAIL].bodies
    assert (mail["to"], mail["template"]) == ("ada@example.org", "email_verification")
    token = mail["data"]["verification_url"].rpartition("=")[2]

    answer = example.site.post("/verify", params={"token": token})
    assert answer.json() == {"message": "Email verified successfully"}
    wait_for_tasks(example.module.app)
    assert [mail["template"] for mail in example.city[MAIL].bodies][1:] == ["welcome"]
    events = [body["event"] for body in example.city[ANALYTICS].bodies]
    assert events == ["user_registered", "email_verified"]
    assert example.rows("SELECT verified FROM users") == [(1,)]

    again = example.site.post("/verify", params={"token": token})
    assert again.status_code == 400
    wait_for_tasks(example.module.app)
    assert len(example.city[MAIL].bodies) == 2


@pytest.mark.parametrize("mood", MOODS)
def test_a_mail_that_fails_is_sent_again_after_a_back_off(example: Example, mood: str) -> None:
    mail = example.city[MAIL]
    mail.mood, mail.failures_left = mood, 2
    register(example)
    assert len(mail.asked) == 3
    assert example.pauses == [1, 2]
    assert example.alerts == []


@pytest.mark.parametrize("mood", MOODS)
def test_a_mail_that_fails_for_good_alerts(
    example: Example, mood: str, caplog: pytest.LogCaptureFixture
) -> None:
    example.city[MAIL].mood = mood
    register(example)
    assert len(example.city[MAIL].asked) == 4
    assert example.pauses == [1, 2, 4]
    assert "Email task failed after 3 retries" in caplog.text
    assert len(example.alerts) == 1
    assert example.alerts[0].startswith("Email delivery failed")


@pytest.mark.parametrize("mood", ["times out", "hangs up"])
def test_analytics_that_are_away_touch_nothing_else(
    example: Example, mood: str, caplog: pytest.LogCaptureFixture
) -> None:
    example.city[ANALYTICS].mood = mood
    register(example)
    assert len(example.city[MAIL].asked) == 1
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert ["track_user_event" in record.getMessage() for record in failures] == [True]
