"""The service as it runs, and what is around it: a mail server and a receiver of webhooks."""

from __future__ import annotations

import json
import socketserver
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from commands import Background, shell
from helpers import wait_until

SERVICE = Path(__file__).parents[3] / "examples" / "service"


class Receiver:
    """A server that takes webhooks; `answers` are given first, then 200."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.seen.append((dict(self.headers), body))
                code, headers = receiver.answers.pop(0) if receiver.answers else (200, {})
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Nothing on stderr."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"


class Postbox:
    """An SMTP server that keeps the mails; addresses with `unknown` are refused."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, str]] = []
        postbox = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                def say(line: str) -> None:
                    self.wfile.write(f"{line}\r\n".encode())

                recipient = ""
                say("220 postbox")
                while line := self.rfile.readline().decode().strip():
                    word = line.upper()
                    if word.startswith("RCPT"):
                        recipient = line.partition("<")[2].rstrip(">")
                        say("550 nobody here" if "unknown" in recipient else "250 ok")
                    elif word == "DATA":
                        say("354 go on")
                        lines = []
                        while (text := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                            lines.append(text)
                        postbox.mails.append((recipient, "\n".join(lines)))
                        say("250 ok")
                    elif word == "QUIT":
                        say("221 bye")
                        return
                    else:
                        say("250 ok")

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port: int = self.server.server_address[1]


class Service:
    """The running service, over HTTP, and what is around it."""

    def __init__(
        self, base: str, env: dict[str, str], data: Path, postbox: Postbox, receiver: Receiver,
        bucket: str, pool: Background,
    ) -> None:  # fmt: skip
        self.client = httpx.Client(base_url=f"{base}/api/v1", timeout=20)
        self.url, self.env, self.data, self.bucket = env["DATABASE_URL"], env, data, bucket
        self.postbox, self.receiver, self.pool = postbox, receiver, pool

    def get(self, path: str) -> Any:
        answer = self.client.get(path)
        assert answer.is_success, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.client.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def ends(self, task_id: str, state: str = "done", within: float = 30) -> Any:
        """Wait until a task has ended, over HTTP; its result."""

        def check() -> Any:
            found = self.get(f"/tasks/{task_id}/status")
            assert found["status"] in ("done", "failed", "cancelled"), found
            return found

        found = wait_until(check, within)
        assert found["status"] == state, f"{found}\n{self.pool.output()[-3000:]}"
        return found["result"] if state == "done" else found["error"]

    def add(self, *calls: tuple[Any, ...]) -> list[str]:
        """Add tasks of the service's as another process of it does; their ids.

        Each call: `"backup.tasks.backup_database"`, the arguments, and those by name.
        """
        lines = ["import importlib, json", "refs = []"]
        for path, *rest in calls:
            args, kwargs = (*rest, (), {})[:2] if len(rest) < 2 else rest
            module, _, name = path.rpartition(".")
            lines += [
                f"module = importlib.import_module('example_service.workers.{module}')",
                f"refs.append(tasks.add_task(module.{name}, *{tuple(args)!r}, **{kwargs!r}))",
            ]
        lines.append("print(json.dumps([str(await ref.get_task_id()) for ref in refs]))")
        ids: list[str] = json.loads(self.run(*lines))
        return ids

    def run(self, *lines: str) -> str:
        """Run lines in the application, with `tasks` at hand; what they print."""
        script = [
            "import asyncio, datetime",
            "from datetime import UTC",
            "from example_service.main import app",
            "from example_service.models import *",
            "from fastedgy.app import running",
            "async def main():",
            "    async with running(app) as tasks:",
            *(f"        {line}" for line in lines),
            "asyncio.run(main())",
        ]
        program = self.data / "program.py"
        program.write_text("\n".join(script))
        return shell(f'PYTHONPATH=. python "{program}"', SERVICE, self.env, within=60).strip()

    def workers(self) -> list[int]:
        """The pids of the worker processes."""
        output = shell("fastedgy queue servers --json", SERVICE, self.env)
        return [process["pid"] for row in json.loads(output) for process in row["processes"]]
