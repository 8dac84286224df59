"""The command: `python -m benchmarks SCENARIO`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import costs as costs_module
from benchmarks import (
    drain,
    enqueue,
    footprint,
    inprocess,
    latency,
    limits,
    pages,
    pressure,
    pruning,
    route,
    sse,
    workflows,
    workflows_durable,
)
from benchmarks.compare import compare
from benchmarks.harness import BenchmarkError, Lab, embedded_server, forget_settings
from benchmarks.report import Result, Scenario, show
from fastedgy.database import normalize_url
from fastedgy.errors import FastEdgyError
from fastedgy.worker.process import loop_factory

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for module in (
        enqueue,
        drain,
        latency,
        route,
        inprocess,
        pressure,
        pages,
        pruning,
        footprint,
        sse,
        limits,
        workflows,
        workflows_durable,
    )
    for scenario in module.SCENARIOS
}
ORDER = ("enqueue_one", "enqueue_many", "drain_1", "drain_2", "latency", "round_trip", "route",
         "inprocess", "traced", "pinned", "deep", "pages", "pruned", "fan", "idle", "memory",
         "sse")  # fmt: skip
LIMITS = tuple(scenario.name for scenario in limits.SCENARIOS)
WORKFLOWS = tuple(
    scenario.name for scenario in (*workflows.SCENARIOS, *workflows_durable.SCENARIOS)
)


def say(line: str) -> None:
    """On stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


def console() -> Console:
    """The terminal; where there is none, wide enough for the tables."""
    found = Console()
    return found if found.is_terminal else Console(width=120)


def _url() -> str | None:
    """DATABASE_URL, before the settings are taken out of the environment."""
    found = os.environ.get("DATABASE_URL") or os.environ.get("FASTEDGY_DATABASE_URL")
    return normalize_url(found) if found else None


async def measure(
    url: str, names: Sequence[str], *, scale: float, repeat: int, allow_volatile: bool,
    told: Callable[[Result], None],
) -> list[str]:  # fmt: skip
    """Run scenarios one after the other; `told` gets each result as soon as it is there.

    Returns the names of those that could not be measured, which keeps no other from it.
    """
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    lab = Lab(url, scale, repeat, say)
    failed = []
    async with lab.opened(allow_volatile=allow_volatile) as facts:
        if not facts["durable"]:
            say("Commits are not durable here: these figures say nothing about a real server.")
        for name in names:
            try:
                result = await SCENARIOS[name].run(lab)
            except (BenchmarkError, FastEdgyError, TimeoutError) as error:
                say(f"{name} could not be measured: {error}")
                failed.append(name)
                continue
            result.environment = {**facts, "scale": scale, "repeat": repeat}
            told(result)
    return failed


def run(
    names: Sequence[str], *, as_json: bool, scale: float, repeat: int, data_dir: Path | None,
    allow_volatile: bool,
) -> None:  # fmt: skip
    """Measure, and print what came of it. Raises BenchmarkError if something was not measured."""
    url = _url()
    forgotten = [name for name in forget_settings() if "DATABASE_URL" not in name]
    if forgotten:
        say(f"The defaults are measured, so these are not used: {', '.join(forgotten)}")

    results = []

    def told(result: Result) -> None:
        results.append(result)
        if as_json:
            print(json.dumps(result.as_json(), ensure_ascii=False), flush=True)

    with ExitStack() as stack:
        if url is None:
            say("DATABASE_URL is not set: measuring on an embedded Postgres of our own.")
            url = stack.enter_context(embedded_server(data_dir))
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            failed = runner.run(
                measure(url, names, scale=scale, repeat=repeat, allow_volatile=allow_volatile,
                        told=told)
            )  # fmt: skip
    if not as_json:
        show(results, console())
    if failed:
        raise BenchmarkError(f"Not measured, for what is said above: {', '.join(failed)}.")


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("--json", "as_json", is_flag=True, help="One object a line."),
        click.option("--repeat", type=click.IntRange(1, 20), default=3, show_default=True,
                     help="Repetitions; medians are shown."),
        click.option("--scale", type=click.FloatRange(0.001, 10), default=1.0, show_default=True,
                     help="Multiplies counts and durations. Below 1: a quick look."),
        click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False, exists=True),
                     help="Where the embedded Postgres is put. Default: the folder for temporary "
                          "files. `deep` takes 10 GB."),
        click.option("--allow-volatile", is_flag=True,
                     help="Measure on a server whose commits are not durable, too."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure the queue beside raw SQL, on DATABASE_URL or an embedded Postgres of its own.

    Each measurement has a database of its own on that server, which is dropped at the end. Settings
    of the queue in the environment are not used: the defaults are measured.
    """


def _command(name: str, words: str, names: Sequence[str]) -> None:
    @main.command(name, help=words)
    @_options
    def command(**options: Any) -> None:
        try:
            run(names, **options)
        except (BenchmarkError, FastEdgyError) as error:
            raise click.ClickException(str(error)) from error


for _name in (*ORDER, *LIMITS, *WORKFLOWS):
    _command(_name, f"{SCENARIOS[_name].words} ({SCENARIOS[_name].unit}).", [_name])
_command("workflows", "Chains and joins, sagas under kills, a shared breaker.", WORKFLOWS)
_command("limits", "What limits cost, and whether they hold under kills.", LIMITS)
_command("all", "All scenarios, one after the other.", (*ORDER, *LIMITS, *WORKFLOWS))


@main.command()
@click.option("--update", is_flag=True, help="Write what was counted to benchmarks/costs.json.")
@click.option("--json", "as_json", is_flag=True, help="One object a line.")
def costs(update: bool, as_json: bool) -> None:
    """Count what a task costs the server, beside benchmarks/costs.json. No timings.

    On an embedded Postgres of its own, as the counting needs an extension and a quiet server.
    """
    forget_settings()
    try:
        counted = costs_module.count_all()
    except (BenchmarkError, FastEdgyError) as error:
        raise click.ClickException(str(error)) from error
    if update:
        costs_module.save(counted)
        say(f"Written to {costs_module.FILE}")
    expected = costs_module.load()
    complaints = costs_module.complaints(counted, expected)
    if as_json:
        for name, figures in counted.items():
            print(json.dumps({"run": name, "costs": figures, "expected": expected.get(name)}))
    else:
        costs_module.show(counted, expected, console())
    if complaints:
        raise click.ClickException("\n".join(complaints))


main.add_command(compare)
