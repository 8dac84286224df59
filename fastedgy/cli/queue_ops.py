"""`fastedgy queue explain | doctor | pause | resume | limit | breakers | drain | audit`."""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from fastedgy.cli.context import CliContext, pass_cli_context, say
from fastedgy.cli.options import as_json, confirm, yes
from fastedgy.cli.output import count, duration, print_json, shown, state_text, terminal
from fastedgy.cli.root import Command
from fastedgy.cli.tables import audit_table
from fastedgy.store.find import find_id
from fastedgy.store.overview import list_workers

if TYPE_CHECKING:
    from fastedgy.admin.doctor import Finding
    from fastedgy.admin.explain import Explanation
    from fastedgy.admin.types import QueueChange
    from fastedgy.store.breakers import Breaker

WAIT = 0.5
"""Seconds between two looks whether workers have ended."""

SEVERITY_STYLES = {"error": "red3", "warning": "orange3", "info": "dodger_blue2"}
STATE_OF_BREAKER = {"closed": "green4", "open": "red3", "half_open": "orange3"}


def actor() -> str:
    """Who types: what goes into the audit."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


@click.command(cls=Command)
@click.argument("task_id", metavar="ID")
@as_json
@pass_cli_context
async def explain(context: CliContext, task_id: str, as_json: bool) -> None:
    """Say why a task does not run now, and what to do. ID may be its first or last digits."""
    from fastedgy.admin.explain import explain as ask

    async with context.queue() as queue:
        explanation = await ask(*queue, await find_id(*queue, task_id), context.config)
    if as_json:
        print_json(explanation)
        return
    console = terminal()
    for line in explanation_lines(explanation):
        console.print(line)


def explanation_lines(explanation: Explanation) -> list[Text]:
    """An explanation for a terminal: the sentence first, then each reason with what to do."""
    head = Text(shown(explanation.name), style="bold").append("  ")
    head.append_text(state_text(explanation.state)).append(f"  {explanation.id}", style="grey50")
    lines = [head]
    for number, reason in enumerate(explanation.reasons):
        lines.append(
            Text.assemble(
                "" if number == 0 else "Also: ", shown(reason.text),
                style="" if reason.holds or number == 0 else "grey50",
            )
        )  # fmt: skip
        if reason.cure:
            lines.append(Text.assemble(("  → ", "green4"), shown(reason.cure)))
    return lines


@click.command(cls=Command)
@click.option("--fix", is_flag=True, help="Apply the cures that are safe while everything runs.")
@yes
@as_json
@pass_cli_context
async def doctor(context: CliContext, fix: bool, yes: bool, as_json: bool) -> None:
    """Look for everything that can be wrong. Exit code 1 if something is, beyond notes.

    With --fix, what can be cured without harm is cured, after asking.
    """
    from fastedgy.admin.doctor import cure
    from fastedgy.admin.doctor import doctor as look

    async with context.queue(checked=False) as (connection, tables):

        @asynccontextmanager
        async def another() -> AsyncIterator[Any]:
            lent = await context.connect(prepares=False)
            try:
                yield lent
            finally:
                await lent.close()

        async def found() -> list[Finding]:
            return await look(connection, tables, context.config, connect=another)

        findings = await found()
        fixable = [finding for finding in findings if finding.fix is not None]
        if fix and fixable:
            if not as_json:
                _print_findings(findings)
            for finding in fixable:
                say(f"{finding.title} {finding.fix.text if finding.fix else ''}")
            confirm(f"Apply {count(len(fixable), 'cure')}?", yes=yes)
            for finding in fixable:
                for cured in await cure(connection, tables, [finding], actor=actor(), source="cli"):
                    for statement in cured.statements:
                        say(f"Done: {statement}")
                    if cured.error is not None:
                        say(f"Not done: {cured.error}")
            findings = await found()
    if as_json:
        print_json(findings)
    else:
        _print_findings(findings)
    if any(finding.severity != "info" for finding in findings):
        click.get_current_context().exit(1)


def _print_findings(findings: Sequence[Finding]) -> None:
    console = terminal()
    for line in finding_lines(findings):
        console.print(line)


def finding_lines(findings: Sequence[Finding]) -> list[Text]:
    """Findings for a terminal, the worst first."""
    if not findings:
        return [Text("Nothing is wrong.")]
    lines: list[Text] = []
    for finding in findings:
        style = SEVERITY_STYLES[finding.severity]
        lines += [
            Text.assemble((f"{finding.severity.upper():8}", style), shown(finding.title)),
            Text(f"        {shown(finding.meaning)}", style="grey50"),
            Text(f"        Seen: {shown(finding.evidence)}", style="grey50"),
            Text.assemble(("      → ", "green4"), shown(finding.cure)),
        ]
        if finding.fix is not None:
            lines[-1].append("  (--fix does it)", style="green4")
    return lines


name_argument = click.argument("name")


@click.command(cls=Command)
@name_argument
@as_json
@pass_cli_context
async def pause(context: CliContext, name: str, as_json: bool) -> None:
    """Start no more tasks of a queue, on all workers, until it is resumed. What runs goes on."""
    await _pause(context, name, paused=True, as_json=as_json)


@click.command(cls=Command)
@name_argument
@as_json
@pass_cli_context
async def resume(context: CliContext, name: str, as_json: bool) -> None:
    """Let the tasks of a paused queue start again."""
    await _pause(context, name, paused=False, as_json=as_json)


async def _pause(context: CliContext, name: str, *, paused: bool, as_json: bool) -> None:
    from fastedgy.admin import QueueAdmin

    async with context.queue() as (connection, _):
        admin = QueueAdmin.on(connection, context.config)
        change = admin.pause_queue if paused else admin.resume_queue
        done = await change(name, actor=actor(), source="cli")
    if as_json:
        print_json(
            {"queue": name, "paused": paused, "depth": done.depth, "known": done.known,
             "warning": done.warning}
        )  # fmt: skip
        return
    if paused:
        click.echo(f"Queue {shown(name)} is paused; {count(done.depth, 'task')} in the line.")
    else:
        click.echo(f"Queue {shown(name)} goes on, with {count(done.depth, 'task')} in the line.")
    _warn(done)


def _warn(change: QueueChange) -> None:
    if change.warning is not None:
        say(shown(change.warning))


@click.command(cls=Command)
@name_argument
@click.option("--max-running", type=click.IntRange(min=1), help="Tasks that run at once, in all.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Starts in a second.")
@click.option("--none", "no_limit", is_flag=True, help="Take the limits away.")
@as_json
@pass_cli_context
async def limit(
    context: CliContext,
    name: str,
    max_running: int | None,
    rate: float | None,
    no_limit: bool,
    as_json: bool,
) -> None:
    """Say how many tasks of a queue may run at once and start in a second, on all workers.

    What is not given is not limited any more.
    """
    from fastedgy.admin import QueueAdmin

    if (max_running is None and rate is None) != no_limit:
        raise click.UsageError("Say --max-running, --rate or both; or else --none.")
    async with context.queue() as (connection, _):
        done = await QueueAdmin.on(connection, context.config).set_queue_limits(
            name, max_running=max_running, rate=rate, actor=actor(), source="cli"
        )
    if as_json:
        print_json(
            {"queue": name, "max_running": max_running, "rate": rate, "known": done.known,
             "warning": done.warning}
        )  # fmt: skip
        return
    limits = [f"{max_running:,} at once"] if max_running else []
    limits += [f"{rate:g} starts a second"] if rate else []
    click.echo(f"Queue {shown(name)}: {' and '.join(limits) or 'no limits'}.")
    _warn(done)


@click.command(cls=Command)
@click.argument("worker")
@click.option("--wait", is_flag=True, help="Return when all of them have ended.")
@yes
@as_json
@pass_cli_context
async def drain(context: CliContext, worker: str, wait: bool, yes: bool, as_json: bool) -> None:
    """Let a worker take no more tasks, end what it runs, and end; its supervisor replaces it.

    WORKER is its id (or the first or last digits) or server/pid. The id of a supervisor or the name
    of a server stands for all workers there: their supervisors end with them.
    """
    from fastedgy.admin import QueueAdmin

    async with context.queue() as (connection, tables):
        admin = QueueAdmin.on(connection, context.config)
        say(shown((await admin.preview_drain(worker)).sentence))
        confirm("Go on?", yes=yes)
        asked = await admin.drain(worker, actor=actor(), source="cli")
        while wait:
            if not {row.id for row in await list_workers(connection, tables)} & {*asked.workers}:
                break
            await asyncio.sleep(WAIT)
    if as_json:
        print_json(asked)
    else:
        done = "ended" if wait else "asked"
        click.echo(f"{count(len(asked.workers), 'worker')} {done}.")


@click.command(cls=Command)
@click.option("--actor", "who", help="Who did it, or the beginning of the name.")
@click.option("--action", help="What was done, or the beginning of it: queue.pause, task.")
@click.option("--target", help="To what: task:ID, queue:NAME, worker:ID, schedule:NAME …")
@click.option("--limit", "-n", type=click.IntRange(1, 1_000), default=50, show_default=True)
@as_json
@pass_cli_context
async def audit(
    context: CliContext, who: str | None, action: str | None, target: str | None, limit: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Show what was done by hand, and by whom, the newest first."""
    from fastedgy.admin import QueueAdmin

    async with context.queue() as (connection, _):
        entries = await QueueAdmin.on(connection, context.config).audit(
            actor=who, action=action, target=target, limit=limit
        )
    if as_json:
        print_json(entries)
    elif not entries:
        click.echo("Nothing of that kind was done by hand.")
    else:
        terminal().print(audit_table(entries))


@click.command(cls=Command)
@click.option("--reset", metavar="NAME", help="Close this one: what it held may run.")
@as_json
@pass_cli_context
async def breakers(context: CliContext, reset: str | None, as_json: bool) -> None:
    """Show the circuit breakers."""
    from fastedgy.store import breakers as store

    async with context.queue() as queue:
        if reset is not None and not await store.reset(*queue, reset, actor=actor(), source="cli"):
            raise click.UsageError(f"There is no breaker {reset!r}.")
        found = await store.list_breakers(*queue)
    if as_json:
        print_json(found)
    elif not found:
        click.echo("No breaker was ever used.")
    else:
        for breaker in found:
            terminal().print(breaker_line(breaker))


def breaker_line(breaker: Breaker) -> Text:
    """A breaker in a line."""
    line = Text.assemble(
        (f"{breaker.state.replace('_', ' '):10}", STATE_OF_BREAKER[breaker.state]),
        shown(breaker.name),
        f"  {breaker.failures:,} of {breaker.failure_threshold:,} failures",
    )
    if breaker.rest:
        line.append(f", the next try in {duration(breaker.rest)}")
    if breaker.error:
        line.append(f"  {shown(breaker.error)}", style="grey50")
    return line


COMMANDS = (explain, doctor, pause, resume, limit, breakers, drain, audit)
