"""`fastedgy queue cancel | retry | clear | prune`: what people do to tasks by hand."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import click

from fastedgy.cli.context import CliContext, Queue, pass_cli_context, say
from fastedgy.cli.options import as_json, confirm, names, span, yes
from fastedgy.cli.output import count, duration, print_json
from fastedgy.cli.root import Command
from fastedgy.errors import InvalidTransition, TaskNotFound
from fastedgy.store import actions, find, maintain
from fastedgy.store.archive import ARCHIVES
from fastedgy.store.archive import archive as archive_chunk
from fastedgy.store.details import task_state

_CHUNK = 1000

queues_option = click.option(
    "--queues", type=names, metavar="NAMES", help="Only of these queues (commas)."
)


@click.command(cls=Command)
@click.argument("task_ids", metavar="ID…", nargs=-1, required=True)
@click.option("--reason", help="Why; it is kept in the task.")
@as_json
@pass_cli_context
async def cancel(
    context: CliContext, task_ids: tuple[str, ...], reason: str | None, as_json: bool
) -> None:
    """Cancel tasks. One that runs is asked to stop; what waits for it is cancelled too."""
    async with context.queue() as queue:
        ids = [await find.find_id(*queue, text) for text in task_ids]
        cancelled = await actions.cancel(*queue, ids, reason=reason, channels=context.channels)
        states = {each: await _state(queue, each) for each in ids}
    refused = [each for each in ids if each not in {*cancelled.ended, *cancelled.asked}]
    if as_json:
        print_json(
            [
                {"id": each, "state": state, "cancelled": each not in refused}
                for each, state in states.items()
            ]
        )
    else:
        for each in cancelled.ended:
            click.echo(f"Cancelled {each}")
        for each in cancelled.asked:
            click.echo(f"Asked the worker of {each} to stop it")
    if refused:
        raise InvalidTransition(f"Task {refused[0]} has ended already: it is {states[refused[0]]}.")


async def _state(queue: Queue, task_id: UUID) -> str:
    state = await task_state(*queue, task_id)
    if state is None:
        raise TaskNotFound(task_id)
    return state


@click.command(cls=Command)
@click.argument("task_ids", metavar="[ID…]", nargs=-1)
@click.option("--name", help="Without ID: only tasks of this name.")
@queues_option
@yes
@as_json
@pass_cli_context
async def retry(
    context: CliContext,
    task_ids: tuple[str, ...],
    name: str | None,
    queues: list[str] | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Run failed or cancelled tasks again, with a fresh budget. Without ID: all failed ones."""
    if task_ids and (name or queues):
        raise click.UsageError("Give either ids, or --name and --queues.")
    async with context.queue() as queue:
        if not task_ids:
            await _retry_failed(context, queue, name, queues, yes=yes, as_json=as_json)
            return
        ids = [await find.find_id(*queue, text) for text in task_ids]
        retried = await actions.retry(*queue, ids, channels=context.channels)
        states = {each: await _state(queue, each) for each in ids}
    if as_json:
        print_json(
            [
                {"id": each, "state": state, "retried": each in retried}
                for each, state in states.items()
            ]
        )
    else:
        for each in retried:
            click.echo(str(each))
    refused = [each for each in ids if each not in retried]
    if refused:
        state = states[refused[0]]
        cure = (
            "a parent of it failed or was cancelled; retry that one first."
            if state in ("failed", "cancelled")
            else "only failed and cancelled tasks can be retried."
        )
        raise InvalidTransition(f"Task {refused[0]} stays {state}: {cure}")


async def _retry_failed(
    context: CliContext,
    queue: Queue,
    name: str | None,
    queues: list[str] | None,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    failed = await find.count_failed(*queue, name=name, queues=queues)
    if failed:
        confirm(f"Retry {count(failed, 'failed task')}?", yes=yes)
    done = seen = 0
    cursor = find.FIRST
    # A task that fails again meanwhile comes behind the cursor's end and is not run twice: no more
    # are looked at than there were.
    while seen < failed:
        page = await find.failed_page(
            *queue, after=cursor, limit=min(_CHUNK, failed - seen), name=name, queues=queues
        )
        if not page:
            break
        cursor = page[-1]
        seen += len(page)
        ids = [task_id for _, task_id in page]
        done += len(await actions.retry(*queue, ids, channels=context.channels))
    if as_json:
        print_json({"failed": failed, "retried": done})
        return
    click.echo(f"Retried {count(done, 'task')}.")
    if done < seen:
        say(f"{count(seen - done, 'task')} stayed: a parent of each failed or was cancelled.")


@click.command(cls=Command)
@queues_option
@yes
@as_json
@pass_cli_context
async def clear(context: CliContext, queues: list[str] | None, yes: bool, as_json: bool) -> None:
    """Delete the tasks that have not started.

    Those are the enqueued, the waiting and the scheduled ones. What waits for them in other queues
    is cancelled.
    """
    async with context.queue() as queue:
        waiting = await find.count_not_started(*queue, queues=queues)
        if waiting:
            confirm(f"Delete {count(waiting, 'task')} that have not started?", yes=yes)
        deleted = await actions.clear(*queue, queues=queues or (), channels=context.channels)
    if as_json:
        print_json({"deleted": deleted})
    else:
        click.echo(f"Deleted {count(deleted, 'task')}.")


@click.command(cls=Command)
@click.option(
    "--older-than", type=span, metavar="SPAN", help="Such as 7d. Default: QUEUE_RETENTION_DAYS."
)
@click.option(
    "--state", "states", multiple=True, type=click.Choice(maintain.ENDED),
    help="Only these; repeatable.",
)  # fmt: skip
@click.option(
    "--archive", "folder", metavar="DIR", help="Write them into files of this folder first."
)
@click.option(
    "--format", "kind", type=click.Choice(sorted(ARCHIVES)), default="jsonl", show_default=True,
    help="What the files are.",
)  # fmt: skip
@as_json
@pass_cli_context
async def prune(
    context: CliContext,
    older_than: timedelta | None,
    states: tuple[str, ...],
    folder: str | None,
    kind: str,
    as_json: bool,
) -> None:
    """Delete tasks that ended long ago, with their logs. Workers do it by themselves too."""
    age = older_than or timedelta(days=context.config.retention_days)
    wanted: dict[str, Any] = {
        "older_than": age.total_seconds(),
        "limit": _CHUNK,
        "states": states or maintain.ENDED,
    }
    archive = ARCHIVES[kind](folder) if folder else None
    deleted = 0
    async with context.queue() as queue:
        after = maintain.FIRST_ID
        while True:
            if archive is None:
                number, after = await maintain.prune(*queue, after=after, **wanted)
            else:
                number, after = await archive_chunk(*queue, archive, after=after, **wanted)
            deleted += number
            if not number:
                break
    if as_json:
        print_json({"deleted": deleted})
        return
    kept = f" They are in {folder}." if folder and deleted else ""
    click.echo(f"Deleted {count(deleted, 'task')} that ended more than {duration(age)} ago.{kept}")


COMMANDS = (cancel, retry, clear, prune)
