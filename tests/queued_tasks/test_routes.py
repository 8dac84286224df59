"""Routes: when their tasks are written, in how many round trips, and when they are not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from mail_samples import digest, later, report, send
from proxy import Proxy
from rows import count, states

from fastedgy.app import FastEdgy, install_queue
from fastedgy.dependencies import Inject, get_service
from fastedgy.errors import ParentNotFound, TaskNotFound
from fastedgy.ids import new_id
from fastedgy.queued_tasks import QueuedTasks

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


def application(**routes: Any) -> FastEdgy:
    """An application with these functions as its routes."""
    app = FastEdgy()
    for name, route in routes.items():
        app.post(f"/{name}")(route)
    return app


async def add_hundred(tasks: QueuedTasks = Inject(QueuedTasks)) -> dict[str, int]:
    refs = [tasks.add_task(send, f"{number}@example.org") for number in range(100)]
    return {"added": len(refs)}


async def add_mixture(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
    first = tasks.add_task(send, "a")
    for number in range(49):
        tasks.task(priority=number % 3, queue=f"q{number % 5}").add_task(report, number)
        tasks.task(delay=number + 1.0).add_task(send, "b", parent=first)
    tasks.add_task(later)


async def test_a_route_that_returned_has_written_its_tasks(
    serve: Serve, connection: asyncpg.Connection
) -> None:
    async with serve(application(hundred=add_hundred)) as client:
        response = await client.post("/hundred")

    assert (response.status_code, response.json()) == (200, {"added": 100})
    assert await count(connection, "function = 'mail_samples:send'") == 100


@pytest.mark.parametrize("route", [add_hundred, add_mixture], ids=lambda route: route.__name__)
async def test_a_hundred_tasks_of_one_route_cost_one_round_trip(
    serve: Serve, connection: asyncpg.Connection, wire: Proxy, route: Any
) -> None:
    async with serve(application(route=route), wire.url) as client:
        await client.post("/route")  # opens the connection and prepares the statement
        await connection.execute("DELETE FROM queued_tasks")
        wire.reset()
        opened = wire.opened

        response = await client.post("/route")

        assert response.status_code == 200
        assert (wire.round_trips, wire.opened) == (1, opened)
        [statement] = wire.statements
        assert "INSERT INTO queued_tasks" in statement
    # The server agrees: one transaction with one statement in it.
    rows = await connection.fetch("SELECT DISTINCT xmin::text, cmin::text FROM queued_tasks")
    assert (len(rows), await count(connection)) == (1, 100)


async def test_a_route_that_adds_nothing_costs_nothing(serve: Serve, wire: Proxy) -> None:
    async def idle(tasks: QueuedTasks = Inject(QueuedTasks)) -> None: ...

    async with serve(application(idle=idle), wire.url) as client:
        wire.reset()
        await client.post("/idle")
        assert wire.round_trips == 0


async def test_tasks_are_written_before_the_response_is_sent(
    serve: Serve, connection: asyncpg.Connection
) -> None:
    async def stream(tasks: QueuedTasks = Inject(QueuedTasks)) -> StreamingResponse:
        tasks.add_task(send, "a")

        async def body() -> AsyncIterator[str]:
            yield str(await count(connection))

        return StreamingResponse(body())

    async with serve(application(stream=stream)) as client:
        assert (await client.post("/stream")).text == "1"


async def test_a_sync_route_adds_tasks(serve: Serve, connection: asyncpg.Connection) -> None:
    def plain(tasks: QueuedTasks = Inject(QueuedTasks)) -> dict[str, str]:
        tasks.add_tasks(send, [("a",), ("b",)])
        return {"id": str(tasks.add_task(send, "c").id)}

    async with serve(application(plain=plain)) as client:
        response = await client.post("/plain")

    assert response.status_code == 200
    assert await count(connection, "id = $1", UUID(response.json()["id"])) == 1
    assert await count(connection) == 3


async def test_a_sync_route_that_raises_writes_nothing(
    serve: Serve, connection: asyncpg.Connection
) -> None:
    def plain(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        tasks.add_task(send, "a")
        raise ValueError

    async with serve(application(plain=plain)) as client:
        assert (await client.post("/plain")).status_code == 500

    assert await count(connection) == 0


async def test_dependencies_and_helpers_write_with_their_route(
    serve: Serve, connection: asyncpg.Connection, wire: Proxy
) -> None:
    async def helper() -> None:
        get_service(QueuedTasks).add_task(send, "helper")

    def audit(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        tasks.add_task(send, "audit")

    async def route(tasks: QueuedTasks = Inject(QueuedTasks), _: None = Depends(audit)) -> None:
        tasks.add_task(send, "route")
        await helper()
        await asyncio.create_task(helper())

    async with serve(application(route=route), wire.url) as client:
        await client.post("/route")
        wire.reset()
        await client.post("/route")
        assert wire.round_trips == 1

    assert await count(connection) == 8


async def test_a_plain_application_can_use_the_queue(
    serve: Serve, connection: asyncpg.Connection
) -> None:
    app = FastAPI()
    install_queue(app)
    router = APIRouter()

    @router.post("/add")
    async def add(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        tasks.add_task(send, "a")

    @router.post("/add_by_hand")
    async def add_by_hand() -> None:
        get_service(QueuedTasks).add_task(send, "a")
        raise HTTPException(404)

    app.include_router(router)
    async with serve(app) as client:
        assert (await client.post("/add")).status_code == 200
        assert (await client.post("/add_by_hand")).status_code == 404

    assert await count(connection) == 1


# Nothing is written


@pytest.mark.parametrize(
    "error", [ValueError("no"), HTTPException(422), HTTPException(202), KeyError()], ids=repr
)
async def test_a_route_that_raises_writes_nothing(
    serve: Serve, connection: asyncpg.Connection, error: Exception
) -> None:
    async def fails(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        tasks.add_task(send, "a")
        raise error

    async with serve(application(fails=fails)) as client:
        await client.post("/fails")

    assert await count(connection) == 0


async def test_a_route_that_returns_an_error_status_has_returned(
    serve: Serve, connection: asyncpg.Connection
) -> None:
    async def sorry(tasks: QueuedTasks = Inject(QueuedTasks)) -> JSONResponse:
        tasks.add_task(send, "a")
        return JSONResponse({}, 409)

    async with serve(application(sorry=sorry)) as client:
        assert (await client.post("/sorry")).status_code == 409

    assert await count(connection) == 1


async def test_a_parent_that_does_not_exist_fails_the_route_and_writes_nothing(
    serve: Serve, connection: asyncpg.Connection
) -> None:
    async def adopt(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        tasks.add_task(send, "a")
        tasks.add_task(send, "b", parent=new_id())

    app = application(adopt=adopt)
    errors: list[Exception] = []

    @app.exception_handler(ParentNotFound)
    async def not_found(_: object, error: Exception) -> JSONResponse:
        errors.append(error)
        return JSONResponse({}, 404)

    async with serve(app) as client:
        assert (await client.post("/adopt")).status_code >= 400

    assert await count(connection) == 0


@pytest.mark.parametrize("kind", [FastEdgy, FastAPI])
async def test_a_task_that_is_not_there_is_a_404_with_the_reason(
    serve: Serve, connection: asyncpg.Connection, kind: type[FastAPI]
) -> None:
    async def look(id: str, tasks: QueuedTasks = Inject(QueuedTasks)) -> str:
        tasks.add_task(send, "never")
        return await tasks.ref(id).get_state()

    app = kind()
    if kind is FastAPI:
        install_queue(app)
    app.get("/look")(look)
    async with serve(app) as client:
        for id in (str(new_id()), "zzz"):
            answer = await client.get("/look", params={"id": id})
            assert answer.status_code == 404
            assert id in answer.json()["detail"]

    assert await count(connection) == 0


@pytest.mark.parametrize("given", [True, False], ids=["given", "added"])
async def test_a_handler_of_the_applications_own_answers_instead(serve: Serve, given: bool) -> None:
    async def look(tasks: QueuedTasks = Inject(QueuedTasks)) -> str:
        return await tasks.ref(new_id()).get_state()

    async def gone(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({}, 410)

    app = FastEdgy(exception_handlers={TaskNotFound: gone} if given else None)
    if not given:
        app.exception_handler(TaskNotFound)(gone)
    app.get("/look")(look)
    async with serve(app) as client:
        assert (await client.get("/look")).status_code == 410


async def test_a_websocket_that_cannot_answer_404_raises(serve: Serve) -> None:
    app = FastEdgy()

    @app.websocket("/look")
    async def look(socket: WebSocket) -> None:
        await socket.accept()
        await get_service(QueuedTasks).ref(new_id()).get_state()

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def reply(_: Any) -> None:
        """Sent to nobody."""

    scope = {"type": "websocket", "path": "/look", "query_string": b"", "headers": []}
    async with serve(app):
        with pytest.raises(TaskNotFound):
            await app(scope, receive, reply)


async def test_what_was_written_by_hand_stays_when_the_route_raises(
    serve: Serve, connection: asyncpg.Connection
) -> None:
    async def half(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        await tasks.add_task(send, "kept")
        tasks.add_task(send, "dropped")
        raise ValueError

    async with serve(application(half=half)) as client:
        assert (await client.post("/half")).status_code == 500

    assert await connection.fetchval("SELECT args ->> 0 FROM queued_tasks") == "kept"
    assert await count(connection) == 1


async def test_requests_at_once_keep_their_tasks_apart(
    serve: Serve, connection: asyncpg.Connection
) -> None:
    async def some(number: int, tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        tasks.add_task(report, number)
        await asyncio.sleep(0)
        tasks.add_task(report, number)
        if number % 2:
            raise HTTPException(400)

    async with serve(application(some=some)) as client:
        await asyncio.gather(*(client.post("/some", params={"number": n}) for n in range(20)))

    rows = await connection.fetch("SELECT (args ->> 0)::integer AS number FROM queued_tasks")
    assert sorted(row["number"] for row in rows) == sorted(2 * list(range(0, 20, 2)))


# The database is away


async def test_a_route_fails_when_the_database_is_down(
    serve: Serve, connection: asyncpg.Connection, wire: Proxy
) -> None:
    async with serve(application(add=add_hundred), wire.url, enqueue_timeout=0.3) as client:
        assert (await client.post("/add")).status_code == 200
        await wire.close()
        response = await client.post("/add")
        await wire.open()
        assert (await client.post("/add")).status_code == 200

    assert response.status_code == 500
    assert await count(connection) == 200


async def test_a_short_outage_only_delays_the_response(
    serve: Serve, connection: asyncpg.Connection, wire: Proxy
) -> None:
    async with serve(application(add=add_hundred), wire.url) as client:
        await client.post("/add")
        await wire.close()
        waiting = asyncio.create_task(client.post("/add"))
        await asyncio.wait({waiting}, timeout=0.2)
        assert not waiting.done()
        await wire.open()
        assert (await waiting).status_code == 200

    assert await count(connection) == 200


async def test_all_backends_terminated_between_two_requests_go_unnoticed(
    serve: Serve, connection: asyncpg.Connection
) -> None:
    async with serve(application(add=add_hundred)) as client:
        await client.post("/add")
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert (await client.post("/add")).status_code == 200

    assert await count(connection) == 200


@pytest.mark.parametrize("route", [add_hundred, add_mixture], ids=lambda route: route.__name__)
async def test_an_insert_whose_answer_is_lost_is_repeated_and_written_once(
    serve: Serve, connection: asyncpg.Connection, wire: Proxy, route: Any
) -> None:
    async with serve(application(add=route), wire.url) as client:
        wire.lose_answer("INSERT INTO queued_tasks")
        assert (await client.post("/add")).status_code == 200
        assert wire.lost == 1

    assert await count(connection) == 100


async def test_a_keyed_insert_whose_answer_is_lost_still_knows_its_own_row(
    serve: Serve, connection: asyncpg.Connection, wire: Proxy
) -> None:
    async def add(tasks: QueuedTasks = Inject(QueuedTasks)) -> str:
        return str(await tasks.add_task(digest, 1).get_task_id())

    async with serve(application(add=add), wire.url) as client:
        wire.lose_answer("INSERT INTO queued_tasks")
        first = (await client.post("/add")).json()
        second = (await client.post("/add")).json()

    assert wire.lost == 1
    assert first == second
    assert await count(connection, "id = $1", UUID(first)) == 1


# Across requests


async def test_a_ref_is_cancelled_with_the_route_that_cancels_it(
    serve: Serve, connection: asyncpg.Connection
) -> None:
    kept: list[Any] = []

    async def add(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        kept.append(tasks.add_task(send, "a"))

    async def cancel(fail: bool = False, _: QueuedTasks = Inject(QueuedTasks)) -> None:
        kept[0].cancel("not needed")
        if fail:
            raise ValueError

    async with serve(application(add=add, cancel=cancel)) as client:
        await client.post("/add")
        await client.post("/cancel", params={"fail": True})
        assert await states(connection) == ["enqueued"]
        await client.post("/cancel")
        assert await states(connection) == ["cancelled"]


async def test_a_task_that_is_cancelled_by_its_own_route_is_never_written(
    serve: Serve, connection: asyncpg.Connection
) -> None:
    async def change_of_mind(tasks: QueuedTasks = Inject(QueuedTasks)) -> str:
        ref = tasks.add_task(send, "a")
        tasks.add_task(send, "child", parent=ref)
        ref.cancel()
        tasks.add_task(send, "b")
        return await ref.get_state()

    async with serve(application(route=change_of_mind)) as client:
        assert (await client.post("/route")).json() == "cancelled"

    assert await connection.fetchval("SELECT args ->> 0 FROM queued_tasks") == "b"
    assert await count(connection) == 1


async def test_a_task_added_in_a_closed_transaction_is_announced_as_late(
    serve: Serve, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastEdgy()

    @app.post("/late")
    async def late(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        async with app.database.transaction(isolation_level="READ_COMMITTED"):
            tasks.add_task(send, "a")

    @app.post("/fine")
    async def fine(tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
        async with app.database.transaction(isolation_level="READ_COMMITTED"):
            tasks.add_task(send, "a")
            await tasks.flush()
        tasks.add_task(send, "b")

    with caplog.at_level(logging.WARNING, logger="fastedgy.queued_tasks"):
        async with serve(app) as client:
            assert (await client.post("/fine")).status_code == 200
            assert caplog.messages == []
            assert (await client.post("/late")).status_code == 200

    [warning] = caplog.messages
    assert "mail_samples.send" in warning
    assert "await tasks.flush()" in warning
    assert await count(connection) == 3
