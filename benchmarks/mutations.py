"""Break the engine's rules one at a time, and see that the tests notice.

    python -m benchmarks.mutations [NAME …] [--json]

Each mutation is made in a copy of the sources in a temporary folder, where the tests that guard the
rule are run, and must fail; without the mutation they must pass. Exit code 1 when one of them
survives, or can no longer be made because the line it changes is not there any more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
WITHIN = 300.0
"""Seconds that the tests of one mutation may take. One that hangs them is noticed, too."""


@dataclass(frozen=True)
class Mutation:
    """A rule, the change that breaks it, and the tests that must notice."""

    name: str
    rule: str
    file: str
    change: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "fence",
        "a function that returned names the claim it was run under",
        "fastedgy/store/returned.py",
        ((" AND task.run = outcome.run", ""),),
        ("tests/store/test_finish.py", "tests/store/test_model.py"),
    ),
    Mutation(
        "fence of failures",
        "every other outcome names it, too",
        "fastedgy/store/finish.py",
        ((" AND task.run = outcome.run", ""),),
        ("tests/store/test_finish.py", "tests/store/test_model.py"),
    ),
    Mutation(
        "skip locked",
        "a claim passes by what another is claiming",
        "fastedgy/store/claim.py",
        (("FOR UPDATE SKIP LOCKED", "FOR UPDATE"),),
        ("tests/store/test_claim.py",),
    ),
    Mutation(
        "no lock",
        "a claim locks what it takes",
        "fastedgy/store/claim.py",
        (("              FOR UPDATE SKIP LOCKED\n", ""),),
        ("tests/store/test_claim.py",),
    ),
    Mutation(
        "drain order",
        "a stopping worker gives its tasks back after they have ended, not before",
        "fastedgy/worker/ending.py",
        (
            (
                "        parts.executor.close()\n",
                "        parts.executor.close()\n        await parts.claims.run(self._retire)\n",
            ),
        ),
        ("tests/faults/test_stopping.py", "tests/worker/test_processes.py"),
    ),
    Mutation(
        "beats end first",
        "a stopping worker beats until its last outcome is written",
        "fastedgy/worker/ending.py",
        (
            (
                "        parts.fetcher.stop()\n        parts.maintenance.stop()\n",
                "        heartbeat.stop()\n        parts.fetcher.stop()\n"
                "        parts.maintenance.stop()\n",
            ),
        ),
        ("tests/faults/test_stopping.py",),
    ),
    Mutation(
        "beats in the loop",
        "a blocked event loop cannot stop the heartbeat",
        "fastedgy/worker/heartbeat.py",
        (
            (
                "        self._thread.start()\n",
                "        self._task = asyncio.get_running_loop().create_task("
                "self._beat_and_watch())\n",
            ),
        ),
        ("tests/faults/test_hostile_tasks.py",),
    ),
    Mutation(
        "links",
        "no child is missed that is linked while its parent ends",
        "fastedgy/store/returned.py",
        ((" AND task.xmin = ANY (ARRAY [seen.version])", ""),),
        ("tests/store/test_insert.py",),
    ),
    Mutation(
        "parents",
        "a child waits for all of its parents",
        "fastedgy/store/insert_mixed.py",
        (("WHEN $waiting_on > 0 THEN 'waiting'", "WHEN $waiting_on > 1 THEN 'waiting'"),),
        ("tests/store/test_insert.py",),
    ),
)


def copy_to(folder: Path) -> None:
    """The sources as they are here, laid out so that they are found without an installation."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        source = ROOT / name
        if source.is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    # Not in both places: beside the tests they would be a project's own.
    (folder / "migrations").rename(folder / "fastedgy" / "migrations")


def survives(mutation: Mutation) -> str | None:
    """None when the tests notice the mutation, else why they do not."""
    with tempfile.TemporaryDirectory(prefix="fastedgy-mutation-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        copy_to(folder)
        file = folder / mutation.file
        whole = text = file.read_text()
        for old, new in mutation.change:
            if old not in text:
                return f"{mutation.file} has no {old!r} any more"
            text = text.replace(old, new)
        file.write_text(text)
        failed, last = run_tests(folder, mutation.tests)
        if not failed:
            return f"the tests pass: {last}"
        # Tests that fail without it, too, have noticed nothing.
        file.write_text(whole)
        failed, last = run_tests(folder, mutation.tests)
        return f"the tests fail as it is: {last}" if failed else None


def run_tests(folder: Path, tests: Sequence[str]) -> tuple[bool, str]:
    """Whether they fail or hang, and the last line that they print."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-n", "0", "-q", "-x", "--timeout", "60", *tests],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, timeout=WITHIN,
            capture_output=True, text=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return True, f"not over after {WITHIN:g} s"
    return done.returncode != 0, (done.stdout.strip().splitlines()[-1:] or ["nothing"])[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="which ones; all of them if none is named")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    asked = parser.parse_args()
    unknown = set(asked.names) - {mutation.name for mutation in MUTATIONS}
    if unknown:
        parser.error(f"there is no mutation {', '.join(sorted(unknown))}")
    alive = 0
    for mutation in MUTATIONS:
        if asked.names and mutation.name not in asked.names:
            continue
        began = time.monotonic()
        why = survives(mutation)
        alive += why is not None
        seconds = round(time.monotonic() - began, 1)
        if asked.json:
            line = {"mutation": mutation.name, "rule": mutation.rule, "noticed": why is None,
                    "why_not": why, "seconds": seconds}  # fmt: skip
            print(json.dumps(line), flush=True)
        else:
            word = "noticed" if why is None else f"SURVIVES ({why})"
            print(f"{mutation.name:18} {word} in {seconds} s: {mutation.rule}", flush=True)
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
