"""The services that the examples call: real HTTP servers on the loopback, which also fail."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import orjson
from helpers import NO_TLS, PATIENCE

IMPATIENCE = 0.1
"""Seconds that the examples' clients wait here for an answer that never comes (httpx: 5)."""
LATE = 0.1
"""Seconds that a late answer takes."""

FINE = "fine"
MOODS = ("fails", "times out", "hangs up")


class Service:
    """One service: how it answers at the moment, and what it was asked."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.mood = FINE
        self.answer = answer
        self.asked: list[tuple[str, bytes]] = []
        self.failures_left = -1
        """After so many failures it is fine again; -1: never."""

    @property
    def bodies(self) -> list[Any]:
        """What was sent to it as JSON, those included that it did not take."""
        return [orjson.loads(body) for _, body in self.asked]

    def mood_now(self) -> str:
        if self.mood in MOODS and self.failures_left >= 0:
            if self.failures_left == 0:
                return FINE
            self.failures_left -= 1
        return self.mood


class City:
    """All services, one server; the name that a client asked for says which one it meant."""

    def __init__(self) -> None:
        self.services: defaultdict[str, Service] = defaultdict(lambda: Service({"ok": True}))
        self.evening = threading.Event()

    def __getitem__(self, name: str) -> Service:
        return self.services[name]

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        service = self[handler.headers["X-Meant-For"]]
        mood = handler.headers["X-Mood"]
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        if mood == "hangs up":
            handler.close_connection = True
            return
        if mood == "times out":
            self.evening.wait()
            handler.close_connection = True
            return
        if mood == "is late":
            self.evening.wait(LATE)
        answer = orjson.dumps(
            {key: value.format(path=handler.path) if isinstance(value, str) else value
             for key, value in service.answer.items()}
        )  # fmt: skip
        handler.send_response(500 if mood == "fails" else 200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    city: City

    def do_POST(self) -> None:
        self.city(self)

    do_PUT = do_POST  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Street(httpx.AsyncHTTPTransport):
    """Leads to the city, whatever host is named, and knows what will be there.

    So a client waits long for an answer that comes, however busy the machine, and not for others.
    """

    city: City
    port = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        service = self.city[request.url.host]
        service.asked.append((request.url.raw_path.decode(), await request.aread()))
        request.headers["X-Meant-For"] = request.url.host
        request.headers["X-Mood"] = mood = service.mood_now()
        if mood == "times out":
            request.extensions["timeout"]["read"] = IMPATIENCE
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self.port)
        return await super().handle_async_request(request)


class Httpx:
    """What the examples have as `httpx`."""

    def __init__(self, city: City, port: int) -> None:
        street = type("Street", (_Street,), {"city": city, "port": port})

        class AsyncClient(httpx.AsyncClient):
            def __init__(self) -> None:
                super().__init__(transport=street(NO_TLS), timeout=PATIENCE)

        self.AsyncClient = AsyncClient


@contextmanager
def open_city() -> Iterator[tuple[City, Httpx]]:
    """The services, and the way there."""
    city = City()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"city": city}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield city, Httpx(city, server.server_address[1])
    finally:
        city.evening.set()
        server.shutdown()
        thread.join()
        server.server_close()
