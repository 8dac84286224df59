"""Applications under uvicorn, and the clients that ask them."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from benchmarks.harness import ROOT, START_LIMIT, BenchmarkError


@asynccontextmanager
async def served(app: str, url: str) -> AsyncIterator[tuple[int, int]]:
    """An application of this folder (`module:name`); its port and its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", f"benchmarks.{app}", "--port", str(port),
               "--log-level", "warning"]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env={**os.environ, "DATABASE_URL": url},
        stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await _listening(process, port)
        yield port, process.pid
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _listening(process: asyncio.subprocess.Process, port: int) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and process.returncode is None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.05)
    raise BenchmarkError("The server did not start.")


async def ask(port: int, path: str, until: float) -> int:
    """One keep-alive client; how many requests were answered with 200."""
    request = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answered = 0
    try:
        while time.monotonic() < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise BenchmarkError(f"{path} answered {head.splitlines()[0]!r}.")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            answered += 1
    finally:
        writer.close()
    return answered
