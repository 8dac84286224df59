"""`fastedgy queue cancel | retry | clear | prune`: what people do to tasks by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from fastedgy.cli.context import CliContext, Queue, pass_cli_context, say
from fastedgy.cli.options import as_json, confirm, names, span, yes
from fastedgy.cli.output import count, duration, print_json, progress
from fastedgy.cli.queue_ops import actor
from fastedgy.cli.root import Command
from fastedgy.errors import InvalidTransition, TaskNotFound
from fastedgy.ids import new_id
from fastedgy.store import actions, audit, find, maintain
from fastedgy.store.archive import ARCHIVES
from fastedgy.store.archive import prune as prune_chunk
from fastedgy.store.details import task_state

if TYPE_CHECKING:
    from fastedgy.admin import QueueAdmin

_CHUNK = 1000

queues_option = click.option(
    "--queues", type=names, metavar="NAMES", help="Only of these queues (commas)."
)


tree_option = click.option(
    "--tree", is_flag=True, help="With the whole tree of tasks, after asking."
)


@click.command(cls=Command)
@click.argument("task_ids", metavar="ID…", nargs=-1, required=True)
@click.option("--reason", help="Why; it is kept in the task.")
@tree_option
@yes
@as_json
@pass_cli_context
async def cancel(
    context: CliContext,
    task_ids: tuple[str, ...],
    reason: str | None,
    tree: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Cancel tasks. One that runs is asked to stop; what waits for it is cancelled too.

    With --tree also what runs already below them, or would run all the same.
    """
    async with context.queue() as queue:
        admin = _admin(context, queue)
        ids = [await find.find_id(*queue, text) for text in task_ids]
        if tree:
            await _of_trees(admin, "cancel", ids, reason=reason, yes=yes, as_json=as_json)
            return
        done = {
            each: await admin.cancel(each, actor=actor(), source="cli", reason=reason)
            for each in ids
        }
        states = {each: await _state(queue, each) for each in ids}
    if as_json:
        print_json(
            [
                {"id": each, "state": state, "cancelled": done[each]}
                for each, state in states.items()
            ]
        )
    else:
        for each, state in states.items():
            if done[each] and state == "cancelled":
                click.echo(f"Cancelled {each}")
            elif done[each]:
                click.echo(f"Asked the worker of {each} to stop it")
    refused = [each for each in ids if not done[each]]
    if refused:
        raise InvalidTransition(f"Task {refused[0]} has ended already: it is {states[refused[0]]}.")


def _admin(context: CliContext, queue: Queue) -> QueueAdmin:
    from fastedgy.admin import QueueAdmin

    return QueueAdmin.on(queue.connection, context.config)


async def _of_trees(
    admin: QueueAdmin,
    action: str,
    ids: Sequence[UUID],
    *,
    reason: str | None = None,
    yes: bool,
    as_json: bool,
) -> None:
    """Cancel or retry whole trees, after saying how many tasks that are."""
    for id in ids:
        say((await admin.preview_tree(action, id)).sentence)
    confirm("Go on?", yes=yes)
    changed: dict[UUID, int] = {}
    for id in ids:
        if action == "cancel":
            changed[id] = await admin.cancel_tree(id, actor=actor(), source="cli", reason=reason)
        else:
            changed[id] = await admin.retry_tree(id, actor=actor(), source="cli")
    if as_json:
        print_json([{"id": id, "changed": number} for id, number in changed.items()])
        return
    done = "Cancelled, or asked to stop," if action == "cancel" else "Retried"
    click.echo(f"{done} {count(sum(changed.values()), 'task')}.")


async def _state(queue: Queue, task_id: UUID) -> str:
    state = await task_state(*queue, task_id)
    if state is None:
        raise TaskNotFound(task_id)
    return state


@click.command(cls=Command)
@click.argument("task_ids", metavar="[ID…]", nargs=-1)
@click.option("--name", help="Without ID: only tasks of this name.")
@queues_option
@tree_option
@yes
@as_json
@pass_cli_context
async def retry(
    context: CliContext,
    task_ids: tuple[str, ...],
    name: str | None,
    queues: list[str] | None,
    tree: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Run failed or cancelled tasks again, with a fresh budget. Without ID: all failed ones.

    With --tree also the parents that came to nothing, and all that did because of them.
    """
    if task_ids and (name or queues):
        raise click.UsageError("Give either ids, or --name and --queues.")
    if tree and not task_ids:
        raise click.UsageError("--tree needs the id of a task.")
    async with context.queue() as queue:
        if not task_ids:
            await _retry_failed(context, queue, name, queues, yes=yes, as_json=as_json)
            return
        admin = _admin(context, queue)
        ids = [await find.find_id(*queue, text) for text in task_ids]
        if tree:
            await _of_trees(admin, "retry", ids, yes=yes, as_json=as_json)
            return
        done = {each: await admin.retry(each, actor=actor(), source="cli") for each in ids}
        states = {each: await _state(queue, each) for each in ids}
    if as_json:
        print_json(
            [{"id": each, "state": state, "retried": done[each]} for each, state in states.items()]
        )
    else:
        for each in ids:
            if done[each]:
                click.echo(str(each))
    refused = [each for each in ids if not done[each]]
    if refused:
        state = states[refused[0]]
        cure = (
            "a parent of it failed or was cancelled; retry that one first, or both with --tree."
            if state in ("failed", "cancelled")
            else "only failed and cancelled tasks can be retried."
        )
        raise InvalidTransition(f"Task {refused[0]} stays {state}: {cure}")


async def _note(queue: Queue, action: str, **details: Any) -> None:
    """Write down what was done to many tasks at once."""
    await audit.note(
        *queue, actor=actor(), source="cli", action=action, target=f"bulk:{new_id()}",
        details=details,
    )  # fmt: skip


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
        await _note(queue, "task.retry", found=failed, name=name, queues=queues)
    done = seen = 0
    cursor = find.FIRST
    # A task that fails again meanwhile comes behind the cursor's end and is not run twice: no more
    # are looked at than there were.
    with progress("Retrying", failed) as advance:
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
            advance(len(page))
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
            await _note(queue, "task.clear", found=waiting, queues=queues)
        deleted = await actions.clear(*queue, queues=queues or (), channels=context.channels)
    if as_json:
        print_json({"deleted": deleted})
    else:
        click.echo(f"Deleted {count(deleted, 'task')}.")


@click.command(cls=Command)
@click.option(
    "--older-than",
    type=span,
    metavar="SPAN",
    help="Such as 7d. Default: QUEUE_RETENTION_DAYS and QUEUE_RETENTION_FAILED_DAYS.",
)
@click.option(
    "--state", "states", multiple=True, type=click.Choice(maintain.ENDED),
    help="Only these; repeatable.",
)  # fmt: skip
@click.option(
    "--archive", "folder", metavar="DIR",
    help="Write them into files of this folder first. Default: QUEUE_ARCHIVE_DIR.",
)  # fmt: skip
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
    config = context.config
    folder = folder or config.archive_dir
    archive = ARCHIVES[kind](folder) if folder else None
    ages = maintain.retention(config)
    if older_than is not None:
        ages = [(maintain.ENDED, older_than.total_seconds())]
    if states:
        chosen = [(tuple(state for state in among if state in states), age) for among, age in ages]
        ages = [(among, age) for among, age in chosen if among]
    deleted = 0
    async with context.queue() as queue:
        with progress("Deleting") as advance:
            for among, age in ages:
                after, number = maintain.FIRST_ID, -1
                while number:
                    number, after = await prune_chunk(
                        *queue, archive, older_than=age, limit=_CHUNK, after=after, states=among
                    )
                    deleted += number
                    advance(number)
        if deleted:
            told = {state: age for among, age in ages for state in among}
            await _note(queue, "task.prune", deleted=deleted, archive=folder, older_than=told)
    if as_json:
        print_json({"deleted": deleted})
        return
    times = " or ".join(dict.fromkeys(duration(age) for _, age in ages))
    kept = f" They are in {folder}." if folder and deleted else ""
    click.echo(f"Deleted {count(deleted, 'task')} that ended more than {times} ago.{kept}")


COMMANDS = (cancel, retry, clear, prune)
