"""The supervisor with real processes and real signals; the workers are fakes that take orders."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from helpers import eventually
from stage import QUICK, Stage, board

from fastedgy.errors import ConfigurationError
from fastedgy.models import Tables
from fastedgy.supervisor.child import Child

StartOrder = Callable[[str], None]


def send(number: int) -> None:
    """A signal for the supervisor, which runs in this process."""
    os.kill(os.getpid(), number)


async def test_each_worker_is_told_all_about_itself(stage: Stage) -> None:
    stage.open(2, app="shop:app", queues=("mail", "default"), concurrency=7, log_format="json")
    first, second = await stage.ready(2)
    told = stage.assignment(first)

    assert told["app"] == "shop:app"
    assert "url" not in told
    environment = Path(f"/proc/{first.pid}/environ").read_bytes().split(b"\0")
    assert b"DATABASE_URL=postgresql://nowhere" in environment
    assert told["queues"] == ["mail", "default"]
    assert told["concurrency"] == 7
    assert told["solo"] is False
    assert (told["log_format"], told["log_level"]) == ("json", "info")
    assert told["worker_id"] == str(first.worker_id)
    assert told["worker_id"] != stage.assignment(second)["worker_id"]
    assert told["supervisor_id"] == stage.assignment(second)["supervisor_id"]
    assert os.getsid(first.pid) == first.pid, "a Ctrl-C must not reach the workers"


async def test_the_start_is_one_structured_line(stage: Stage) -> None:
    stage.open(1)
    record = await stage.logged("queue started")
    assert (record.workers, record.concurrency, record.queues) == (1, 2, "all")


class TestDeath:
    async def test_a_killed_worker_is_replaced_at_once_and_reported(self, stage: Stage) -> None:
        stage.open(2)
        victim, other = await stage.ready(2)
        task = uuid4()
        stage.order(victim, board(task, task))
        await eventually(lambda: _assert(victim.board.started() == [task]))
        os.kill(victim.pid, signal.SIGKILL)

        [obituary] = await stage.reported(1)
        assert obituary.worker_id == victim.worker_id
        assert obituary.exit_reason == "killed by SIGKILL"
        assert obituary.started == [task]
        assert obituary.tables == Tables()
        assert other in await stage.replaced(victim, count=2)

    @pytest.mark.parametrize(
        ("order", "reason"),
        [
            (f"die {int(signal.SIGSEGV)}", "killed by SIGSEGV"),
            ("exit 1", "exit code 1"),
            ("abort 0", "exit code 0"),
            (f"die {int(signal.SIGRTMIN) + 3}", f"killed by signal {int(signal.SIGRTMIN) + 3}"),
        ],
    )
    async def test_the_reason_is_in_words(self, stage: Stage, order: str, reason: str) -> None:
        stage.open(1)
        [victim] = await stage.ready(1)
        stage.order(victim, order)
        [obituary] = await stage.reported(1)
        assert obituary.exit_reason == reason
        record = await stage.logged("worker ended")
        assert (record.reason, record.levelno, record.pid) == (reason, logging.WARNING, victim.pid)

    @pytest.mark.parametrize("code", [0, 3, 78])
    async def test_an_exit_code_that_was_not_announced_is_a_death(
        self, stage: Stage, code: int
    ) -> None:
        stage.open(1)
        [victim] = await stage.ready(1)
        task = uuid4()
        stage.order(victim, board(task))
        await eventually(lambda: _assert(victim.board.started() == [task]))
        stage.order(victim, f"abort {code}")
        await stage.replaced(victim)
        [obituary] = await stage.reported(1)
        assert (obituary.exit_reason, obituary.started) == (f"exit code {code}", [task])

    async def test_the_restart_does_not_wait_for_the_database(self, stage: Stage) -> None:
        stage.open(1)
        [victim] = await stage.ready(1)
        stage.database.clear()
        stage.order(victim, "exit 1")
        await stage.replaced(victim)
        assert stage.obituaries == []
        stage.database.set()
        await stage.reported(1)

    async def test_a_worker_that_wants_a_replacement_gets_one_and_no_task_is_blamed(
        self, stage: Stage
    ) -> None:
        stage.open(1)
        [tired] = await stage.ready(1)
        stage.order(tired, board(uuid4()))
        stage.order(tired, "exit 3")
        await stage.replaced(tired)
        [obituary] = await stage.reported(1)
        assert (obituary.exit_reason, obituary.started) == ("exit code 3", [])

    async def test_a_worker_that_drains_on_its_own_is_replaced_before_its_end(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_DRAIN", "slow")
        stage.open(1)
        [old] = await stage.ready(1)
        os.kill(old.pid, signal.SIGTERM)
        assert old in await stage.ready(2)

    async def test_what_a_dead_worker_had_started_dies_with_it(self, stage: Stage) -> None:
        stage.open(1)
        [victim] = await stage.ready(1)
        stage.order(victim, "spawn")

        def spawned() -> int:
            last = stage.diary(victim.pid)[-1].split()
            assert last[0] == "spawned"
            return int(last[1])

        program = await eventually(spawned)
        os.kill(victim.pid, signal.SIGKILL)

        def gone() -> None:
            with suppress(FileNotFoundError):
                state = Path(f"/proc/{program}/stat").read_text().split()[2]
                assert state == "Z"

        await eventually(gone)

    async def test_the_tables_of_the_project_are_the_ones_that_get_the_report(
        self, stage: Stage
    ) -> None:
        stage.open(1)
        [victim] = await stage.ready(1)
        stage.order(
            victim,
            'say {"event": "beat", "tables": {"tasks": "jobs", "links": "job_links", '
            '"logs": "job_logs", "workers": "job_workers"}}',
        )
        stage.order(victim, "exit 1")
        [obituary] = await stage.reported(1)
        assert obituary.tables == Tables("jobs", "job_links", "job_logs", "job_workers")

    async def test_a_worker_that_keeps_dying_is_restarted_ever_more_slowly(
        self, stage: Stage, start_order: StartOrder
    ) -> None:
        start_order("exit 1")
        stage.open(1)
        await stage.logged("worker ended", times=5)
        waits = [r.restart_in for r in stage.logs.records if r.getMessage() == "worker ended"]
        assert waits[:5] == [0.0, 0.1, 0.2, 0.4, 0.4]

    async def test_a_command_that_cannot_be_run_is_logged_and_tried_again(
        self, stage: Stage, tmp_path: Path
    ) -> None:
        stage.open(1, command=(str(tmp_path / "missing"),))
        record = await stage.logged("worker cannot be started", times=2)
        assert "missing" in record.error


class TestSilence:
    config = {"heartbeat": 0.3, "lease": 1.0}  # noqa: RUF012

    async def test_a_silent_worker_is_killed_and_only_then_reported(self, stage: Stage) -> None:
        stage.open(1, config=self.config)
        [victim] = await stage.ready(1)
        task = uuid4()
        stage.order(victim, board(task))
        stage.order(victim, "silent")
        [obituary] = await stage.reported(1)
        assert obituary.exit_reason == "no sign of life for 0.5 s, killed by SIGKILL"
        assert obituary.started == [task]
        assert not Path(f"/proc/{victim.pid}").exists()

    async def test_a_stopped_worker_counts_as_silent(self, stage: Stage) -> None:
        stage.open(1, config=self.config)
        [victim] = await stage.ready(1)
        os.kill(victim.pid, signal.SIGSTOP)
        [obituary] = await stage.reported(1)
        assert obituary.worker_id == victim.worker_id
        await stage.replaced(victim)

    async def test_nonsense_is_a_sign_of_life_too(self, stage: Stage) -> None:
        stage.open(1)
        [worker] = await stage.ready(1)
        stage.order(worker, "mumble [1, {")
        record = await stage.logged("worker reported nonsense")
        assert record.line == b"[1, {"
        assert stage.children() == [worker]

    async def test_nobody_is_killed_after_the_supervisor_itself_was_frozen(
        self, stage: Stage
    ) -> None:
        stage.open(1)
        [worker] = await stage.ready(1)
        assert stage.supervisor is not None
        crew = stage.supervisor.crew
        crew.look(worker.last_sign + 1_000)
        assert worker.killed_because is None

    async def test_a_worker_that_hangs_before_it_is_ready_is_replaced(
        self, stage: Stage, start_order: StartOrder
    ) -> None:
        start_order("silent")
        stage.open(1, tempo=replace(QUICK, start_limit=0.3, start_warning=0.1))
        record = await stage.logged("killing worker")
        assert record.because == "not ready after 0.3 s"
        await stage.logged("worker is slow to start")


class TestConfigurationErrors:
    async def test_one_that_refuses_stops_everything_with_its_own_words(
        self, stage: Stage, start_order: StartOrder
    ) -> None:
        start_order("refuse No module is named 'shop'.\n  Use --app.")
        stage.open(3)
        with pytest.raises(ConfigurationError, match=r"^No module is named 'shop'\. Use --app\.$"):
            await stage.ended()
        assert [r for r in stage.logs.records if r.levelno > logging.DEBUG] == []

    async def test_one_that_refuses_later_stops_the_others_too(
        self, stage: Stage, start_order: StartOrder
    ) -> None:
        stage.open(2)
        first, _ = await stage.ready(2)
        start_order("refuse The tables are outdated.")
        stage.order(first, "exit 1")
        with pytest.raises(ConfigurationError, match=r"^The tables are outdated\.$"):
            await stage.ended()

    async def test_one_without_words_is_named_by_its_exit_code(
        self, stage: Stage, start_order: StartOrder
    ) -> None:
        start_order("exit 78")
        stage.open(1)
        with pytest.raises(ConfigurationError, match=r"exit code 78"):
            await stage.ended()


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_signal_drains_all_workers(self, stage: Stage, number: int) -> None:
        stage.open(2)
        children = await stage.ready(2)
        send(number)
        await stage.ended()
        assert [stage.diary(child.pid)[-1] for child in children] == ["SIGTERM"] * 2
        assert {(o.exit_reason, *o.started) for o in stage.obituaries} == {("drained",)}

    async def test_a_second_signal_is_passed_on_so_that_the_workers_interrupt(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_DRAIN", "slow")
        stage.open(1)
        [worker] = await stage.ready(1)
        send(signal.SIGTERM)
        await stage.wrote(worker.pid, "SIGTERM")
        send(signal.SIGTERM)
        await stage.ended()
        assert stage.diary(worker.pid)[-2:] == ["SIGTERM", "SIGTERM"]

    async def test_a_worker_that_does_not_drain_is_killed_and_no_task_is_blamed(
        self, stage: Stage
    ) -> None:
        stage.open(1, config={"drain_timeout": 0.2})
        [worker] = await stage.ready(1)
        stage.order(worker, board(uuid4()))
        stage.order(worker, "stubborn")
        stage.order(worker, 'say {"event": "beat", "busy": 1}')
        await eventually(lambda: _assert(worker.busy == 1))
        send(signal.SIGTERM)
        await stage.ended()
        [obituary] = stage.obituaries
        assert obituary.exit_reason == "did not drain in time, killed by SIGKILL"
        assert obituary.started == []

    async def test_nothing_is_started_while_stopping(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_DRAIN", "slow")
        stage.open(2)
        first, second = await stage.ready(2)
        send(signal.SIGTERM)
        await stage.wrote(first.pid, "SIGTERM")
        task = uuid4()
        stage.order(first, board(task))
        stage.order(first, "exit 1")
        [obituary] = await stage.reported(1)
        assert obituary.started == [task], "it crashed by itself, and not because of the drain"
        assert stage.children() == [second]

    async def test_an_operators_wish_ends_all_and_interrupts_nobody_who_drains_already(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_DRAIN", "slow")
        stage.open(2)
        first, second = await stage.ready(2)
        os.kill(first.pid, signal.SIGTERM)
        children = await stage.ready(3)  # one was started in the place of that one
        for _ in range(2):  # a worker says it with each beat until it is obeyed
            stage.order(second, 'say {"event": "dissolve", "reason": "ann asked for it"}')

        await stage.logged("draining")
        for child in children:
            await stage.wrote(child.pid, "SIGTERM")
            stage.order(child, "exit 0")
        await stage.ended()
        assert [stage.diary(child.pid).count("SIGTERM") for child in children] == [1, 1, 1]
        assert {obituary.exit_reason for obituary in stage.obituaries} == {"drained"}

    async def test_it_leaves_although_the_database_is_away(self, stage: Stage) -> None:
        stage.open(1)
        await stage.ready(1)
        stage.database.clear()
        send(signal.SIGTERM)
        await stage.ended()
        await stage.logged("left before all ends were reported, their leases cover the rest")


class TestReplacing:
    async def test_sighup_replaces_one_by_one_and_the_new_one_is_ready_first(
        self, stage: Stage
    ) -> None:
        stage.open(2)
        old = await stage.ready(2)
        send(signal.SIGHUP)
        await stage.logged("all workers replaced")
        new = await stage.replaced(*old, count=2)
        words = [
            (record.getMessage(), record.pid in {child.pid for child in old})
            for record in stage.logs.records
            if record.getMessage() in ("worker ready", "worker drained")
        ]
        assert words[2:] == [("worker ready", False), ("worker drained", True)] * 2
        assert {child.number for child in new} == {1, 2}

    async def test_a_replacement_that_cannot_start_leaves_the_old_ones_at_work(
        self, stage: Stage, start_order: StartOrder
    ) -> None:
        stage.open(2)
        old = await stage.ready(2)
        start_order("refuse No module is named 'shop'.")
        send(signal.SIGHUP)
        record = await stage.logged("worker cannot start")
        assert record.reason == "No module is named 'shop'."
        await stage.logged("replacement failed, the other workers stay")
        assert stage.children() == old

    async def test_an_old_one_that_dies_meanwhile_is_not_replaced_twice(
        self, stage: Stage, start_order: StartOrder
    ) -> None:
        stage.open(1)
        [old] = await stage.ready(1)
        start_order("silent")
        send(signal.SIGHUP)

        def coming() -> None:
            assert len(stage.children()) == 2

        await eventually(coming)
        new = next(child for child in stage.children() if child is not old)
        os.kill(old.pid, signal.SIGKILL)
        await stage.reported(1)
        await stage.wrote_assignment(new)
        stage.order(new, "ready")
        await stage.logged("all workers replaced")
        assert stage.children() == [new]

    async def test_reload_replaces_the_workers_when_a_file_changes(
        self, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        project = tmp_path / "project"
        project.mkdir()
        (project / "main.py").write_text("app = 1\n")
        monkeypatch.chdir(project)
        stage.open(2, reload=True)
        old = await stage.ready(2)
        (project / "main.py").write_text("app = 2 + 2\n")
        await stage.replaced(*old, count=2)
        record = await stage.logged("files changed")
        assert record.files == "main.py"

    async def test_with_reload_a_broken_file_waits_for_its_correction(
        self, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_order: StartOrder
    ) -> None:
        project = tmp_path / "project"
        project.mkdir()
        monkeypatch.chdir(project)
        stage.open(1, reload=True)
        [old] = await stage.ready(1)
        start_order("refuse main.py, line 1: invalid syntax")
        stage.order(old, "exit 1")
        await stage.logged("worker cannot start")
        start_order("ready")
        (project / "main.py").write_text("app = 1\n")
        await stage.ready(1)


class TestScaling:
    async def test_full_slots_bring_a_worker_and_idleness_takes_it_again(
        self, stage: Stage
    ) -> None:
        stage.open(3, min_workers=1, config={"worker_idle_timeout": 0.5})
        [first] = await stage.ready(1)
        stage.order(first, 'say {"event": "busy", "busy": 2}')
        first, second = await stage.ready(2)
        stage.order(second, 'say {"event": "busy", "busy": 1}')
        stage.order(second, 'say {"event": "idle", "busy": 0}')
        await stage.logged("worker is idle, draining it")
        assert await stage.ready(1) == [first]
        record = await stage.logged("queue started")
        assert record.workers == "1-3"

    async def test_without_a_minimum_nothing_shrinks(self, stage: Stage) -> None:
        stage.open(2, config={"worker_idle_timeout": 0.001})
        workers = await stage.ready(2)
        send(signal.SIGHUP)  # a whole replacement is longer than the idle timeout
        await stage.logged("all workers replaced")
        await stage.replaced(*workers, count=2)
        assert "worker is idle, draining it" not in stage.logs.messages


class TestSuspects:
    async def test_a_solo_worker_runs_what_may_have_killed_others(self, stage: Stage) -> None:
        stage.open(1)
        [worker] = await stage.ready(1)
        stage.order(worker, 'say {"event": "suspects"}')
        [solo] = await stage.ready(1, solo=True)
        told = stage.assignment(solo)
        assert (told["solo"], told["concurrency"]) == (True, 1)
        stage.order(solo, "exit 0")
        await stage.logged("solo worker finished")
        await stage.reported(1)
        assert stage.children(solo=True) == []
        assert stage.children() == [worker]

    async def test_a_second_one_is_started_only_for_what_the_first_has_no_time_for(
        self, stage: Stage, start_order: StartOrder
    ) -> None:
        stage.open(2)
        worker, other = await stage.ready(2)
        start_order("silent")  # it takes its time to start
        stage.order(worker, 'say {"event": "suspects"}')
        [solo] = await eventually(lambda: _some(stage.children(solo=True)))
        # The one that replaces the dead worker sees the suspect, too, before anybody could run it.
        await self.reports_once_more(stage, other)
        stage.order(solo, "ready")
        await stage.ready(1, solo=True)
        await self.reports_once_more(stage, worker)
        assert stage.children(solo=True) == [solo]

        start_order("ready")
        stage.order(solo, 'say {"event": "beat", "busy": 1}')
        await eventually(lambda: _assert(solo.busy == 1))
        stage.order(worker, 'say {"event": "suspects"}')
        assert solo in await stage.ready(2, solo=True)

    async def reports_once_more(self, stage: Stage, worker: Child) -> None:
        """Return when the supervisor has dealt with the report of a suspect."""
        stage.order(worker, 'say {"event": "suspects", "busy": 1}')
        await eventually(lambda: _assert(worker.busy == 1))
        stage.order(worker, 'say {"event": "beat", "busy": 0}')
        await eventually(lambda: _assert(worker.busy == 0))

    async def test_a_solo_worker_that_died_is_started_again_once_its_end_is_reported(
        self, stage: Stage
    ) -> None:
        stage.open(1)
        [worker] = await stage.ready(1)
        stage.order(worker, 'say {"event": "suspects"}')
        [solo] = await stage.ready(1, solo=True)
        task = uuid4()
        stage.order(solo, board(task))
        stage.database.clear()
        stage.order(solo, f"die {int(signal.SIGSEGV)}")
        await stage.logged("worker ended")
        assert stage.children(solo=True) == []
        stage.database.set()
        [again] = await stage.ready(1, solo=True)
        [obituary] = stage.obituaries
        assert (obituary.worker_id, obituary.started) == (solo.worker_id, [task])
        stage.order(again, "exit 0")
        await stage.logged("solo worker finished")


def _assert(fact: bool) -> None:
    assert fact


def _some(children: list[Child]) -> list[Child]:
    assert children
    return children
