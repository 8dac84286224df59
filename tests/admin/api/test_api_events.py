"""Server-sent events: what is sent, to whom, and after a break."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import panel_tasks
import pytest
from helpers import NO_TLS, eventually
from panels import API, READ, Panel, Work, bearer

from fastedgy.admin import following, live
from fastedgy.admin.live import Live
from fastedgy.database import connect
from fastedgy.dependencies import get_service


@dataclass
class Event:
    id: str
    event: str
    data: Any


class Stream:
    """A client of a stream. `events`: what has come so far."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.over = asyncio.Event()
        self.following: asyncio.Task[None] | None = None

    def of(self, *kinds: str) -> list[Any]:
        return [event.data for event in self.events if event.event in kinds]

    async def has(self, kind: str, number: int = 1) -> Any:
        """Wait until so many events of a kind are there; the last of them."""

        def check() -> Any:
            if self.following is not None and self.following.done():
                self.following.result()
            assert len(self.of(kind)) >= number, self.events[-5:]
            return self.of(kind)[-1]

        return await eventually(check)


@asynccontextmanager
async def stream(site: str, path: str, after: str | None = None) -> AsyncIterator[Stream]:
    """Follow a path until the block ends."""
    client = httpx.AsyncClient(base_url=site, headers=bearer(READ), timeout=30, verify=NO_TLS)
    headers = {"Last-Event-ID": after} if after else {}
    made = Stream()

    async def follow() -> None:
        async with client.stream("GET", API + path, headers=headers) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            fields: dict[str, str] = {}
            async for line in answer.aiter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif "event" in fields:
                    made.events.append(
                        Event(fields["id"], fields["event"], json.loads(fields["data"]))
                    )
                    fields = {}
            made.over.set()

    made.following = asyncio.create_task(follow())
    try:
        yield made
    finally:
        made.following.cancel()
        await asyncio.gather(made.following, return_exceptions=True)
        await client.aclose()


def messages(lines: list[Any]) -> list[str]:
    return [line["message"] for line in lines]


async def added(panel: Panel, func: Any, *args: Any) -> UUID:
    return await panel.tasks.add_task(func, *args).get_task_id()


async def test_a_task_is_followed_to_its_result(panel: Panel, work: Work) -> None:
    id = await added(panel, panel_tasks.talk, 2, "door")
    async with panel.served() as site, stream(site, f"/tasks/{id}/events") as seen:
        assert (await seen.has("state"))["state"] == "enqueued"
        async with work():
            await seen.has("log", 2)
            await eventually(lambda: _assert_last(seen.of("state"), "doing"))
            panel_tasks.gates["door"].set()
            await asyncio.wait_for(seen.over.wait(), 30)

    assert messages(seen.of("log")) == ["before 0", "before 1", "after 0", "after 1"]
    assert seen.of("progress")[-1] == {"context": {"progress": 100}}
    assert seen.of("state")[-1]["state"] == "done"
    assert seen.of("result")[-1]["result"] == "said"


def _assert_last(states: list[Any], word: str) -> None:
    assert [state["state"] for state in states[-1:]] == [word]


async def test_news_come_by_notification_and_not_only_by_looking(
    panel: Panel, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK", 600.0)
    id = await added(panel, panel_tasks.talk, 1, "door")
    async with panel.served() as site, work(), stream(site, f"/tasks/{id}/events") as seen:
        await eventually(lambda: _assert_last(seen.of("state"), "doing"))
        panel_tasks.gates["door"].set()
        assert (await seen.has("result"))["state"] == "done"


async def test_who_comes_back_gets_what_was_missed_and_nothing_twice(
    panel: Panel, work: Work
) -> None:
    id = await added(panel, panel_tasks.talk, 3, "door")
    async with panel.served() as site, work():
        async with stream(site, f"/tasks/{id}/events") as first:
            await first.has("log", 3)
        panel_tasks.gates["door"].set()
        await eventually(lambda: _assert_done(panel, id))
        last = first.events[-1].id
        async with stream(site, f"/tasks/{id}/events", after=last) as second:
            await asyncio.wait_for(second.over.wait(), 30)

    lines = messages(first.of("log")) + messages(second.of("log"))
    assert lines == [f"before {n}" for n in range(3)] + [f"after {n}" for n in range(3)]
    assert second.of("result")[0]["result"] == "said"


async def _assert_done(panel: Panel, id: UUID) -> None:
    assert (await panel.admin.get_task_details(id)).state == "done"


async def test_who_breaks_off_after_every_event_misses_nothing(panel: Panel, work: Work) -> None:
    id = await added(panel, panel_tasks.talk, 5)
    async with panel.served() as site, work():
        await eventually(lambda: _assert_done(panel, id))
        lines: list[str] = []
        last: str | None = None
        while len(lines) < 10:
            async with stream(site, f"/tasks/{id}/events", after=last) as seen:
                await eventually(lambda: _assert_any(seen))
                first = seen.events[0]
                assert first.event == "log"
                lines.append(first.data["message"])
                last = first.id

    assert lines == [f"before {n}" for n in range(5)] + [f"after {n}" for n in range(5)]


def _assert_any(seen: Stream) -> None:
    assert seen.events


async def test_earlier_attempts_are_told_once(panel: Panel, work: Work) -> None:
    id = await added(panel, panel_tasks.fail)
    async with panel.served() as site, work(), stream(site, f"/tasks/{id}/events") as seen:
        assert (await seen.has("result"))["error_type"] == "ValueError"
        async with stream(site, f"/tasks/{id}/events", after=seen.events[-1].id) as again:
            await again.has("result")

    [attempt] = seen.of("attempt")
    assert (attempt["run"], attempt["what"]) == (1, "retry")
    assert again.of("attempt", "log") == []


async def test_a_large_result_is_named_and_not_sent(panel: Panel, work: Work) -> None:
    id = await added(panel, panel_tasks.large)
    async with panel.served() as site, work(), stream(site, f"/tasks/{id}/events") as seen:
        result = await seen.has("result")

    assert result["result"] is None
    assert result["result_left_out"] is True


async def test_a_slow_reader_is_told_all_from_where_it_was(
    panel: Panel, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "BUFFER", 10)
    id = await added(panel, panel_tasks.talk, 300)
    async with work():
        await eventually(lambda: _assert_done(panel, id))
    chunks = [chunk async for chunk in get_service(Live).follow_task(id)]
    lines = [event for event in b"".join(chunks).split(b"\n\n") if b"event: log" in event]

    assert len(lines) == 600
    numbers = [json.loads(line.split(b"data: ")[1])["seq"] for line in lines]
    assert numbers == sorted(set(numbers))


async def test_all_streams_share_one_connection_and_one_read(panel: Panel, work: Work) -> None:
    ids = [await added(panel, panel_tasks.talk, 1, "door") for _ in range(10)]
    paths = [f"/tasks/{id}/events" for id in ids * 4]
    async with panel.served() as site, work(), _all(site, paths) as streams:
        for one in streams:
            await one.has("log")
        reads = get_service(Live).reads
        panel_tasks.gates["door"].set()
        for one in streams:
            await one.has("result")
        listeners = await _listeners(panel)

    assert listeners == 1
    assert get_service(Live).reads - reads <= 10
    assert get_service(Live).followers == 0


@asynccontextmanager
async def _all(site: str, paths: list[str]) -> AsyncIterator[list[Stream]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(stream(site, path)) for path in paths]


async def _listeners(panel: Panel) -> int:
    connection = await connect(panel.url)
    try:
        number: int = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'fastedgy events'"
        )
        return number
    finally:
        await connection.close()


async def test_the_queue_is_followed_by_summaries_and_overviews(panel: Panel, work: Work) -> None:
    async with panel.served() as site, work() as worker, stream(site, "/events") as seen:
        await eventually(lambda: _assert_active(worker))
        ids = [await added(panel, panel_tasks.add, number) for number in range(3)]
        await eventually(lambda: _assert_ended(seen, 3))
        overview = await seen.has("overview")

    named = [task for summary in seen.of("tasks") for task in summary["tasks"]]
    assert {(task["id"], task["state"]) for task in named} >= {(str(id), "done") for id in ids}
    assert named[0]["name"] == "panel_tasks.add"
    assert overview["states"]["counts"].keys() >= {"done", "enqueued"}


def _assert_active(worker: Any) -> None:
    assert worker.parts.telling.active


def _assert_ended(seen: Stream, number: int) -> None:
    assert sum(summary["ended"].get("done", 0) for summary in seen.of("tasks")) == number


async def test_who_comes_back_to_the_queue_gets_the_summaries_in_between(
    panel: Panel, work: Work
) -> None:
    async with panel.served() as site, work() as worker:
        async with stream(site, "/events") as first:
            await first.has("overview")
            await eventually(lambda: _assert_active(worker))
        await added(panel, panel_tasks.add, 1)
        await eventually(lambda: _assert_remembered(b'"done":1'))
        async with stream(site, "/events", after=first.events[-1].id) as second:
            await eventually(lambda: _assert_ended(second, 1))
        async with stream(site, "/events", after="otherprocess-7") as third:
            await third.has("reset")
            await third.has("overview")

    assert "reset" not in [event.event for event in second.events]


def _assert_remembered(text: bytes) -> None:
    assert any(text in data for _, data in get_service(Live)._line._messages)


async def test_a_lost_listener_comes_back_and_says_that_something_may_be_missing(
    panel: Panel, connection: asyncpg.Connection
) -> None:
    async with panel.served() as site, stream(site, "/events") as seen:
        await seen.has("overview")
        await eventually(lambda: _assert_listening(listening=True))
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
            " datname = current_database() AND application_name = 'fastedgy events'"
        )
        await seen.has("reset")
        await eventually(lambda: _assert_listening(listening=True))


def _assert_listening(*, listening: bool) -> None:
    assert get_service(Live).listening is listening


async def test_a_task_that_is_not_there_is_no_stream(panel: Panel) -> None:
    answer = await panel.reader.get(f"{API}/tasks/01975c1e-8f3a-7b52-9c1d-2f6e0a4b7c11/events")

    assert answer.status_code == 404
    assert answer.json()["code"] == "TaskNotFound"


async def test_a_task_that_is_deleted_ends_its_stream(panel: Panel) -> None:
    id = await added(panel, panel_tasks.add, 1)
    async with panel.served() as site, stream(site, f"/tasks/{id}/events") as seen:
        await seen.has("state")
        assert await panel.admin.cancel(id, actor="ann")
        await seen.has("result")
        assert await panel.admin.delete(id, actor="ann")
        async with stream(site, "/events"):
            pass

    assert seen.of("result")[0]["state"] == "cancelled"


async def test_there_is_an_end_to_the_number_of_streams(
    panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST_FOLLOWERS", 0)
    answer = await panel.reader.get(f"{API}/events")

    assert answer.status_code == 503
    assert answer.json()["code"] == "TooManyFollowers"


async def test_without_notifications_tasks_are_looked_at(
    panel: Panel, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel.tasks.config, "use_postgresql_notify", False)
    id = await added(panel, panel_tasks.add, 1)
    async with panel.served() as site, stream(site, f"/tasks/{id}/events") as seen:
        await seen.has("state")
        async with work():
            assert (await seen.has("result"))["result"] == 2
