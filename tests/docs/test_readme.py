"""README.md: its program runs, its commands are the two that matter, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from commands import Background, environment, free_port
from helpers import NO_TLS
from pages import ROOT, blocks, page

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
]


def test_the_program_is_short() -> None:
    [program] = blocks("README.md", "python")

    assert len([line for line in program.code.splitlines() if line.strip()]) <= 20


def test_the_program_runs(database_url: str, tmp_path: Path) -> None:
    [program] = blocks("README.md", "python")
    (tmp_path / "main.py").write_text(program.code)
    env = environment(DATABASE_URL=database_url)
    port = free_port()

    # The workers beside the web server, in one command.
    with Background(f"fastedgy serve --workers 1 --port {port}", tmp_path, env) as web:
        web.wait_for("Serving at")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, verify=NO_TLS) as client:
            added = client.post("/texts", params={"text": "the quick brown fox"})
            counted = client.get(f"/texts/{added.json()['task_id']}")
            unknown = client.get(f"/texts/{UUID(int=0)}")

    assert added.status_code == 202
    assert counted.json() == {"words": 4}
    assert unknown.status_code == 404


def test_it_shows_exactly_the_two_commands() -> None:
    assert [block.code.strip() for block in blocks("README.md", "bash", "console", "sh")] == [
        "python3 -m venv .venv && .venv/bin/pip install -e '.[embedded,test]'"
        " && .venv/bin/fastedgy demo",
        ".venv/bin/pytest",
    ]


@pytest.mark.parametrize("name", PAGES)
def test_links_between_pages_lead_somewhere(name: str) -> None:
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", page(name), flags=re.M | re.S)
    targets = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", prose)

    for target, anchor in targets:
        place = (ROOT / name).parent / target if target else ROOT / name
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), f"{target}#{anchor}"


def anchors(place: Path) -> set[str]:
    """The places in a page that a link can lead to."""
    titles = re.findall(r"^#+ +(.*?) *$", place.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_free_of_slips(name: str) -> None:
    """Trailing spaces, unclosed fences, and Python that does not compile."""
    text = page(name)
    assert not re.search(r"[ \t]+$", text, re.M)
    assert text.count("\n```") % 2 == 0
    for block in blocks(name, "python"):
        compile(block.code, f"{name}:{block.line}", "exec", flags=0x2000)  # await is allowed
