"""The service as it runs, and what is around it: a mail server and a receiver of webhooks."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from commands import Background, shell
from helpers import run, wait_until

from fastedgy.database import connect

SERVICE = Path(__file__).parents[3] / "examples" / "service"
TOKEN = "a-token-of-the-operators"


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
        self._console = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "console.py")],
            cwd=SERVICE,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the other process."""
        self.client.close()
        self._console.communicate(timeout=20)

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

    def add(
        self, *calls: tuple[str, list[Any], dict[str, Any]] | tuple[str, list[Any]] | tuple[str]
    ) -> list[str]:
        """Add tasks of the service's as another process of it does; their ids.

        Each call: `"backup.tasks.backup_database"`, the arguments, and those by name.
        """
        lines = []
        for path, *rest in calls:
            module, _, name = path.rpartition(".")
            args, kwargs = (rest + [[], {}][len(rest) :]) if len(rest) < 2 else rest
            lines.append([module, name, args, kwargs])
        assert self._console.stdin is not None
        assert self._console.stdout is not None
        self._console.stdin.write(json.dumps(lines) + "\n")
        self._console.stdin.flush()
        ids: list[str] = json.loads(self._console.stdout.readline())
        return ids

    def execute(self, query: str) -> list[Any]:
        """Run a statement in the service's database; the rows."""

        async def ask() -> list[Any]:
            connection = await connect(self.url)
            try:
                return list(await connection.fetch(query))
            finally:
                await connection.close()

        return run(ask())

    def workers(self) -> list[int]:
        """The pids of the worker processes."""
        output = shell("fastedgy queue servers --json", SERVICE, self.env)
        return [process["pid"] for row in json.loads(output) for process in row["processes"]]
