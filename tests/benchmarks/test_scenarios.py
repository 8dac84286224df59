"""Scenarios at a size at which they take seconds: the figures say nothing, the checks inside do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import environment

from benchmarks import cli
from benchmarks.harness import BenchmarkError, Lab
from benchmarks.report import Figures, Result, Scenario

ROOT = Path(__file__).parent.parent.parent
KEYS = {"scenario", "value", "unit", "floor", "ratio", "bar", "holds"}


def measured(server_url: str, scenario: str, *options: str) -> dict[str, Any]:
    """The line of JSON that a tiny run prints."""
    command = [sys.executable, "-m", "benchmarks", scenario, "--json", "--repeat", "1"]
    done = subprocess.run(
        [*command, "--scale", "0.005", *options],
        cwd=ROOT,
        env=environment(DATABASE_URL=server_url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    [line] = done.stdout.splitlines()
    result: dict[str, Any] = json.loads(line)
    return result


@pytest.mark.parametrize(("scenario", "unit"), [("enqueue_one", "tasks/s"), ("drain_1", "tasks/s")])
def test_a_scenario_prints_its_figure_the_floor_and_the_bar_as_one_line_of_json(
    server_url: str, scenario: str, unit: str
) -> None:
    result = measured(server_url, scenario, "--allow-volatile")
    assert result.keys() >= KEYS
    assert result["scenario"] == scenario
    assert result["unit"] == unit
    assert result["value"] > 0
    assert result["floor"] > 0
    assert result["holds"] is (result["ratio"] >= result["bar"])


async def test_what_cannot_be_measured_does_not_keep_the_others_from_it(
    server_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(lab: Lab) -> Figures:
        raise BenchmarkError("The server did not start.")

    async def fine(lab: Lab) -> Figures:
        return {"value": 1.0}

    for name, once in (("broken", broken), ("fine", fine)):
        monkeypatch.setitem(cli.SCENARIOS, name, Scenario(name, "s", name, once))
    told: list[Result] = []
    failed = await cli.measure(
        server_url, ["broken", "fine"], scale=0.01, repeat=1, allow_volatile=True, told=told.append
    )
    assert failed == ["broken"]
    assert [result.scenario.name for result in told] == ["fine"]
    assert "broken could not be measured: The server did not start." in capsys.readouterr().err
