"""`fastedgy queue show | logs | tree`: one task in all its parts."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import UTC, datetime
from uuid import UUID

import click

from fastedgy.cli.context import CliContext, Queue, pass_cli_context, say
from fastedgy.cli.options import as_json
from fastedgy.cli.output import json_line, plain_value, print_json, shown, terminal
from fastedgy.cli.queue_ops import explanation_lines
from fastedgy.cli.root import Command
from fastedgy.cli.tables import log_line
from fastedgy.cli.task_page import family_tree, task_page
from fastedgy.errors import TaskNotFound
from fastedgy.store import details
from fastedgy.store.details import LogRow
from fastedgy.store.find import ENDED, find_id

# How often `logs -f` looks for more, in seconds.
_FOLLOW_INTERVAL = 0.25
_PAGE = 1000

task_id = click.argument("task_id", metavar="ID")


@click.command(cls=Command)
@task_id
@as_json
@pass_cli_context
async def show(context: CliContext, task_id: str, as_json: bool) -> None:
    """Show all about a task. ID may be its first or last digits."""
    from fastedgy.admin.explain import explain

    async with context.queue() as queue:
        found = await find_id(*queue, task_id)
        task = await details.task_details(*queue, found)
        logs = await details.last_logs(*queue, found)
        explanation = await explain(*queue, found, context.config)
    if as_json:
        print_json(task)
        return
    console = terminal()
    why = explanation_lines(explanation)[1:]
    for line in task_page(task, logs, why, now=datetime.now(UTC)):
        console.print(line)


@click.command(cls=Command)
@task_id
@click.option("--follow", "-f", is_flag=True, help="Go on until the task has ended.")
@as_json
@pass_cli_context
async def logs(context: CliContext, task_id: str, follow: bool, as_json: bool) -> None:
    """Show the log lines of a task. With -f and --json: one object a line, as they come."""
    async with context.queue() as queue:
        found = await find_id(*queue, task_id)
        if as_json and not follow:
            print_json(await _all_logs(queue, found))
            return
        last = (-1, -1)
        while True:
            # The state is read first: what a task logged is in the table when it has ended.
            state = await details.task_state(*queue, found)
            while page := await details.task_logs(*queue, found, after=last, limit=_PAGE):
                _print_logs(page, as_json=as_json)
                last = (page[-1].run, page[-1].seq)
            if not follow or state is None or state in ENDED:
                break
            await asyncio.sleep(_FOLLOW_INTERVAL)
    if state is None:
        raise TaskNotFound(found)
    if follow:
        say(f"Task {found} is {state}.")
    elif last == (-1, -1):
        say(f"Task {found} has no log lines; it is {state}.")


async def _all_logs(queue: Queue, found: UUID) -> list[LogRow]:
    lines: list[LogRow] = []
    last = (-1, -1)
    while page := await details.task_logs(*queue, found, after=last, limit=_PAGE):
        lines += page
        last = (page[-1].run, page[-1].seq)
    return lines


def _print_logs(page: list[LogRow], *, as_json: bool) -> None:
    console = terminal()
    for log in page:
        if as_json:
            click.echo(json_line(log))
        else:
            console.print(log_line(log), soft_wrap=True)
            if log.info:
                click.echo(f"    {shown(json_line(log.info))}")


@click.command(cls=Command)
@task_id
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True)
@as_json
@pass_cli_context
async def tree(context: CliContext, task_id: str, limit: int, as_json: bool) -> None:
    """Show a task with its ancestors and descendants."""
    async with context.queue() as queue:
        found = await find_id(*queue, task_id)
        family = await details.tree(*queue, found, limit=limit)
    if not as_json:
        terminal().print(family_tree(family, found))
        return
    parents: dict[UUID, list[UUID]] = defaultdict(list)
    children: dict[UUID, list[UUID]] = defaultdict(list)
    for parent, child in family.links:
        parents[child].append(parent)
        children[parent].append(child)
    print_json(
        [
            {
                **plain_value(task),
                "parents": parents[task.id],
                "children": children[task.id],
            }
            for task in family.tasks
        ]
    )


COMMANDS = (show, logs, tree)
