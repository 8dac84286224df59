"""Analytics events: batches of ten, a database when nobody takes them, and an alert after that."""

from __future__ import annotations

import asyncio

import pytest
from city import MOODS
from served import Example

from fastedgy.testing import wait_for_tasks

EXAMPLE = "analytics"
BATCHES, SLACK = "analytics.example.com", "hooks.slack.com"


@pytest.fixture(autouse=True)
def empty(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    example.module.event_buffer.clear()
    monkeypatch.setattr(example.module, "buffer_lock", asyncio.Lock())


def track(example: Example, number: int, user: int = 7) -> None:
    for index in range(number):
        answer = example.site.post(
            "/track", params={"event": "click", "user_id": user}, json={"index": index}
        )
        assert answer.json() == {"status": "tracked"}
    wait_for_tasks(example.module.app)


def test_ten_events_go_out_together(example: Example) -> None:
    track(example, 9)
    assert example.city[BATCHES].asked == []
    track(example, 1)
    [batch] = example.city[BATCHES].bodies
    assert [event["properties"]["index"] for event in batch["events"]] == [*range(9), 0]
    assert example.rows("SELECT * FROM analytics_events") == []


def test_each_user_has_a_batch_of_their_own(example: Example) -> None:
    track(example, 10, user=1)
    track(example, 5, user=2)
    assert len(example.city[BATCHES].asked) == 1


@pytest.mark.parametrize("mood", MOODS)
def test_events_that_nobody_takes_are_kept_in_the_database(
    example: Example, mood: str, caplog: pytest.LogCaptureFixture
) -> None:
    example.city[BATCHES].mood = mood
    track(example, 10)
    assert len(example.rows("SELECT * FROM analytics_events WHERE user_id = 7")) == 10
    assert "Analytics service failed, saved 10 events to DB" in caplog.text
    assert example.alerts == []


def test_a_late_answer_is_an_answer(example: Example) -> None:
    example.city[BATCHES].mood = "is late"
    track(example, 10)
    assert example.rows("SELECT * FROM analytics_events") == []


def test_when_the_database_fails_too_somebody_is_told(example: Example) -> None:
    example.city[BATCHES].mood = "fails"
    example.db._connection.execute("DROP TABLE analytics_events")
    track(example, 10)
    [alert] = example.alerts
    assert "Analytics pipeline failed completely" in alert
    assert "Lost 10 events" in alert
