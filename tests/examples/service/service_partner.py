"""The partner of the service: an HTTP server that takes payments, ships, and sometimes does not."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Quiet(ThreadingHTTPServer):
    """A server to whom it means nothing that a client was killed."""

    def handle_error(self, *_: Any) -> None:
        """Nothing on stderr."""


class Partner:
    """`seen`: the path and the key of each request. `effects`: what was made, once for each key.

    `down`: it answers 503. `refuses`: paths that are answered 422. `open`: unless it is set,
    effects are made and all answers are held back.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []
        self.effects: dict[str, dict[str, Any]] = {}
        self.rates = {"USD": 1.25}
        self.down = False
        self.refuses: set[str] = set()
        self.open = threading.Event()
        self.open.set()
        partner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                rate = partner.rates.get(self.path.rpartition("/")[2])
                partner.seen.append((self.path, None))
                partner.open.wait(60)
                self.answer({"rate": rate}, 404 if rate is None else 200)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                key = self.headers["Idempotency-Key"]
                partner.seen.append((self.path, key))
                if self.path in partner.refuses:
                    self.answer({"detail": "no"}, 422)
                    return
                if not partner.down:
                    made = {"id": f"{self.path[1:]}-{len(partner.effects)}", "path": self.path}
                    partner.effects.setdefault(key, made | body)
                    partner.open.wait(60)
                self.answer(partner.effects.get(key, {}))

            def answer(self, body: dict[str, Any], code: int = 200) -> None:
                payload = json.dumps(body).encode()
                self.send_response(503 if partner.down else code)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *args: object) -> None:
                """Nothing on stderr."""

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def made(self, path: str, about: str) -> list[dict[str, Any]]:
        """The effects at a path whose key or body speaks of something."""
        return [
            effect
            for key, effect in self.effects.items()
            if effect["path"] == path and (about in key or about in effect.values())
        ]
