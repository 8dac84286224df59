"""What mypy says of an application's code. One run for all of it, with the cache of `.ci/run`'s."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

INJECTED = """\
from fastedgy.dependencies import Inject, Token, get_service
class Tasks: ...
TOKEN = Token[Tasks]('other')
async def route(tasks: Tasks = Inject(Tasks), other: Tasks = Inject(TOKEN)) -> None: ...
reveal_type(get_service(Tasks))
reveal_type(get_service(TOKEN))
"""

SCHEDULED = """\
from fastedgy.tasks import Tasks
async def double(number: int) -> int: return 2 * number
def half(number: int) -> float: return number / 2
async def route(tasks: Tasks) -> None:
    reveal_type(tasks.schedule(double, 1))
    reveal_type(await tasks.after_route.task(name='x').schedule(half, number=1).wait())
    tasks.after_response.schedule(double, 'one')
    tasks.task(shild=True)
"""


def test_injected_services_and_scheduled_functions_keep_their_types(tmp_path: Path) -> None:
    files = {"injected": INJECTED, "scheduled": SCHEDULED}
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    # As `.ci/run` checks the package: with other options or from another folder, mypy would read
    # all of it again, for half a minute.
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *(f"{tmp_path}/{name}.py" for name in files)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    # The cache may name the folder of an earlier run, if its files said the same.
    found = re.sub(r"^/\S*/(?=\w+\.py:)", "", found.replace("builtins.", ""), flags=re.MULTILINE)

    said = {name: [line for line in found.splitlines() if line.startswith(name)] for name in files}
    assert said["injected"] == [
        f'injected.py:{line}: note: Revealed type is "injected.Tasks"' for line in (5, 6)
    ], found
    assert "Task[[number: int], int]" in found
    assert 'scheduled.py:6: note: Revealed type is "float"' in found
    assert 'scheduled.py:7: error: No overload variant of "schedule"' in found
    assert 'scheduled.py:8: error: Unexpected keyword argument "shild"' in found
