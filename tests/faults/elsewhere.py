"""Servers and hosts that a test makes for itself: a pooler, a TLS server, network namespaces."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path

import pytest
from commands import free_port
from helpers import wait_until

from fastedgy.database_url import DatabaseAddress, parse_url


def program(name: str, *folders: str) -> str:
    """The path of a program; the test skips where it is not installed."""
    found = shutil.which(name, path=os.pathsep.join([*folders, os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"{name} is not installed (Debian has it)")
    return found


def as_user(*command: str) -> list[str]:
    """A command that refuses to run as root, as somebody else."""
    if os.geteuid() != 0:
        return list(command)
    return [program("setpriv"), "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command]


def give_away(*paths: Path) -> None:
    """Make files those of the user that `as_user` takes."""
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in paths:
            os.chown(path, nobody.pw_uid, nobody.pw_gid)


def until_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until somebody answers on a port of 127.0.0.1."""

    def check() -> None:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            raise AssertionError(log.read_text()) from None

    wait_until(check)


class Pooler:
    """PgBouncer in transaction mode, before the database of a URL."""

    def __init__(self, url: str, folder: Path) -> None:
        self._command = as_user(program("pgbouncer", "/usr/sbin"), str(folder / "pgbouncer.ini"))
        self.port = free_port()
        self._log = folder / "pgbouncer.log"
        self._process: subprocess.Popen[bytes] | None = None
        target = parse_url(url)
        host, port = target.hosts[0]
        parts = {
            "host": target.socket_folder or host, "port": port or 5432, "dbname": target.name,
            "user": target.user, "password": target.password,
        }  # fmt: skip
        line = " ".join(f"{name}='{value}'" for name, value in parts.items() if value)
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\npooled = {line}\n[pgbouncer]\npool_mode = transaction\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nauth_type = any\n"
            "default_pool_size = 5\nmax_client_conn = 200\nunix_socket_dir =\n"
        )
        self.url = f"postgresql://anybody@127.0.0.1:{self.port}/pooled"
        for path in (folder, *folder.parents[:3]):
            path.chmod(path.stat().st_mode | 0o011)
        give_away(folder, folder / "pgbouncer.ini")

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd="/")
        until_listening(self.port, self._process, self._log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def tls_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """A Postgres of the system that takes nobody without TLS: its URL and its certificate."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not homes:
        pytest.skip("no Postgres with TLS is installed (Debian has it)")
    openssl, data, port = program("openssl"), folder / "data", free_port()
    folder.chmod(0o755)
    for path in folder.parents[:3]:
        path.chmod(path.stat().st_mode | 0o011)
    give_away(folder)
    subprocess.run(
        as_user(str(homes[0] / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust"),
        check=True, capture_output=True, cwd="/",
    )  # fmt: skip
    certificate, key = data / "server.crt", data / "server.key"
    subprocess.run(
        as_user(openssl, "req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost",
                "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                "-out", str(certificate), "-keyout", str(key)),
        check=True, capture_output=True, cwd="/",
    )  # fmt: skip
    public = folder / "root.crt"
    public.write_bytes(certificate.read_bytes())
    public.chmod(0o644)
    (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 trust\n")
    log = folder / "log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            as_user(str(homes[0] / "postgres"), "-D", str(data), "-p", str(port), "-c", "ssl=on",
                    "-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1",
                    "-c", "fsync=off"),
            stdout=out, stderr=out, cwd="/",
        )  # fmt: skip
    try:
        until_listening(port, process, log)
        ask = [str(homes[0] / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]

        def ready() -> None:  # it listens before it takes anybody
            assert subprocess.run(ask, capture_output=True).returncode == 0

        wait_until(ready)
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres", public
    finally:
        process.terminate()
        process.wait(30)


class Host:
    """A network namespace with one line to this machine, which can be cut."""

    def __init__(self, number: int) -> None:
        if os.geteuid() != 0:
            pytest.skip("network namespaces need root")
        self._ip = program("ip", "/usr/sbin", "/sbin")
        tag = f"fe{os.getpid() % 100_000}{number}"
        self.name, self._here, self._there = tag, f"{tag}a", f"{tag}b"
        # A network of its own, of those set aside for measurements: others may test here, too.
        net = ip_network("198.18.0.0/15").network_address + 4 * ((2 * os.getpid() + number) % 2**15)
        self.gateway, there = str(net + 1), str(net + 2)
        try:
            self._run("netns", "add", self.name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        self._run("link", "add", self._here, "type", "veth", "peer", "name", self._there)
        self._run("link", "set", self._there, "netns", self.name)
        self._run("addr", "add", f"{self.gateway}/30", "dev", self._here)
        self._run("link", "set", self._here, "up")
        self._inside("addr", "add", f"{there}/30", "dev", self._there)
        self._inside("link", "set", self._there, "up")
        self._inside("link", "set", "lo", "up")

    def prefix(self) -> list[str]:
        """What comes before a command that is to run there."""
        return [self._ip, "netns", "exec", self.name]

    def cut(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        self._run("link", "set", self._here, "down")

    def mend(self) -> None:
        self._run("link", "set", self._here, "up")

    def close(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self._run("link", "del", self._here)
        self._run("netns", "del", self.name)

    def _inside(self, *words: str) -> None:
        self._run("-n", self.name, *words)

    def _run(self, *words: str) -> None:
        subprocess.run([self._ip, *words], check=True, capture_output=True, text=True)


def by_tcp(url: str, host: str, port: int) -> str:
    """The same database at another address."""
    address: DatabaseAddress = parse_url(url)
    name, user, password = address.name, address.user, address.password
    shown = f"[{host}]" if ":" in host else host
    secret = f":{password}" if password else ""
    return f"postgresql://{user}{secret}@{shown}:{port}/{name}?sslmode=disable"
