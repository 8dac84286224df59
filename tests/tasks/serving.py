"""An application on a real socket, and a client that sees single bytes."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from helpers import NO_TLS, PATIENCE, wait_until


@dataclass
class Answer:
    """A response, and when its first and its last byte were there (`time.monotonic()`)."""

    status: int
    body: bytes
    first: float
    last: float

    def json(self) -> Any:
        return json.loads(self.body)


class Site:
    """A server that runs in a thread of its own."""

    def __init__(self, server: uvicorn.Server, thread: threading.Thread, port: int) -> None:
        self.server = server
        self.thread = thread
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> Answer:
        """Ask byte for byte, on a connection of its own."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            )
            raw, first, last = connection.recv(1), time.monotonic(), 0.0
            while data := connection.recv(65536):
                raw += data
                last = time.monotonic()
        head, _, body = raw.partition(b"\r\n\r\n")
        return Answer(int(head.split()[1]), body, first, last or first)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=PATIENCE, verify=NO_TLS, **options)

    def stop(self) -> None:
        """Ask the server to end, as SIGTERM does, and wait until it has."""
        self.server.should_exit = True
        self.thread.join(timeout=30)
        assert not self.thread.is_alive()


@contextmanager
def serving(app: FastAPI) -> Iterator[Site]:
    """Serve an application by uvicorn on a free port of the loopback."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="on", ws="none", log_config=None, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="uvicorn")
    thread.start()
    site = Site(server, thread, listener.getsockname()[1])

    def started() -> None:
        assert server.started or not thread.is_alive()

    try:
        wait_until(started)
        yield site
    finally:
        site.stop()
        listener.close()
