"""A virtual environment for each peer, made when it is first needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.peers import PeerPackage

DEFAULT = Path("~/.cache/fastedgy-benchmarks").expanduser()
COMMON = ("uvloop",)
"""Everybody runs on it, as we do."""
MARK = "benchmarks.json"
INSTALL_LIMIT = 900.0
ASK_LIMIT = 30.0

Python = tuple[int, int]


class NotInstallable(Exception):
    """The reason why there is no environment for a peer."""


def environment(
    peer: PeerPackage, folder: Path, *, upgrade: bool, say: Callable[[str], None]
) -> Path:
    """The interpreter of the peer's environment, made or brought to the newest release if needed.

    Raises NotInstallable.
    """
    place = folder / peer.name
    python = place / "bin" / "python"
    wanted = {"requirements": [*peer.requirements, *COMMON]}
    made = _mark(place) == wanted and python.exists()
    if made and not upgrade:
        return python
    if not made:
        interpreter = _interpreter(peer)
        say(f"{peer.name}: making a virtual environment in {place}")
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        _run([str(interpreter), "-m", "venv", str(place)], "python -m venv")
    say(f"{peer.name}: installing the newest {', '.join(peer.requirements)}")
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
               "--upgrade", *wanted["requirements"]]  # fmt: skip
    _run(command, "pip install")
    (place / MARK).write_text(json.dumps(wanted))
    return python


def _mark(place: Path) -> object:
    try:
        return json.loads((place / MARK).read_text())
    except (OSError, ValueError):
        return None


def _run(command: list[str], words: str) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_LIMIT, env=environ, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstallable(f"`{words}` did not end well: {type(error).__name__}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        lines = lines or done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NotInstallable(f"`{words}` failed: {lines[-1].removeprefix('ERROR: ')}")


def _interpreter(peer: PeerPackage) -> Path:
    """This Python, or the oldest other one that is new enough for the peer."""
    if sys.version_info[:2] >= peer.python:
        return Path(sys.executable)
    found = {version: path for path in _others() if (version := _version(path))}
    fitting = sorted(version for version in found if version >= peer.python)
    if not fitting:
        needed, here = (".".join(map(str, v)) for v in (peer.python, sys.version_info[:2]))
        raise NotInstallable(f"needs Python {needed} or newer, and only {here} was found here")
    return found[fitting[0]]


def _others() -> Iterator[Path]:
    for minor in range(12, 20):
        if path := shutil.which(f"python3.{minor}"):
            yield Path(path)
    yield from Path("~/.pyenv/versions").expanduser().glob("3.*/bin/python")


def _version(python: Path) -> Python | None:
    """Asked, not read off its name: a pyenv shim is there for versions that are switched off."""
    try:
        done = subprocess.run(
            [str(python), "--version"], capture_output=True, text=True, timeout=ASK_LIMIT,
            check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.match(r"Python (\d+)\.(\d+)\.\d+\s*$", done.stdout)  # no release candidates
    return (int(found[1]), int(found[2])) if found else None
