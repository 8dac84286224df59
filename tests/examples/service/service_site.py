"""The service as it runs, and what is around it: a mail server and a receiver of webhooks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
from commands import Background
from helpers import NO_TLS, PATIENCE, run, wait_until
from service_partner import Quiet

from fastedgy.database import connect

SERVICE = Path(__file__).parents[3] / "examples" / "service"
TOKEN = "a-token-of-the-operators"


class Receiver:
    """A server that takes webhooks; `answers` are given first, then 200.

    `open`: unless it is set, answers are held back.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.open = threading.Event()
        self.open.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.seen.append((dict(self.headers), body))
                receiver.open.wait(60)
                code, headers = receiver.answers.pop(0) if receiver.answers else (200, {})
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Nothing on stderr."""

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"


class QuietPost(socketserver.ThreadingTCPServer):
    """A server to whom it means nothing that a client was killed."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Nothing on stderr."""


class Postbox:
    """An SMTP server that keeps the mails; addresses with `unknown` are refused.

    `open`: unless it is set, nobody is let go on to the text of a mail. `begun`: who was to get it.
    """

    def __init__(self) -> None:
        self.mails: list[tuple[str, str]] = []
        self.begun: list[str] = []
        self.open = threading.Event()
        self.open.set()
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
                        postbox.begun.append(recipient)
                        postbox.open.wait(60)
                        say("354 go on")
                        lines = []
                        while (text := self.rfile.readline().decode()) != ".\r\n":
                            if not text:
                                return  # hung up in the middle of it
                            lines.append(text.rstrip("\r\n"))
                        postbox.mails.append((recipient, "\n".join(lines)))
                        say("250 ok")
                    elif word == "QUIT":
                        say("221 bye")
                        return
                    else:
                        say("250 ok")

        self.server = QuietPost(("127.0.0.1", 0), Handler)
        self.port: int = self.server.server_address[1]


class Service:
    """The running service, over HTTP, and what is around it."""

    def __init__(
        self, base: str, env: dict[str, str], data: Path, postbox: Postbox, receiver: Receiver,
        bucket: str, s3: Background, pool: Background,
    ) -> None:  # fmt: skip
        self.client = httpx.Client(base_url=f"{base}/api/v1", timeout=30, verify=NO_TLS)
        self.url, self.env, self.data, self.bucket = env["DATABASE_URL"], env, data, bucket
        self.postbox, self.receiver, self.s3, self.pool = postbox, receiver, s3, pool
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
        self._console.communicate(timeout=30)

    def get(self, path: str) -> Any:
        answer = self.client.get(path)
        assert answer.is_success, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.client.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def ends(self, task_id: str, state: str = "done", within: float = PATIENCE) -> Any:
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
        rows = self.execute("SELECT pid FROM queued_task_workers WHERE state = 'running'")
        return [row["pid"] for row in rows]

    def running(self, tasks: Sequence[str]) -> list[int]:
        """The pids of the workers that run these tasks. Fails while one of them does not run."""
        rows = self.execute(
            "SELECT worker.pid FROM queued_tasks AS task"
            "  JOIN queued_task_workers AS worker ON worker.id = task.worker_id"
            f" WHERE task.state = 'doing' AND task.id = ANY ('{{{','.join(tasks)}}}'::uuid[])"
        )
        assert len(rows) == len(tasks)
        return sorted({row["pid"] for row in rows})

    @contextmanager
    def locked(self, *tables: str) -> Iterator[None]:
        """Nobody can read these tables meanwhile: who does is in the middle of it."""
        loop = asyncio.new_event_loop()
        connection = loop.run_until_complete(connect(self.url))
        try:
            lock = f"BEGIN; LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE"
            loop.run_until_complete(connection.execute(lock))
            yield
        finally:
            loop.run_until_complete(connection.close())
            loop.close()


def kill(pid: int) -> None:
    """End a worker at once, if it has not ended by itself meanwhile."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
