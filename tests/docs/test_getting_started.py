"""docs/getting-started.md, followed word for word in an empty folder, with real processes.

Two things are not taken literally: the environment is installed already, and the port is one that
is free on this machine.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Background, environment, free_port, shell
from pages import Block, blocks, page

PAGE = "docs/getting-started.md"
PORT = "8000"
LONG_RUNNING = ("fastedgy serve", "fastedgy queue start")
SWITCHED_ON_ALREADY = (". .venv/bin/activate", "cd hello")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, in which an embedded Postgres may have been left running."""
    folder = tmp_path / "hello"
    folder.mkdir()
    yield folder
    subprocess.run(
        ["fastedgy", "db", "stop"], cwd=folder, env=environment(), check=False, capture_output=True
    )


def commands(under: str) -> list[list[str]]:
    """The lines of each shell block below a heading that starts with `under`."""
    found = [block for block in blocks(PAGE, "bash") if block.heading.startswith(under)]
    assert found, f"{PAGE} has no commands under {under!r}"
    return [
        [line for line in block.code.splitlines() if line not in SWITCHED_ON_ALREADY]
        for block in found
    ]


def test_following_the_page_works(project: Path) -> None:
    port = str(free_port())
    env = environment()

    def typed(line: str) -> str:
        line = line.replace(PORT, port)
        return f"{line} --port {port}" if line.startswith("fastedgy serve") else line

    [main] = blocks(PAGE, "python")
    (project / "main.py").write_text(main.code)

    [[migrate, serve]] = commands("Terminal 1")
    shell(migrate, project, env)
    [[start]] = commands("Terminal 2")
    assert serve.startswith(LONG_RUNNING[0])
    assert start.startswith(LONG_RUNNING[1])
    with Background(typed(serve), project, env) as web, Background(start, project, env) as pool:
        web.wait_for("Serving at")
        pool.wait_for("worker ready", times=2)

        first, second, status, logs, show = commands("Terminal 3")
        assert set(json.loads(shell(typed(first[0]), project, env))) == {"task_id"}

        # The terminal keeps `ID`, so everything after it is typed into the same shell.
        script = "\n".join(typed(line) for line in [*second, "echo", *status, *logs, *show])
        said = shell(script, project, env)

        answer, _, rest = said.partition("\n")
        assert json.loads(answer)["state"] in ("enqueued", "doing")
        assert re.search(r"^done +\d", rest, re.M)
        assert len(re.findall(r"Picture \d+ of 30", rest)) >= 30
        assert re.search(r"thumbnails.*30", rest)
        assert web.stop() == 0
        assert pool.stop() == 0

    [[db_status, db_stop]] = commands("What happens if")
    assert "Up to date" in shell(db_status, project, env)
    assert "Stopped" in shell(db_stop, project, env)


def test_the_page_installs_as_the_readme_does() -> None:
    install: Block = blocks(PAGE, "bash")[0]
    assert install.heading == "Install"
    venv, pip = install.code.strip().split(" && ")
    assert venv in page("README.md")
    assert pip == ".venv/bin/pip install -e '.[embedded]'"
