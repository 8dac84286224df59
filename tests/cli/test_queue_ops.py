"""`fastedgy queue explain | doctor | pause | resume | limit | breakers | watch`."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from fcntl import ioctl
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from click.testing import CliRunner, Result
from commands import environment
from helpers import PATIENCE, run
from rich.console import Console
from rows import TABLES, WORKER, add, add_ended, add_taken, state_of

from fastedgy.admin import QueueAdmin
from fastedgy.admin.doctor import Finding, Fix, Severity
from fastedgy.admin.explain import Explanation, Reason
from fastedgy.admin.types import Point
from fastedgy.cli import watch, watch_screen
from fastedgy.cli.queue_ops import actor, breaker_line, explanation_lines, finding_lines
from fastedgy.cli.root import main
from fastedgy.cli.watch import Watch, look, parsed
from fastedgy.cli.watch_screen import Item, overview_screen, sparkline, squares
from fastedgy.store import audit, workers
from fastedgy.store.breakers import Breaker

NOW = datetime(2026, 1, 1, tzinfo=UTC)

Run = Callable[..., Result]


@pytest.fixture
def database_url(queue_url: str) -> str:
    return queue_url


class Rows:
    """Does something to the rows from a test without an event loop."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, work: Callable[[asyncpg.Connection], Any]) -> Any:
        async def go() -> Any:
            connection = await asyncpg.connect(self._url)
            try:
                return await work(connection)
            finally:
                await connection.close()

        return run(go())


@pytest.fixture
def rows(database_url: str) -> Rows:
    return Rows(database_url)


async def hire(connection: asyncpg.Connection) -> None:
    await workers.register(
        connection, TABLES, worker_id=WORKER, server_name="web-3", pid=17, supervisor_id=WORKER,
        queues=(), concurrency=4, version="1",
    )  # fmt: skip


# Explain.


def test_explain_says_why_and_what_to_do(fastedgy: Run, rows: Rows) -> None:
    id = rows(add)

    said = fastedgy("queue", "explain", str(id)[-12:]).output
    assert "No worker runs.\n  → fastedgy queue start" in said
    told = json.loads(fastedgy("queue", "explain", str(id), "--json").output)
    assert (told["id"], told["ready"], told["position"]) == (str(id), False, 1)
    assert [reason["code"] for reason in told["reasons"]] == ["no_worker"]


def test_explain_of_a_task_that_is_not_there_is_one_line(fastedgy: Run) -> None:
    result = fastedgy("queue", "explain", str(UUID(int=7)), code=1)
    assert result.output.startswith("Error: No task has the id ")


def test_what_a_row_says_reaches_no_terminal_unescaped() -> None:
    evil = Explanation(
        UUID(int=1), "a\x1b[2J", "q", "failed", False, "s", [Reason("failed", "b\x1b[2J", "c\r")]
    )
    text = "".join(line.plain for line in explanation_lines(evil))
    finding = Finding("x", Severity.info, "\x1b[2J", "\x1b[2J", "\x1b[2J", "\x1b[2J")
    text += "".join(line.plain for line in finding_lines([finding]))
    assert "\x1b" not in text
    assert "\r" not in text


# Doctor.


def test_doctor_finds_tells_and_ends_with_1(fastedgy: Run, rows: Rows) -> None:
    rows(add)

    said = fastedgy("queue", "doctor", code=1).output
    assert "ERROR   Queue default has no worker; 1 task waits.\n" in said
    assert "      → fastedgy queue start\n" in said
    told = json.loads(fastedgy("queue", "doctor", "--json", code=1).output)
    assert {"code", "severity", "title", "meaning", "evidence", "cure", "fix"} <= set(told[0])
    assert (told[0]["code"], told[0]["severity"]) == ("no_worker", "error")


def test_doctor_cures_what_it_may_after_asking(fastedgy: Run, rows: Rows) -> None:
    rows(lambda c: c.execute("ALTER TABLE queued_task_audit SET (autovacuum_enabled = false)"))
    assert "(--fix does it)" in fastedgy("queue", "doctor", code=1).output

    refused = fastedgy("queue", "doctor", "--fix", code=2)
    assert "say --yes" in refused.output
    fixed = fastedgy("queue", "doctor", "--fix", "--yes", "--json", code=None)
    assert "Done: ALTER TABLE queued_task_audit RESET (autovacuum_enabled)" in fixed.stderr
    left = {finding["code"] for finding in json.loads(fixed.stdout)}
    assert left <= {"not_durable"}, "the tests' own server does not sync"


def test_doctor_tells_of_a_cure_that_was_refused(
    fastedgy: Run, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> list[Finding]:
        fix = Fix("It cannot be.", ("ALTER TABLE nothing RESET (fillfactor)",))
        return [Finding("x", Severity.warning, "Odd.", "m", "e", "c", fix)]

    monkeypatch.setattr("fastedgy.admin.doctor.doctor", broken)
    result = fastedgy("queue", "doctor", "--fix", "--yes", code=1)
    assert 'Not done: ALTER TABLE nothing RESET (fillfactor) was refused: relation "nothing"' in (
        result.stderr
    )


def test_doctor_works_without_tables(fastedgy: Run, server_url: str) -> None:
    result = CliRunner().invoke(main, ["queue", "doctor"], env={"DATABASE_URL": server_url})
    assert result.exit_code == 1
    assert "→ fastedgy db migrate" in result.output


def test_doctor_with_nothing_to_say() -> None:
    assert [line.plain for line in finding_lines([])] == ["Nothing is wrong."]


# Pause, resume, limit, breakers.


def test_pause_and_resume(fastedgy: Run, rows: Rows) -> None:
    rows(lambda connection: add(connection, queue="mail"))

    assert "Queue mail is paused; 1 task in the line." in fastedgy("queue", "pause", "mail").output
    paused = rows(lambda c: c.fetchval("SELECT paused FROM queued_task_queues"))
    assert paused is True
    told = json.loads(fastedgy("queue", "resume", "mail", "--json").output)
    assert told == {
        "queue": "mail", "paused": False, "depth": 1, "known": True, "warning": None,
    }  # fmt: skip
    noted = rows(lambda connection: audit.list_audit(connection, TABLES))
    assert [(each.action, each.source) for each in noted] == [
        ("queue.resume", "cli"), ("queue.pause", "cli"),
    ]  # fmt: skip


def test_a_queue_that_nobody_knows_is_paused_with_a_warning(fastedgy: Run, rows: Rows) -> None:
    rows(lambda connection: add(connection, queue="mail"))
    warning = (
        "Nothing is known of a queue mial: no task of it waits or ever ran, no worker serves it by "
        "name. Known are mail.\n"
    )

    paused = fastedgy("queue", "pause", "mial")
    assert paused.stdout == "Queue mial is paused; 0 tasks in the line.\n"
    assert paused.stderr == warning
    assert fastedgy("queue", "limit", "miel", "--rate", "1").stderr.startswith("Nothing is known")
    assert fastedgy("queue", "resume", "mial").stderr == "", "it has settings now"


def test_limit(fastedgy: Run, rows: Rows) -> None:
    said = fastedgy("queue", "limit", "mail", "--max-running", "5", "--rate", "0.5").stdout
    assert said == "Queue mail: 5 at once and 0.5 starts a second.\n"
    limits = rows(lambda c: c.fetchrow("SELECT max_running, rate FROM queued_task_queues"))
    assert tuple(limits) == (5, 0.5)
    assert fastedgy("queue", "limit", "mail", "--none").output == "Queue mail: no limits.\n"
    for words in ((), ("--none", "--rate", "1"), ("--rate", "0"), ("--max-running", "0")):
        fastedgy("queue", "limit", "mail", *words, code=2)


def test_breakers(fastedgy: Run, rows: Rows) -> None:
    assert fastedgy("queue", "breakers").output == "No breaker was ever used.\n"
    rows(
        lambda c: c.execute(
            "INSERT INTO queued_task_breakers (name, state, opened_at, failures, error)"
            " VALUES ('payments', 'open', now(), 5, 'no route')"
        )
    )

    assert "open      payments  5 of 5 failures, the next try in " in (
        fastedgy("queue", "breakers").output
    )
    [told] = json.loads(fastedgy("queue", "breakers", "--reset", "payments", "--json").output)
    assert (told["name"], told["state"]) == ("payments", "closed")
    assert "There is no breaker 'x'" in fastedgy("queue", "breakers", "--reset", "x", code=2).output


def test_a_breaker_in_a_line() -> None:
    closed = Breaker("a\x07", "closed", 0, 0, 5, 2, 30.0, None, False, None, NOW, 0.0)
    assert breaker_line(closed).plain == "closed    a\\x07  0 of 5 failures"


# Drain, trees, audit.


def test_drain_says_who_asks_and_marks_the_rows(fastedgy: Run, rows: Rows) -> None:
    rows(hire)
    rows(add_taken)
    refused = fastedgy("queue", "drain", "web-3/17", code=2)
    assert "Worker web-3/17 takes no more tasks and ends; its supervisor starts another one." in (
        refused.stderr
    )
    assert "say --yes" in refused.stderr

    assert fastedgy("queue", "drain", str(WORKER)[-6:], "--yes").stdout == "1 worker asked.\n"
    row = rows(lambda c: c.fetchrow("SELECT drain, drain_by FROM queued_task_workers"))
    assert (row["drain"], row["drain_by"]) == ("worker", actor())
    server = fastedgy("queue", "drain", "web-3", "--yes", "--json")
    told = json.loads(server.stdout)
    assert (told["workers"], told["supervisors"], told["running"]) == (
        [str(WORKER)], [str(WORKER)], 1,
    )  # fmt: skip
    assert told["sentence"] == (
        "1 worker on web-3 takes no more tasks and ends, with its supervisor; nobody starts "
        "another. 1 task runs there: what does not end within QUEUE_DRAIN_TIMEOUT goes back to the "
        "line."
    )
    assert "draining" in fastedgy("queue", "servers", "-p").stdout
    missing = fastedgy("queue", "drain", "web-4", "--yes", code=1)
    assert "No worker, supervisor or server is called 'web-4'. There are web-3/17." in (
        missing.output
    )


def test_drain_waits_for_the_end_where_it_is_told_to(fastedgy: Run, rows: Rows) -> None:
    rows(hire)
    ended = threading.Timer(
        1.0, lambda: rows(lambda c: c.execute(
            "UPDATE queued_task_workers SET state = 'stopped', date_ended = now()"
        ))
    )  # fmt: skip
    ended.start()
    said = fastedgy("queue", "drain", "web-3", "--yes", "--wait").stdout
    ended.join()

    assert said == "1 worker ended.\n"
    assert rows(lambda c: c.fetchval("SELECT state FROM queued_task_workers")) == "stopped"


def test_a_tree_is_cancelled_and_retried_after_asking(fastedgy: Run, rows: Rows) -> None:
    root = rows(lambda connection: add(connection))
    child = rows(lambda connection: add(connection, root, on_parent_failure="run"))
    refused = fastedgy("queue", "cancel", str(root), "--tree", code=2)
    assert "Cancels 2 tasks." in refused.stderr

    said = fastedgy("queue", "cancel", str(root), "--tree", "--yes", "--reason", "typo").stdout
    assert said == "Cancelled, or asked to stop, 2 tasks.\n"
    assert rows(lambda c: state_of(c, child)) == "cancelled"
    told = fastedgy("queue", "retry", str(root), "--tree", "--yes", "--json").stdout
    assert json.loads(told) == [{"id": str(root), "changed": 2}]
    assert rows(lambda c: state_of(c, child)) == "waiting"
    fastedgy("queue", "retry", "--tree", code=2)


def test_what_is_done_in_the_terminal_is_in_the_audit(fastedgy: Run, rows: Rows) -> None:
    assert fastedgy("queue", "audit").stdout == "Nothing of that kind was done by hand.\n"
    id = rows(lambda connection: add(connection, queue="mail"))
    rows(lambda connection: add_ended(connection, "failed"))
    rows(lambda connection: add_ended(connection, "done"))
    fastedgy("queue", "cancel", str(id))
    fastedgy("queue", "retry", str(id))
    fastedgy("queue", "retry", "--yes")
    fastedgy("queue", "clear", "--yes")
    fastedgy("queue", "prune", "--older-than", "0s")

    told = json.loads(fastedgy("queue", "audit", "--json", "--actor", actor()[:3]).stdout)
    assert [(entry["action"], entry["target"].partition(":")[0]) for entry in told] == [
        ("task.prune", "bulk"), ("task.clear", "bulk"), ("task.retry", "bulk"),
        ("task.retry", "task"), ("task.cancel", "task"),
    ]  # fmt: skip
    assert told[-1]["target"] == f"task:{id}"
    text = fastedgy("queue", "audit", "--action", "task.cancel").stdout
    assert re.search(rf"{re.escape(actor())} +cli +task.cancel +task:{id}", text)
    assert "task.retry" not in text


# Watch: the screen.


def drawn(body: Any, width: int = 100) -> str:
    console = Console(width=width, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(body)
    return capture.get()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[asyncpg.Connection, QueueAdmin]]:
    connection = await asyncpg.connect(url)
    try:
        yield connection, QueueAdmin.on(connection)
    finally:
        await connection.close()


async def test_the_first_screen(database_url: str) -> None:
    async with opened(database_url) as (connection, admin):
        await hire(connection)
        await add(connection, queue="mail")
        await add_taken(connection, name="shop.slow")
        frame = await look(admin)

    screen = drawn(overview_screen(frame))
    assert screen.startswith(frame.overview.sentence)
    assert "enqueued 1" in screen
    assert "mail" in screen
    assert re.search(r"shop\.slow +\d+ ms +web-3/17", screen)
    assert re.search(r"web-3/17 +■□□□ +1/4 +running +all", screen)
    assert Item("queue", "mail") in frame.items()
    assert max(map(len, drawn(overview_screen(frame), width=60).splitlines())) <= 60


async def test_the_first_screen_of_an_empty_queue(database_url: str) -> None:
    async with opened(database_url) as (_, admin):
        screen = drawn(overview_screen(await look(admin)))
    assert "No queue has tasks or settings." in screen
    assert "No worker runs." in screen


def test_a_sparkline_is_as_high_as_its_values() -> None:
    assert sparkline([0, 1, 2, 4, None, 8]) == "▁▂▃▅·█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""


def test_plots_leave_the_present_minute_out() -> None:
    points = [
        Point(NOW + timedelta(minutes=n), 60, n, 0, 0, 0, None, None, None, None, 1000.0 * n, None)
        for n in range(40)
    ]
    throughput, waits = watch_screen._plots(points)
    assert throughput.plain.endswith("█  38 in the last minute")
    assert waits.plain.endswith("█  38.0 s")
    assert len(throughput.plain.split()[1]) == watch_screen.MINUTES
    assert watch_screen._plots(points[:1]) == []


@pytest.mark.parametrize(
    ("busy", "slots", "text"),
    [(0, 3, "□□□"), (3, 3, "■■■"), (1, 1000, "■" + "□" * 23), (1000, 1000, "■" * 24), (0, 0, "")],
)
def test_squares_of_a_worker(busy: int, slots: int, text: str) -> None:
    assert squares(busy, slots).plain == text


# Watch: the keys.


def test_keys_are_read_one_by_one() -> None:
    assert parsed(b"jk\x1b[A\x1b[Bq") == ["down", "up", "up", "down", "q"]
    assert parsed(b"\x1b") == ["back"]
    assert parsed(b"\x1b[Cp\r") == ["p", "enter"]
    assert parsed("é".encode()) == ["Ã", "©"], "no key of ours"


@pytest.fixture
async def watching(database_url: str) -> AsyncIterator[tuple[Watch, QueueAdmin, Any]]:
    async with opened(database_url) as (connection, admin):
        yield Watch(None, 1.0), admin, connection  # type: ignore[arg-type]


async def press(screen: Watch, admin: QueueAdmin, *keys: str) -> str:
    """Press keys, each after a look; what is on the screen then."""
    for key in keys:
        await screen._body(admin)
        screen._message = None
        await screen.press(key, admin)
    return drawn(await screen._body(admin))


async def test_p_pauses_the_chosen_queue_and_resumes_it(
    watching: tuple[Watch, QueueAdmin, Any],
) -> None:
    screen, admin, connection = watching
    await hire(connection)
    await add(connection, queue="mail")

    await press(screen, admin, "p")
    assert screen._message == "Choose a queue first."
    assert "paused" in await press(screen, admin, "down", "p")
    assert screen._message == "Queue mail is paused."
    assert await connection.fetchval("SELECT paused FROM queued_task_queues WHERE name = 'mail'")
    await press(screen, admin, "p")
    assert screen._message == "Queue mail goes on."


async def test_enter_goes_down_to_a_task_and_back_comes_up_again(
    watching: tuple[Watch, QueueAdmin, Any],
) -> None:
    screen, admin, connection = watching
    await hire(connection)
    id = await add(connection, queue="mail", name="shop.letter")

    assert "Queue mail: due and running" in await press(screen, admin, "down", "enter")
    page = await press(screen, admin, "down", "enter")
    assert "shop.letter()" in page
    assert "Nothing holds it: position 1" in page
    assert str(id) in page
    assert "Queue mail: due and running" in await press(screen, admin, "back")
    assert "Slowest now" in await press(screen, admin, "back", "back")


async def test_r_retries_a_failed_task(watching: tuple[Watch, QueueAdmin, Any]) -> None:
    screen, admin, connection = watching
    id = await add_ended(connection, "failed")

    assert "Failed tasks" in await press(screen, admin, "f", "r")
    assert screen._message == "Choose a failed task, or a name, first."
    await press(screen, admin, "down", "r")
    assert screen._message == "It runs again."
    assert await state_of(connection, id) == "enqueued"
    screen.view.chosen = Item("task", str(id))
    await screen.press("r", admin)
    assert (screen._message or "").startswith("It cannot be retried")


@pytest.mark.parametrize(("answer", "state"), [("y", "enqueued"), ("n", "failed")])
async def test_r_on_a_name_asks_and_retries_all_of_it(
    watching: tuple[Watch, QueueAdmin, Any], answer: str, state: str
) -> None:
    screen, admin, connection = watching
    ids = [await add_ended(connection, "failed", name="shop.bad") for _ in range(3)]
    other = await add_ended(connection, "failed", name="shop.other")
    screen.view.chosen = Item("name", "shop.bad")

    await screen.press("r", admin)
    assert "3" in (screen._question or "")
    await screen.press(answer, admin)
    assert screen._question is None
    assert {await state_of(connection, id) for id in ids} == {state}
    assert await state_of(connection, other) == "failed"
    assert screen._message == ("3 tasks were put into the line again." if answer == "y" else None)


async def test_keys_that_cannot_do_anything_say_so(
    watching: tuple[Watch, QueueAdmin, Any],
) -> None:
    screen, admin, _ = watching
    screen.view.chosen = Item("task", str(UUID(int=7)))
    await screen.press("r", admin)
    assert "No task has the id" in (screen._message or "")
    for key in ("enter", "x", "down", "back"):
        await screen.press(key, admin)
    assert "Keys" in drawn(await _after(screen, admin, "?"))


async def test_a_task_that_was_pruned_while_it_was_looked_at_closes_its_page(
    watching: tuple[Watch, QueueAdmin, Any],
) -> None:
    screen, admin, _ = watching
    screen._views.append(watch.View(Item("task", str(UUID(int=7))), page="tasks"))

    class Glass:
        def update(self, body: Any, *, refresh: bool) -> None:
            screen._over = True
            assert "No task has the id" in drawn(body)

    screen._interval = 0.01
    await screen._while_connected(admin, Glass())  # type: ignore[arg-type]
    assert len(screen._views) == 1


async def _after(screen: Watch, admin: QueueAdmin, key: str) -> Any:
    await screen.press(key, admin)
    return await screen._body(admin)


# Watch: the command.


def test_watch_without_a_terminal_is_one_look(fastedgy: Run, rows: Rows) -> None:
    rows(add)
    said = fastedgy("queue", "watch").output
    assert "1 task waits and no worker runs." in said
    assert "\x1b" not in said
    told = json.loads(fastedgy("queue", "watch", "--json").output)
    assert set(told) == {"overview", "points", "workers"}
    assert told["overview"]["states"]["counts"]["enqueued"] == 1


class Typist:
    """A command in a terminal of 100 columns and 40 lines."""

    def __init__(self, *words: str, env: dict[str, str]) -> None:
        self._mine, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fastedgy", *words], stdin=theirs, stdout=theirs, stderr=theirs,
            env=env, start_new_session=True,
        )  # fmt: skip
        self.seen = ""

    def sees(self, text: str, within: float = PATIENCE) -> None:
        deadline = time.monotonic() + within
        while text not in self.seen:
            ready, _, _ = select.select([self._mine], [], [], 0.2)
            if ready:
                self.seen += os.read(self._mine, 65_536).decode(errors="replace")
            assert time.monotonic() < deadline, self.seen[-3_000:]
            assert ready or self._process.poll() is None, self.seen[-3_000:]

    def types(self, keys: bytes) -> None:
        self.seen = ""
        os.write(self._mine, keys)

    def ended(self) -> int:
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None:
            if select.select([self._mine], [], [], 0.1)[0]:
                self.seen += os.read(self._mine, 65_536).decode(errors="replace")
            assert time.monotonic() < deadline
        assert termios.tcgetattr(self._theirs) == self.before, "the terminal is as it was"
        return self._process.returncode

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._mine)
        os.close(self._theirs)


@pytest.fixture
def typist(database_url: str) -> Iterator[Typist]:
    env = environment(DATABASE_URL=database_url, TERM="xterm-256color")
    made = Typist("queue", "watch", "--interval", "0.2", env=env)
    yield made
    made.close()


def test_watch_lives_in_a_terminal_and_hears_keys(typist: Typist, rows: Rows) -> None:
    typist.sees("Nothing to do, and no worker runs.")
    rows(lambda connection: add(connection, queue="mail"))
    typist.sees("mail")
    typist.types(b"jp")
    typist.sees("Queue mail is paused.")
    # The connection is cut; the screen says so at most, and goes on.
    rows(
        lambda c: c.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'fastedgy command' AND datname = current_database()"
        )
    )
    typist.types(b"?")
    typist.sees("pause or resume the chosen queue")
    typist.types(b"q")
    assert typist.ended() == 0
