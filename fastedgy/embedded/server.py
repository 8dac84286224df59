"""The lifecycle of an embedded Postgres: start, share, stop, recover."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fastedgy.embedded.binaries import CURE, Account, Installation, find_installation, run_as
from fastedgy.embedded.places import PORT, Places
from fastedgy.embedded.probe import Answer, ask, exists, is_running, runs_in
from fastedgy.errors import EmbeddedPostgresError

START_TIMEOUT = 300.0  # seconds; recovery after a crash may have much WAL to replay
STOP_TIMEOUT = 30.0  # seconds for a fast shutdown, which writes a checkpoint
SILENT_AFTER = 20.0  # seconds without a word after which a server counts as frozen
UNREACHABLE_AFTER = 10.0  # seconds after which a live server without its socket is replaced
LOG_LIMIT = 10_000_000  # bytes of server.log at which it begins anew

SETTINGS = """
# A developer's laptop: enough connections for a pool of workers, little memory, a quiet log.
max_connections = 200
shared_buffers = 128MB
log_checkpoints = off
"""
HBA = """\
# Nobody but the operating-system users in pg_ident.conf: this folder's owner, and root.
local all all peer map=owner
local replication all peer map=owner
"""


@dataclass(frozen=True, slots=True)
class EmbeddedStatus:
    """What is known of an embedded server. `version` is known while it runs."""

    running: bool
    url: str
    pid: int | None
    data_dir: Path
    version: str | None


def server(data_dir: Path | str) -> EmbeddedPostgres:
    """The embedded Postgres of a folder, which need not exist yet."""
    return EmbeddedPostgres(Path(data_dir))


class EmbeddedPostgres:
    """One server in one folder, shared by all processes that ask for it."""

    def __init__(self, data_dir: Path) -> None:
        self._places = Places(data_dir)

    @property
    def data_dir(self) -> Path:
        """The folder, absolute."""
        return self._places.folder

    @property
    def url(self) -> str:
        """Where the server listens while it runs, for asyncpg."""
        return self._places.url

    def start(self) -> str:
        """The server's URL; starts the server first if nobody has yet.

        One connection to its socket when it runs, no lock and no process; recovery after a crash
        takes what it takes, up to 5 minutes. Raises EmbeddedPostgresError with the cure.
        """
        with self._explained():
            if self._ask() is not Answer.READY:
                self._places.make_folder()
                with self._lock():
                    self._bring_up()
            return self.url

    def stop(self) -> bool:
        """Stop the server, whoever started it. False when it was not running."""
        if not self.data_dir.is_dir():
            return False
        with self._explained(), self._lock():
            return self._shut_down()

    def status(self) -> EmbeddedStatus:
        """How the server is, without changing anything."""
        with self._explained():
            probe = ask(self._places.socket) if self._places.is_private() else None
            return EmbeddedStatus(
                running=probe is not None and probe.answer is Answer.READY,
                url=self.url,
                pid=self._postmaster(),
                data_dir=self.data_dir,
                version=probe.version if probe is not None else None,
            )

    # Starting; all of this under the lock

    def _bring_up(self) -> None:
        begun = time.monotonic()
        launched: int | None = None
        read_from = 0
        while (answer := self._ask()) is not Answer.READY:
            waited = time.monotonic() - begun
            alive = self._postmaster() is not None or (launched and is_running(launched))
            if answer is Answer.GONE and not alive:
                if launched is not None:
                    self._fail_or_wait(read_from)
                account = self._places.account()
                installation = self._prepare(account)
                self._forget_stale_server()
                read_from = self._trim_log()
                launched = self._launch(installation, account)
            elif answer is Answer.GONE and not launched and waited > UNREACHABLE_AFTER:
                self._shut_down()  # it lost its socket, to a cleaner of /tmp for instance
            if waited > (SILENT_AFTER if answer is Answer.SILENT else START_TIMEOUT):
                raise EmbeddedPostgresError(
                    f"The embedded Postgres in {self.data_dir} does not answer. `fastedgy db stop` "
                    f"stops it; {self._places.log} may say why."
                )
            time.sleep(0.005)

    def _prepare(self, account: Account) -> Installation:
        """Everything that must be there before the server is launched: data, sockets, binaries."""
        self._places.find_home(account)
        data = self._places.data
        marker = data / "PG_VERSION"
        made_by = int(marker.read_text()) if marker.exists() else None
        installation = find_installation(account, made_by=made_by, data=data)
        if made_by is None:
            self._create_cluster(installation, account)
        self._places.find_sockets(account)
        names = sorted({Account.of(self._places.owner()).name, Account.of(0).name})
        _write(data / "pg_ident.conf", "".join(f'owner "{n}" postgres\n' for n in names), account)
        return installation

    def _create_cluster(self, installation: Installation, account: Account) -> None:
        data = self._places.data
        draft = data.with_name("postgres.new")  # renamed when complete: there is no half a cluster
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        os.chown(draft, account.uid, account.gid)
        # The same sort order everywhere.
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command = [str(installation.bin / "initdb"), "-D", str(draft), "-U", "postgres"]
        command += ["-E", "UTF8", "--auth-local=peer", "--auth-host=reject"]
        command += locale if installation.major >= 17 else ["--no-locale"]
        done = run_as(account, command, cwd=draft.parent)
        if done.returncode != 0:
            shutil.rmtree(draft, ignore_errors=True)
            raise EmbeddedPostgresError(
                f"The embedded Postgres cannot make its data folder {data}: "
                f"{_reason(done.stderr or done.stdout)}. Give it a folder with room by "
                "FASTEDGY_DATA_DIR, or set DATABASE_URL to a server."
            )
        _write(draft / "pg_hba.conf", HBA, account)
        with (draft / "postgresql.conf").open("a") as file:
            file.write(SETTINGS)
        draft.rename(data)

    def _launch(self, installation: Installation, account: Account) -> int:
        """Start the server in a session of its own, so that no Ctrl-C reaches it; return its pid.

        The shell starts it in the background and ends: nobody here has to reap it.
        """
        places = self._places
        quoted = str(places.sockets).replace('"', '""')
        command = [str(installation.bin / "postgres"), "-D", str(places.data)]
        for setting in (
            "listen_addresses=",
            f"port={PORT}",
            f'unix_socket_directories="{quoted}"',
            "unix_socket_permissions=0700",
        ):
            command += ["-c", setting]
        script = '"$@" </dev/null >>"$0" 2>&1 & echo $!'
        done = run_as(
            account,
            ["/bin/sh", "-c", script, str(places.log), *command],
            cwd=places.home,
            alone=True,
        )
        if done.returncode != 0 or not done.stdout.strip().isdigit():
            raise EmbeddedPostgresError(
                f"The embedded Postgres cannot be launched: {_reason(done.stderr)}. {CURE}"
            )
        return int(done.stdout)

    def _trim_log(self) -> int:
        """Where in the log the next server begins to write."""
        log = self._places.log
        size = log.stat().st_size if log.exists() else 0
        if size > LOG_LIMIT:
            log.unlink()
            return 0
        return size

    def _fail_or_wait(self, read_from: int) -> None:
        """The server ended while it started: wait if that passes by itself, else say why."""
        said = ""
        if self._places.log.exists():
            with self._places.log.open(errors="replace") as log:
                log.seek(read_from)
                said = log.read()
        if "pre-existing shared memory block" in said:
            # The postmaster was killed, and its children have not noticed yet.
            time.sleep(0.1)
            return
        fatal = [line for line in said.splitlines() if "FATAL" in line or "PANIC" in line]
        reason = _reason("\n".join(fatal) or said).split("FATAL:")[-1].strip()
        raise EmbeddedPostgresError(
            f"The embedded Postgres in {self.data_dir} does not start: {reason}. "
            f"{self._places.log} has the details. {CURE}"
        )

    # The server that runs, or ran

    def _ask(self) -> Answer:
        """Whether the server answers; GONE also where its socket's folder is not to be trusted."""
        if not self.data_dir.is_dir() or not self._places.is_private():
            return Answer.GONE
        return ask(self._places.socket).answer

    def _postmaster(self) -> int | None:
        """The pid of this folder's live server. A pid file alone says nothing: pids are reused."""
        pid = _first_number(self._places.data / "postmaster.pid")
        return pid if pid and is_running(pid) and runs_in(pid, self._places.data) else None

    def _forget_stale_server(self) -> None:
        """Remove pid files of a dead server whose pid is now somebody else's, or a zombie's.

        Postgres only sees that such a pid exists, and would refuse to start.
        """
        for file in (self._places.data / "postmaster.pid", Path(f"{self._places.socket}.lock")):
            pid = _first_number(file)
            if pid is not None and exists(pid):
                file.unlink(missing_ok=True)

    def _shut_down(self) -> bool:
        pid = self._postmaster()
        if pid is None:
            return False
        # Fast: clients are cut off. Immediate: it recovers when it starts. Then without asking.
        for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            with suppress(ProcessLookupError, TimeoutError):
                os.kill(pid, how)
                _until(lambda: not is_running(pid), STOP_TIMEOUT, f"server {pid} does not stop")
            if not is_running(pid):
                return True
        raise TimeoutError(f"server {pid} does not stop")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        descriptor = os.open(self._places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._places.give(self._places.lock)
            busy = "another process is busy starting or stopping it"
            _until(lambda: _locked(descriptor), START_TIMEOUT, busy)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, subprocess.SubprocessError) as error:
            raise EmbeddedPostgresError(
                f"The embedded Postgres in {self.data_dir} cannot be used: {error}. Set "
                "FASTEDGY_DATA_DIR to a folder that you can write, or DATABASE_URL to a server."
            ) from error


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _until(check: Callable[[], bool], seconds: float, complaint: str) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(complaint)
        time.sleep(0.005)


def _write(path: Path, text: str, account: Account) -> None:
    path.write_text(text)
    path.chmod(0o600)
    os.chown(path, account.uid, account.gid)


def _first_number(file: Path) -> int | None:
    """The number in a file's first line, if it has one."""
    try:
        return int(file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "it ended without a word"
