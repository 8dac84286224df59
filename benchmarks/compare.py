"""`python -m benchmarks compare`: the other Postgres queues for Python, measured beside ours."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
from rich.console import Console

from benchmarks.harness import BenchmarkError, Lab, embedded_server, forget_settings
from benchmarks.peers import PEERS, environments, measure
from benchmarks.peers.conversation import PeerFailed, PeerQueue, driver
from benchmarks.peers.environments import NotInstallable
from benchmarks.peers.results import NAMES, OURS, SCENARIOS, TURNS, Comparison, Contender
from benchmarks.peers.tables import show
from fastedgy.database import connect, normalize_url
from fastedgy.database_url import parse_url
from fastedgy.errors import FastEdgyError
from fastedgy.worker.process import loop_factory

FACTS = ("drain", "many", "chunk")
OUR_SETTINGS = (
    "the defaults, with `queue start --workers 1` and `2`; bulk: add_tasks and flush(), 5,000 a "
    "call; round trip: add_task(…).wait()"
)


def say(line: str) -> None:
    """On stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


async def invite(
    lab: Lab, names: Sequence[str], venvs: Path, *, upgrade: bool, stack: AsyncExitStack
) -> tuple[dict[str, Contender], dict[str, PeerQueue]]:
    """Everybody with what is known of them, and the peers that can be measured."""
    contenders = {OURS: _ourselves()}
    queues = {}
    for name in names:
        package = PEERS[name]
        contenders[name] = Contender(name, package.title)
        try:
            python = await asyncio.to_thread(
                environments.environment, package, venvs, upgrade=upgrade, say=lab.say
            )
            queue = PeerQueue(package, python)
            async with driver(queue) as asked:
                queue.facts = await asked.ask("hello")
            queue.template = await stack.enter_async_context(_template(lab, queue))
        except (NotInstallable, PeerFailed, OSError) as error:
            contenders[name].reason = str(error)
            lab.say(f"{name}: {error}")
            continue
        facts = queue.facts
        contenders[name] = Contender(
            name, package.title, facts["versions"], facts["python"], facts["settings"],
            {fact: facts[fact] for fact in FACTS},
        )  # fmt: skip
        queues[name] = queue
    return contenders, queues


def _ourselves() -> Contender:
    versions = {name: version(name) for name in ("fastedgy", "asyncpg")}
    return Contender(OURS, OURS, versions, platform.python_version(), OUR_SETTINGS)


@asynccontextmanager
async def _template(lab: Lab, queue: PeerQueue) -> AsyncIterator[str]:
    """A database with the peer's tables, which every measurement gets a copy of."""
    name = f"fastedgy_benchmarks_{uuid4().hex[:12]}"
    await _admin(lab.url, f'CREATE DATABASE "{name}" TEMPLATE template0')
    try:
        async with driver(queue) as installer:
            await installer.ask("install", url=parse_url(lab.url).named(name).url)
        yield name
    finally:
        await _admin(lab.url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def _admin(url: str, statement: str) -> None:
    connection = await connect(url, timeout=30)
    await connection.execute(statement)
    await connection.close()


async def compare_all(
    lab: Lab, peers: Sequence[str], scenarios: Sequence[str], venvs: Path, *, upgrade: bool,
    allow_volatile: bool, embedded: bool,
) -> Comparison:  # fmt: skip
    """Measure everybody in turn, again and again: whoever is after whom changes each time."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with (
        lab.opened(allow_volatile=allow_volatile) as facts,
        AsyncExitStack() as stack,
    ):
        contenders, queues = await invite(lab, peers, venvs, upgrade=upgrade, stack=stack)
        machine = {"system": platform.system(), "machine": platform.machine(), "cpu": _cpu()}
        how = {"embedded": embedded, "scale": lab.scale, "repeat": lab.repeat}
        found = Comparison(contenders, list(scenarios), {**facts, **machine, **how})
        order = [OURS, *queues]
        for repetition in range(lab.repeat):
            for scenario in scenarios:
                turns = TURNS.get(scenario, 1)
                for turn in range(turns * repetition, turns * (repetition + 1)):
                    first = turn * max(1, len(order) // (turns * lab.repeat)) % len(order)
                    for name in order[first:] + order[:first]:
                        await _measure_once(
                            replace(lab, scale=lab.scale / turns, repeat=turns * lab.repeat),
                            found, scenario, name, queues.get(name), turn,
                        )  # fmt: skip
    return found


async def _measure_once(
    lab: Lab, found: Comparison, scenario: str, name: str, queue: PeerQueue | None, number: int
) -> None:
    cell = found.cell(name, scenario)
    if queue is not None:
        cell.cannot = queue.facts["cannot"].get(scenario, "")
    if cell.cannot:
        return
    try:
        if queue is None:
            figures = await SCENARIOS[scenario].once(replace(lab, say=lambda line: None))
        else:
            figures = await measure.SCENARIOS[scenario](lab, queue)
    except Exception as error:  # whatever it is: an hour of other measurements goes on
        lines = str(error).strip().splitlines()
        kind = "" if isinstance(error, PeerFailed) else f"{type(error).__name__} "
        cell.failures.append(f"{kind}{lines[0] if lines else ''}".strip())
        lab.say(f"{scenario} {number + 1} of {lab.repeat}: {name} failed: {cell.failures[-1]}")
    else:
        cell.runs.append(figures)
        unit = SCENARIOS[scenario].unit
        lab.say(f"{scenario} {number + 1} of {lab.repeat}: {name} {figures['value']:,.1f} {unit}")


def _cpu() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _names(text: str | None, known: Sequence[str], words: str) -> list[str]:
    chosen = [name.strip() for name in (text or "").split(",") if name.strip()]
    if unknown := [name for name in chosen if name not in known]:
        raise click.BadParameter(
            f"There is no {words} {unknown[0]!r}. There are {', '.join(known)}."
        )
    return [name for name in known if name in chosen] or list(known)


def _lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a file with one a line."""
    return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]


def _run(
    peers: Sequence[str], scenarios: Sequence[str], venvs: Path, data_dir: Path | None,
    options: dict[str, Any],
) -> Comparison:  # fmt: skip
    given = os.environ.get("DATABASE_URL") or os.environ.get("FASTEDGY_DATABASE_URL")
    url = normalize_url(given) if given else None
    forgotten = [name for name in forget_settings() if "DATABASE_URL" not in name]
    if forgotten:
        say(f"The defaults are measured, so these are not used: {', '.join(forgotten)}")
    with ExitStack() as stack:
        if url is None:
            say("DATABASE_URL is not set: measuring on an embedded Postgres of our own.")
            url = stack.enter_context(embedded_server(data_dir))
        lab = Lab(url, options["scale"], options["repeat"], say)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(
                compare_all(
                    lab, peers, scenarios, venvs, upgrade=options["upgrade"],
                    allow_volatile=options["allow_volatile"], embedded=not given,
                )
            )  # fmt: skip


@click.command()
@click.option("--only", metavar="PEER,…", help="Compare with these only.")
@click.option("--scenario", metavar="NAME,…", help="Measure these only.")
@click.option("--repeat", type=click.IntRange(1, 20), default=3, show_default=True,
              help="Repetitions; medians are shown.")  # fmt: skip
@click.option("--scale", type=click.FloatRange(0.001, 10), default=1.0, show_default=True,
              help="Multiplies counts and durations. Below 1: a quick look.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One object a line.")
@click.option("--write", type=click.Path(path_type=Path, dir_okay=False),
              help="Write this Markdown page, and the plots to images/ beside it.")  # fmt: skip
@click.option("--read", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="Do not measure: show what --json has written to a file.")  # fmt: skip
@click.option("--others", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="What `benchmarks all --json` has written, for the page's bars.")  # fmt: skip
@click.option("--venvs", type=click.Path(path_type=Path, file_okay=False),
              default=environments.DEFAULT, help="Where the peers' virtual environments are put. "
              "Default: ~/.cache/fastedgy-benchmarks.")  # fmt: skip
@click.option("--upgrade", is_flag=True, help="Bring the peers there to their newest releases.")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False, exists=True),
              help="Where the embedded Postgres is put.")  # fmt: skip
@click.option("--allow-volatile", is_flag=True,
              help="Measure on a server whose commits are not durable, too.")  # fmt: skip
def compare(
    only: str | None, scenario: str | None, as_json: bool, write: Path | None, read: Path | None,
    others: Path | None, venvs: Path, data_dir: Path | None, **options: Any,
) -> None:  # fmt: skip
    """Measure us beside the other Postgres queues for Python.

    Each peer has a virtual environment of its own, which is made when it is first needed, with the
    newest release. Everybody runs on the same server, in turn, with a fresh database for each
    measurement. A full run takes about half an hour.
    """
    peers = _names(only, list(PEERS), "peer")
    scenarios = _names(scenario, NAMES, "scenario")
    if write and find_spec("matplotlib") is None:
        raise click.ClickException(
            "--write draws plots with matplotlib: pip install 'fastedgy[bench]'"
        )
    try:
        if read:
            found = Comparison.read(_lines(read))
        else:
            found = _run(peers, scenarios, venvs.expanduser().resolve(), data_dir, options)
    except (BenchmarkError, FastEdgyError) as error:
        raise click.ClickException(str(error)) from error
    except asyncio.CancelledError:
        raise click.ClickException("Stopped before the end.") from None
    if as_json:
        for line in found.lines():
            print(json.dumps(line, ensure_ascii=False), flush=True)
    else:
        terminal = Console()
        show(found, terminal if terminal.is_terminal else Console(width=140))
    if write:
        from benchmarks.peers.page import write_page  # matplotlib is not everybody's

        for path in write_page(found, write, _lines(others) if others else []):
            say(f"Written: {path}")
    if missing := [name for name in found.scenarios if found.cell(OURS, name).failures]:
        raise click.ClickException(f"Not measured in every repetition: our {', '.join(missing)}.")


if __name__ == "__main__":
    compare()
