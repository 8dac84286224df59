"""What a task costs the server must not grow unnoticed. Counted, not timed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment

from fastedgy.embedded.binaries import find_installation
from fastedgy.embedded.places import Places
from fastedgy.errors import EmbeddedPostgresError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def own_server(tmp_path: Path) -> None:
    """The counting needs a server of its own, with an extension: the embedded one."""
    places = Places(tmp_path)
    try:
        find_installation(places.account(), made_by=None, data=places.data)
    except EmbeddedPostgresError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("own_server")
def test_a_task_costs_the_server_no_more_than_is_written_down() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "costs"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
