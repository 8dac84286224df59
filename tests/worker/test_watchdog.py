"""The watchdog alone: whom it takes for the blocker where nobody can tell."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from fastedgy.worker.counters import Counters
from fastedgy.worker.watchdog import Watchdog


async def test_a_process_that_stood_still_is_not_taken_for_a_blocked_loop() -> None:
    it = SimpleNamespace(label="a task", deadline=0.0, cancelling=None)
    executor: Any = SimpleNamespace(current=lambda: None, late=lambda since: [it])
    calls: list[str] = []
    watchdog = Watchdog(
        asyncio.get_running_loop(), executor, Counters(),
        on_blocked=lambda: calls.append("blocked"), on_hung=lambda: calls.append("hung"),
    )  # fmt: skip
    began = watchdog._mark
    watchdog.look(began + 0.5)

    watchdog.look(began + 100)  # it goes on, and the loop had no turn yet
    assert (calls, it.cancelling) == (["blocked"], None)

    for step in range(1, 30):  # it goes on, and the loop does not
        watchdog.look(began + 100 + step / 2)
    assert (calls, it.cancelling) == (["blocked", "hung"], "timeout")
