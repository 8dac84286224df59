"""A minute in which everything is broken on purpose, beside the other tests."""

from __future__ import annotations

import json
import signal
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
    with subprocess.Popen(
        [*command, "--rate", "60", "--json"], cwd=ROOT, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=270)
        finally:
            if process.poll() is None:  # it has processes of its own to end
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=60)
    assert out, err
    figures = json.loads(out)
    assert (process.returncode, figures["complaints"]) == (0, []), figures
    assert {name: figures[name] for name in BROKEN} == dict.fromkeys(BROKEN, 0)
    assert figures["acknowledged"] > 1_000
    assert figures["worker_kills"] >= 1
    assert figures["restarts"] >= 1
