"""docs/operations.md names every reason of `explain` and every finding of `doctor`, no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import page

from fastedgy import admin
from fastedgy.admin.doctor_work import _TROUBLES
from fastedgy.cli.queue import queue

ADMIN = Path(admin.__file__).parent
PAGE = page("docs/operations.md")


def made(word: str, *files: str) -> set[str]:
    """The codes with which a module makes its findings or reasons."""
    text = "".join((ADMIN / file).read_text() for file in files)
    found = set(re.findall(rf'{word}\(\s*"([a-z_]+)"', text))
    found |= set(re.findall(r'code, text = "([a-z_]+)"', text))
    return found | set(re.findall(rf'{word}\(\s*"[a-z_]+" if [^\n]* else "([a-z_]+)"', text))


def told(section: str) -> set[str]:
    """The codes in the first column of a section's table."""
    body = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", body, re.MULTILINE)
    return {code for row in rows for code in re.findall(r"`([a-z_]+)`", row)}


def test_every_reason_of_explain_is_told() -> None:
    codes = made("Reason", "reasons.py", "states.py")
    assert codes == told("Why a task does not run")


def test_every_finding_of_doctor_is_told() -> None:
    codes = made("Finding", "doctor_server.py", "doctor_schema.py", "doctor_work.py")
    codes |= {f"worker_{name}" for name in _TROUBLES} | made("_drift", "doctor_schema.py")
    codes |= {"schema_drift"}
    assert codes == told("What is wrong: the doctor")


@pytest.mark.parametrize(
    "name",
    ["explain", "doctor", "watch", "pause", "resume", "limit", "breakers", "tree", "logs", "drain",
     "audit"],
)  # fmt: skip
def test_every_command_that_is_told_is_there_and_takes_json(name: str) -> None:
    command = queue.commands[name]
    assert f"fastedgy queue {name}" in PAGE
    assert "--json" in {option for each in command.params for option in each.opts}
