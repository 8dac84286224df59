"""A minute in which everything is broken on purpose, beside the other tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment

ROOT = Path(__file__).parent.parent.parent
BROKEN = ("lost", "stuck", "outcomes_twice", "ran_after_done", "phantom", "overlapping_runs",
          "ended_wrongly")  # fmt: skip


@pytest.mark.timeout(360)
def test_a_minute_of_kills_freezes_cuts_and_restarts_breaks_no_promise() -> None:
    command = [sys.executable, "-m", "benchmarks.chaos", "--seconds", "60", "--seed", "1"]
    done = subprocess.run(
        [*command, "--rate", "60", "--json"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=330,
        check=False,
    )
    assert done.stdout, done.stderr
    figures = json.loads(done.stdout)
    assert (done.returncode, figures["complaints"]) == (0, []), figures
    assert {name: figures[name] for name in BROKEN} == dict.fromkeys(BROKEN, 0)
    assert figures["acknowledged"] > 1_000
    assert figures["worker_kills"] >= 4
    assert figures["restarts"] >= 1
