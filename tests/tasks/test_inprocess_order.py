"""The order of the moments, seen from the client's side on real sockets."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse, StreamingResponse
from helpers import wait_until
from serving import Site, serving

from fastedgy.tasks import Tasks, add_tasks

BLOCK = 0.05
"""Seconds for which a first statement holds up the event loop: had the bytes left before it (or not
left yet), the client would see them on the other side of its end."""

stamps: dict[str, float] = {}


async def stamp(name: str) -> None:
    time.sleep(BLOCK)
    stamps[name] = time.monotonic()


def stamp_in_thread(name: str) -> None:
    stamps[name] = time.monotonic()


def schedule_all(tasks: Tasks) -> None:
    tasks.after_response.schedule(stamp, "after_response")
    tasks.after_route.schedule(stamp, "after_route")
    tasks.schedule(stamp, "now")


def answer(kind: str) -> object:
    if kind == "response":
        return JSONResponse({"kind": kind})
    if kind == "error":
        return JSONResponse({"kind": kind}, status_code=503)
    if kind == "stream":

        async def stream() -> AsyncIterator[str]:
            for name in ("first", "second", "third"):
                stamps[f"chunk {name}"] = time.monotonic()
                yield f"{name}\n"

        return StreamingResponse(stream())
    if kind == "raise":
        raise HTTPException(409)
    if kind == "crash":
        raise RuntimeError("the route crashes")
    return {"kind": kind}


def scheduled_in_dependency(tasks: Tasks) -> None:
    schedule_all(tasks)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    app = FastAPI()
    add_tasks(app)

    @app.get("/async/{kind}")
    async def in_loop(kind: str, tasks: Tasks) -> object:
        schedule_all(tasks)
        stamps["route end"] = time.monotonic()
        return answer(kind)

    @app.get("/sync/{kind}")
    def in_thread(kind: str, tasks: Tasks) -> object:
        schedule_all(tasks)
        stamps["route end"] = time.monotonic()
        return answer(kind)

    @app.get("/dependency/{kind}", dependencies=[Depends(scheduled_in_dependency)])
    async def in_dependency(kind: str) -> object:
        stamps["route end"] = time.monotonic()
        return answer(kind)

    @app.get("/threads")
    async def threads(tasks: Tasks) -> None:
        tasks.after_route.schedule(stamp_in_thread, "thread after_route")
        tasks.after_response.schedule(stamp_in_thread, "thread after_response")

    with serving(app) as site:
        yield site


@pytest.fixture(autouse=True)
def fresh() -> None:
    stamps.clear()


def all_ran(*names: str) -> None:
    def check() -> None:
        assert set(names) <= set(stamps)

    wait_until(check)


@pytest.mark.parametrize("kind", ["plain", "response", "error", "stream"])
@pytest.mark.parametrize("route", ["async", "sync", "dependency"])
def test_the_moments_come_in_their_order(site: Site, route: str, kind: str) -> None:
    answer = site.get(f"/{route}/{kind}")
    all_ran("now", "after_route", "after_response")

    assert answer.status == (503 if kind == "error" else 200)
    assert stamps["now"] < stamps["after_route"]
    assert stamps["route end"] < stamps["after_route"] < answer.first
    assert answer.last < stamps["after_response"]
    if kind == "stream":
        assert stamps["after_route"] < stamps["chunk first"]
        assert stamps["chunk third"] < stamps["after_response"]


@pytest.mark.parametrize("kind", ["raise", "crash"])
@pytest.mark.parametrize("route", ["async", "sync"])
def test_a_route_that_raises_runs_neither_of_the_later_two(
    site: Site, route: str, kind: str
) -> None:
    answer = site.get(f"/{route}/{kind}")
    all_ran("now")
    site.get("/threads")
    all_ran("thread after_route", "thread after_response")  # a whole request later

    assert answer.status == (409 if kind == "raise" else 500)
    assert {"now", "route end"} <= set(stamps)
    assert not {"after_route", "after_response"} & set(stamps)


def test_sync_tasks_keep_the_order_too(site: Site) -> None:
    answer = site.get("/threads")
    all_ran("thread after_route", "thread after_response")

    assert stamps["thread after_route"] < answer.first
    assert stamps["thread after_route"] < stamps["thread after_response"]
