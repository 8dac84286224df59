"""The parts of the supervisor that need no process: options, backoff, scaling, board, files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from helpers import wait_until

from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import ConfigurationError
from fastedgy.supervisor import SupervisorOptions
from fastedgy.supervisor.board import Board
from fastedgy.supervisor.child import reap_strangers
from fastedgy.supervisor.options import Tempo
from fastedgy.supervisor.reload import changes, snapshot
from fastedgy.supervisor.scaling import Load, Scaling, Step
from fastedgy.supervisor.seats import Backoff


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"workers": 0}, r"--workers=0 makes no sense"),
            ({"concurrency": -1}, r"--concurrency=-1 makes no sense"),
            ({"min_workers": 5}, r"--min-workers=5 is above --workers=4\. Lower the first"),
        ],
    )
    def test_nonsense_is_named(self, options: dict[str, int], message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            SupervisorOptions(**{"workers": 4, "concurrency": 10, **options})

    @pytest.mark.parametrize(
        ("option", "setting", "kept"),
        [(None, None, 4), (None, 2, 2), (3, 2, 3), (0, None, 1), (None, 8, 4)],
    )
    def test_the_minimum_is_the_option_then_the_setting_then_all(
        self, option: int | None, setting: int | None, kept: int
    ) -> None:
        config = QueuedTaskConfig(min_workers=setting, max_workers=16)
        options = SupervisorOptions(workers=4, concurrency=1, min_workers=option)
        assert options.kept(config) == kept


class TestBackoff:
    def test_it_doubles_from_the_second_quick_death_on(self) -> None:
        backoff = Backoff(Tempo())
        assert [backoff.after_end(t, lived=1) for t in range(9)] == [0, 1, 2, 4, 8, 16, 30, 30, 30]

    def test_a_long_life_makes_it_forget(self) -> None:
        backoff = Backoff(Tempo())
        for now in range(5):
            backoff.after_end(now, lived=1)
        assert backoff.after_end(15, lived=10) == 0
        assert backoff.after_end(16, lived=1) == 0
        assert backoff.after_end(17, lived=1) == 1

    def test_a_calm_makes_it_forget(self) -> None:
        backoff = Backoff(Tempo())
        for now in range(5):
            backoff.after_end(now, lived=1)
        assert backoff.after_end(45, lived=1) == 0


class TestScaling:
    full, half, idle = Load(True, 0), Load(False, 0), Load(False, 61)

    @pytest.fixture
    def scaling(self) -> Scaling:
        return Scaling(least=1, most=3, idle_timeout=60, grow_after=1)

    def test_it_grows_when_all_slots_were_busy_for_a_second(self, scaling: Scaling) -> None:
        assert scaling.decide(0.0, [self.full]) is Step.STAY
        assert scaling.decide(0.9, [self.full]) is Step.STAY
        assert scaling.decide(1.0, [self.full]) is Step.GROW
        assert scaling.decide(1.1, [self.full] * 2) is Step.STAY, "the wait starts anew"

    def test_a_free_slot_starts_the_wait_anew(self, scaling: Scaling) -> None:
        scaling.decide(0.0, [self.full, self.full])
        scaling.decide(0.9, [self.full, self.half])
        assert scaling.decide(1.0, [self.full, self.full]) is Step.STAY

    def test_it_never_grows_above_the_most(self, scaling: Scaling) -> None:
        scaling.decide(0.0, [self.full] * 3)
        assert scaling.decide(9.0, [self.full] * 3) is Step.STAY

    def test_it_shrinks_down_to_the_least(self, scaling: Scaling) -> None:
        assert scaling.decide(0.0, [self.full, self.idle]) is Step.SHRINK
        assert scaling.decide(0.0, [self.idle]) is Step.STAY
        assert scaling.decide(0.0, [self.half, self.half]) is Step.STAY


def test_the_board_survives_the_process_that_wrote_it() -> None:
    board = Board(3)
    assert board.started() == []
    ids = [uuid4(), UUID(int=0), uuid4()]
    script = (
        "import mmap, os, sys; fd = int(sys.argv[1]);"
        "memory = mmap.mmap(fd, 48); memory[:] = bytes.fromhex(sys.argv[2]);"
        "os.kill(os.getpid(), 9)"
    )
    content = b"".join(task.bytes for task in ids).hex()
    command = [sys.executable, "-S", "-c", script, str(board.fd), content]
    assert subprocess.run(command, pass_fds=(board.fd,), check=False).returncode == -9
    assert board.started() == [ids[0], ids[2]]
    board.close()


def test_strangers_are_reaped_and_own_children_are_not() -> None:
    own = subprocess.Popen([sys.executable, "-S", "-c", ""])
    own.wait()
    stranger = os.posix_spawn(sys.executable, [sys.executable, "-S", "-c", ""], os.environ)

    def reaped() -> None:
        reap_strangers({own.pid})
        assert not Path(f"/proc/{stranger}").exists()

    wait_until(reaped)


class TestFiles:
    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        for name in ("main.py", "shop/mail.py", ".git/hook.py", "shop/__pycache__/mail.py",
                     "env/pyvenv.cfg", "env/lib/x.py", "notes.txt"):  # fmt: skip
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("x\n")
        return tmp_path

    def test_only_the_code_of_the_project_is_watched(self, project: Path) -> None:
        names = {str(Path(path).relative_to(project)) for path in snapshot(project)}
        assert names == {"main.py", "shop/mail.py"}

    def test_a_folder_that_is_gone_is_no_error(self, project: Path) -> None:
        assert snapshot(project / "missing") == {}

    async def test_a_burst_of_changes_is_one(self, project: Path) -> None:
        known = snapshot(project)
        (project / "main.py").write_text("changed\n")
        (project / "new.py").write_text("new\n")
        (project / "shop" / "mail.py").unlink()
        changed = await anext(changes(project, known, interval=0.02))
        assert [str(Path(path).relative_to(project)) for path in changed] == [
            "main.py",
            "new.py",
            "shop/mail.py",
        ]
