"""`fastedgy schedule`: see the timetable, and change it while everything runs."""

from __future__ import annotations

import getpass
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from fastedgy.cli.context import CliContext, pass_cli_context
from fastedgy.cli.options import app_option, as_json, confirm, yes
from fastedgy.cli.output import console, count, duration, print_json, shown
from fastedgy.cli.root import Group

if TYPE_CHECKING:
    from fastedgy.scheduler import Schedule
    from fastedgy.scheduler.actions import Desk

STATE_STYLES = {"active": "green4", "paused": "orange3", "undeclared": "red3", "removed": "grey50",
                "over": "grey50"}  # fmt: skip
_TIME = "%Y-%m-%d %H:%M:%S %Z"

name_argument = click.argument("name")


@click.group(cls=Group)
@app_option
@pass_cli_context
def schedule(context: CliContext, app: str | None) -> None:
    """See and steer what runs on a timetable."""
    context.app = app or context.app


@schedule.command("list")
@click.option("--all", "everything", is_flag=True, help="Also declared ones that were removed.")
@as_json
@pass_cli_context
async def list_command(context: CliContext, everything: bool, as_json: bool) -> None:
    """List the schedules, by name."""
    from fastedgy.scheduler import actions

    async with _desk(context) as desk:
        found = await actions.listed(desk, removed=everything)
    if as_json:
        print_json(found)
    elif found:
        console.print(schedule_table(found, datetime.now(UTC)))
    else:
        click.echo(
            "There are no schedules. What @scheduled declares appears when a worker or the "
            "application starts."
        )


@schedule.command()
@name_argument
@as_json
@pass_cli_context
async def show(context: CliContext, name: str, as_json: bool) -> None:
    """Show one schedule, its next due times and who changed it."""
    from fastedgy.scheduler import actions
    from fastedgy.scheduler.schedule import schedule_of
    from fastedgy.store import audit

    async with _desk(context) as desk:
        found = schedule_of(await actions.find(desk, name))
        dues = await actions.preview(desk, name, 5)
        history = await audit.list_audit(
            desk.connection, desk.tables, target=f"schedule:{name}", limit=10
        )
    if as_json:
        print_json({"schedule": found, "next": dues, "history": history})
        return
    for word, value in facts(found):
        click.echo(f"{word:<14}{shown(value)}")
    for title, lines in (
        ("Next", [f"{due:{_TIME}}" for due in dues]),
        ("History", [f"{each.date:{_TIME}}  {each.action}  by {each.actor} ({each.source})"
                     for each in history]),
    ):  # fmt: skip
        if lines:
            click.echo(f"\n{title}")
        for line in lines:
            click.echo(f"  {shown(line)}")


@schedule.command()
@name_argument
@as_json
@pass_cli_context
async def pause(context: CliContext, name: str, as_json: bool) -> None:
    """Let a schedule give no tasks until it is resumed. All workers obey at once."""
    from fastedgy.scheduler import actions

    async with _desk(context) as desk:
        found = await actions.pause(desk, name)
    _done(found, f"Paused {name}.", as_json)


@schedule.command()
@name_argument
@as_json
@pass_cli_context
async def resume(context: CliContext, name: str, as_json: bool) -> None:
    """Go on with the next due time. Brings back a declared schedule that was removed, too."""
    from fastedgy.scheduler import actions

    async with _desk(context) as desk:
        found = await actions.resume(desk, name)
    due = "it is over" if found.next_due is None else f"next at {found.next_due:{_TIME}}"
    _done(found, f"Resumed {name}: {due}.", as_json)


@schedule.command()
@name_argument
@as_json
@pass_cli_context
async def run(context: CliContext, name: str, as_json: bool) -> None:
    """Run a schedule once now, also while it is paused. Prints the id of the task."""
    from fastedgy.scheduler import actions

    async with _desk(context) as desk:
        task = await actions.run_now(desk, name)
    if as_json:
        print_json({"name": name, "task": task})
    else:
        click.echo(str(task))


@schedule.command("next")
@name_argument
@click.option("-n", "number", type=click.IntRange(1, 1000), default=5, show_default=True)
@as_json
@pass_cli_context
async def next_command(context: CliContext, name: str, number: int, as_json: bool) -> None:
    """Print the next due times, in the schedule's time zone."""
    from fastedgy.scheduler import actions

    async with _desk(context) as desk:
        dues = await actions.preview(desk, name, number)
    if as_json:
        print_json(dues)
        return
    for due in dues:
        click.echo(f"{due:{_TIME}}")
    if not dues:
        click.echo(f"{name} has no due time any more.", err=True)


@schedule.command()
@name_argument
@yes
@as_json
@pass_cli_context
async def remove(context: CliContext, name: str, yes: bool, as_json: bool) -> None:
    """Delete a schedule, after asking. A declared one stays removed until it is resumed."""
    from fastedgy.scheduler import actions

    confirm(f"Remove the schedule {name}?", yes=yes)
    async with _desk(context) as desk:
        await actions.remove(desk, name)
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        click.echo(f"Removed {name}.")


@asynccontextmanager
async def _desk(context: CliContext) -> AsyncIterator[Desk]:
    from fastedgy.queued_tasks import QueuedTasks
    from fastedgy.scheduler.actions import Desk, Hand

    async with context.queue() as (connection, _):
        service = QueuedTasks(config=context.config)
        actor = f"{getpass.getuser()}@{socket.gethostname()}"
        yield Desk(connection, service, Hand(actor, "cli"))


def _done(found: Schedule, sentence: str, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        click.echo(sentence)


def schedule_table(found: Sequence[Schedule], now: datetime) -> Table:
    """Schedules as people see them."""
    table = Table("Name", "State", "When", "Next", "Last", box=None, pad_edge=False)
    for column in ("Fired", "Missed"):
        table.add_column(column, justify="right")
    for each in found:
        following = "-"
        if each.next_due is not None:
            wait = (each.next_due - now).total_seconds()
            following = f"in {duration(wait)}" if wait >= 0 else f"late by {duration(-wait)}"
        last = each.last_fired
        table.add_row(
            Text(shown(each.name)),
            Text(each.state, style=STATE_STYLES[each.state]),
            Text(shown(each.trigger)),
            following,
            "-" if last is None else f"{duration(now - last)} ago",
            f"{each.fired:,}",
            f"{each.missed:,}",
        )
    return table


def facts(found: Schedule) -> list[tuple[str, Any]]:
    """What `show` says of a schedule, line by line."""
    grace = found.misfire_grace
    lines: list[tuple[str, Any]] = [
        ("Name", found.name),
        ("State", found.state),
        ("When", found.trigger),
        ("Function", found.function),
        ("Arguments", f"{found.args} {found.kwargs}"),
        ("Options", found.options or "-"),
        ("Missed runs", ("the last is made up for" if found.coalesce else "each is made up for")
         + ("" if grace is None else f", if it is at most {duration(grace)} late")),
        ("At once", found.max_instances or "any number"),
        ("Jitter", duration(found.jitter)),
        ("From code", "yes" if found.declared else "no"),
        ("Changed", ", ".join(found.changed) or "-"),
        ("Fired", count(found.fired, "time")),
        ("Missed", count(found.missed, "time")
         + (f", last: {found.missed_because}" if found.missed_because else "")),
        ("Last task", found.last_task_id or "-"),
    ]  # fmt: skip
    lines += [
        (word, f"{value:{_TIME}}")
        for word, value in (
            ("Start", found.start),
            ("End", found.end),
            ("Last due", found.last_due),
        )
        if value is not None
    ]
    if found.error:
        lines.append(("Error", found.error))
    return lines
