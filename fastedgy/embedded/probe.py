"""Is a Postgres there? Asked of its socket and of the process table, in a few milliseconds."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from fastedgy.errors import EmbeddedPostgresError

TIMEOUT = 5.0  # seconds for each answer of the server
PROTOCOL = 196608  # 3.0


class Answer(Enum):
    """How a server answers a connection."""

    READY = "ready"
    BUSY = "busy"  # starting, recovering or stopping
    SILENT = "silent"  # it took the connection and says nothing: stopped in its tracks
    GONE = "gone"  # nobody listens


@dataclass(frozen=True, slots=True)
class Probe:
    """An answer, and the server's release where it told."""

    answer: Answer
    version: str | None = None


def ask(path: Path) -> Probe:
    """Log in at the socket as any client would: only that proves that a server is there.

    Raises EmbeddedPostgresError when it refuses this user.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT)
        try:
            connection.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return Probe(Answer.GONE)
        except (BlockingIOError, TimeoutError):
            return Probe(Answer.SILENT)  # nobody takes the connections that wait at its door
        try:
            return _log_in(connection, path)
        except TimeoutError:
            return Probe(Answer.SILENT)
        except (ConnectionError, EOFError):
            return Probe(Answer.BUSY)


def _log_in(connection: socket.socket, path: Path) -> Probe:
    options = b"user\0postgres\0database\0postgres\0application_name\0fastedgy\0\0"
    connection.sendall(struct.pack("!ii", 8 + len(options), PROTOCOL) + options)
    version = None
    while True:
        kind, length = struct.unpack("!ci", _read(connection, 5))
        body = _read(connection, length - 4)
        if kind == b"S" and body.startswith(b"server_version\0"):
            version = body.split(b"\0")[1].decode().split()[0]
        elif kind == b"E":
            return _refused({field[:1]: field[1:] for field in body.split(b"\0")}, path)
        elif kind == b"Z" or (kind == b"R" and body != b"\0\0\0\0"):
            # Logged in; or asked for a password, because somebody changed pg_hba.conf.
            connection.sendall(struct.pack("!ci", b"X", 4))
            return Probe(Answer.READY, version)


def _refused(error: dict[bytes, bytes], path: Path) -> Probe:
    code = error.get(b"C", b"").decode()
    if code == "57P03":  # cannot_connect_now
        return Probe(Answer.BUSY)
    if code.startswith("28"):  # peer authentication failed
        raise EmbeddedPostgresError(
            f"The embedded Postgres at {path.parent} belongs to another user. Run the command as "
            "that user, or set DATABASE_URL to a server."
        )
    return Probe(Answer.READY)  # too many connections, for instance: alive all the same


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError("the server hung up")
        data += piece
    return data


def exists(pid: int) -> bool:
    """Whether there is a process of that number, be it a zombie or another user's."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def is_running(pid: int) -> bool:
    """Whether that process exists and is not a zombie, which runs nothing any more."""
    if not exists(pid):
        return False
    try:
        # The name in parentheses may hold anything; the state is the word after it.
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return not Path("/proc/self").exists()
    return state not in ("Z", "X")


def runs_in(pid: int, data: Path) -> bool:
    """Whether that process is the Postgres of the data folder `data`."""
    if sys.platform != "linux":
        listed = subprocess.run(
            ["/bin/ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True
        )
        return str(data) in listed.stdout
    try:
        # A server's working directory is its data folder; this holds for a moved folder too.
        return os.path.samefile(f"/proc/{pid}/cwd", data)
    except PermissionError:
        # Root without CAP_SYS_PTRACE (in most containers) may not look; the arguments are public.
        return os.fsencode(data) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
