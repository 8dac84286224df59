"""`fastedgy queue`: run workers, and see how the queue stands."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import click

from fastedgy.admin import stats as figures
from fastedgy.admin.overview import overview_of
from fastedgy.cli import queue_actions, queue_ops, queue_show, watch
from fastedgy.cli.context import CliContext, pass_cli_context
from fastedgy.cli.options import app_option, as_json, moment, names, served_app_option
from fastedgy.cli.output import count, print_json, terminal
from fastedgy.cli.root import Group
from fastedgy.cli.tables import (
    in_process_table,
    name_table,
    queue_table,
    server_rows,
    server_table,
    state_table,
    status_sentences,
    status_table,
    task_table,
    trouble_table,
    troubles,
)
from fastedgy.store import counts, find, history, overview
from fastedgy.store.find import STATES, TaskFilters

# Below this many columns a listing shows the last digits of the ids only.
_WIDE = 110


@click.group(cls=Group)
@app_option
@pass_cli_context
def queue(context: CliContext, app: str | None) -> None:
    """Run workers, and see and steer the tasks."""
    context.app = app or context.app


@queue.command()
@served_app_option
@click.option("-w", "--workers", type=click.IntRange(1, 1_000), help="Worker processes.")
@click.option("--min-workers", type=click.IntRange(min=0), help="Processes to keep while idle.")
@click.option(
    "--concurrency", type=click.IntRange(min=1), help="Tasks that a process runs at once."
)
@click.option(
    "--queues",
    type=names,
    metavar="NAMES",
    help="Queues to serve, separated by commas. Default: all.",
)
@click.option("--reload", is_flag=True, help="Start anew when a file changes, for development.")
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65_535),
    help="Port on which Prometheus may ask for /metrics.",
)
@click.option(
    "--metrics-host", default="127.0.0.1", show_default=True, help="Address of that port."
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="How to log.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@pass_cli_context
def start(
    context: CliContext,
    app: str | None,
    workers: int | None,
    min_workers: int | None,
    concurrency: int | None,
    queues: list[str] | None,
    reload: bool,
    metrics_port: int | None,
    metrics_host: str,
    log_format: Literal["text", "json"] | None,
    log_level: Literal["debug", "info", "warning", "error"] | None,
) -> None:
    """Run a pool of workers until it is told to stop.

    What is not given comes from QUEUE_MAX_WORKERS, QUEUE_MIN_WORKERS, QUEUE_CONCURRENCY and
    QUEUE_QUEUES. SIGTERM or Ctrl-C drains: running tasks end, then the workers. A second one hands
    them back at once.
    """
    from fastedgy.config import QueuedTaskConfig
    from fastedgy.supervisor import SupervisorOptions, run

    given: dict[str, Any] = {
        "max_workers": workers,
        "min_workers": min_workers,
        "concurrency": concurrency,
        "queues": queues,
    }
    settings = context.settings
    # Made anew with what was typed, so that everything is checked together.
    config = QueuedTaskConfig(**{name: value for name, value in given.items() if value is not None})
    options = SupervisorOptions(
        app=app or context.app or settings.app,
        workers=config.max_workers,
        min_workers=config.min_workers,
        concurrency=config.concurrency,
        queues=tuple(config.queues),
        reload=reload,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        log_format=log_format or settings.log_format,
        log_level=log_level or settings.log_level,
    )
    click.get_current_context().exit(run(options, settings, config))


@queue.command()
@as_json
@pass_cli_context
async def status(context: CliContext, as_json: bool) -> None:
    """Show how it stands: tasks, queues and workers."""
    lease = context.config.lease
    async with context.queue() as (connection, tables):
        view = await overview_of(connection, tables, context.config)
        processes = await overview.list_workers(connection, tables)
    states, summary = view.states, view.workers
    in_process = overview.in_process([row for row in processes if row.is_alive(lease)])
    if as_json:
        counted = {"servers": summary.servers, "processes": summary.processes,
                   "slots": summary.slots, "busy": summary.busy}  # fmt: skip
        told: dict[str, Any] = {"in_process": in_process} if in_process else {}
        if states.estimated:
            told["estimated"] = sorted(states.estimated)
        lines = {
            each.name: {"depth": each.depth, "oldest_due_seconds": each.oldest_due_seconds,
                        "paused": each.paused, "workers": each.workers}
            | ({"estimated": True} if each.depth_estimated else {})
            for each in view.queues
        }  # fmt: skip
        print_json(
            {
                "sentence": view.sentence,
                "level": view.level,
                "reasons": view.reasons,
                "states": states.counts,
                "queues": lines,
                "paused": [each.name for each in view.queues if each.paused],
                "workers": counted,
                **told,
            }
        )
        return
    alive = [worker for worker in processes if worker.is_alive(lease) and not worker.is_web]
    console = terminal()
    for line in status_sentences(view):
        console.print(line)
    console.print()
    console.print(status_table(states, summary, maximum=_maximum(context, alive)))
    console.print()
    console.print(state_table(states))
    if view.queues:
        console.print()
        console.print(queue_table(view.queues))
    if in_process:
        console.print()
        console.print(in_process_table(in_process))
    if wrong := troubles(overview.sum_counters(alive)):
        console.print()
        console.print(trouble_table(wrong))


def _maximum(context: CliContext, alive: list[overview.WorkerRow]) -> int:
    """How many worker processes there may be: of each supervisor, as many as are configured."""
    supervisors = {worker.supervisor_id or worker.id for worker in alive}
    return context.config.max_workers * max(1, len(supervisors))


@queue.command()
@click.option(
    "--hours", type=click.FloatRange(0, 8784, min_open=True), default=24, show_default=True,
    help="The span that the names are looked at for.",
)  # fmt: skip
@as_json
@pass_cli_context
async def stats(context: CliContext, hours: float, as_json: bool) -> None:
    """Show how the tasks went: totals, the last hour, and each name.

    The last hour and the names are what the workers counted, a few seconds behind at most. Totals
    with a ~ are estimates: there are too many tasks to be counted in a moment.
    """
    async with context.queue() as (connection, tables):
        states = await counts.count_states(connection, tables)
        hour = await history.last_hour(connection, tables)
        by_name = await figures.names(connection, tables, hours=hours)
        workers = await overview.list_workers(connection, tables)
    if as_json:
        told = {"estimated": sorted(states.estimated)} if states.estimated else {}
        words = ("name", "done", "failed", "duration_ms_p50", "duration_ms_p95")
        lines = [{word: getattr(each, word) for word in words} for each in by_name]
        print_json({"states": states.counts, "last_hour": hour, "names": lines, **told})
        return
    console = terminal()
    console.print(state_table(states, total=True))
    console.print()
    console.print(f"Last hour: {hour['done']:,} done, {hour['failed']:,} failed")
    if by_name:
        console.print()
        console.print(name_table(by_name))
    console.print()
    summary = overview.worker_summary(workers, lease=context.config.lease)
    console.print(
        f"Workers: {summary.processes:,} on {count(summary.servers, 'server')}, "
        f"{summary.busy:,} of {summary.slots:,} slots busy"
    )


@queue.command()
@click.option("--processes", "-p", is_flag=True, help="Show each worker process too.")
@as_json
@pass_cli_context
async def servers(context: CliContext, processes: bool, as_json: bool) -> None:
    """Show who works: the servers and their worker processes."""
    async with context.queue() as (connection, tables):
        workers = await overview.list_workers(connection, tables)
    rows = server_rows(workers, lease=context.config.lease)
    if as_json:
        print_json(rows)
    elif not rows:
        click.echo("No worker runs. Start some: fastedgy queue start")
    else:
        terminal().print(server_table(rows, processes=processes))


@queue.command(name="list")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Repeatable.")
@click.option("--name", help="Its name or the last part of it; * for any characters.")
@click.option("--queue", "queue_name", help="The name of its queue.")
@click.option(
    "--since", type=moment, metavar="WHEN", help="Made since: 2h, 7d, yesterday, 2025-01-31."
)
@click.option("--limit", "-n", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--before", metavar="ID", help="Go on after the last task of the page before.")
@as_json
@pass_cli_context
async def list_(
    context: CliContext,
    states: tuple[str, ...],
    name: str | None,
    queue_name: str | None,
    since: datetime | None,
    limit: int,
    before: str | None,
    as_json: bool,
) -> None:
    """List tasks, the newest first."""
    filters = TaskFilters(states=states, name=name, queue=queue_name, since=since)
    async with context.queue() as (connection, tables):
        start_at = await find.find_id(connection, tables, before) if before else None
        # One more than asked for tells whether there is another page.
        tasks = await find.list_tasks(connection, tables, filters, limit=limit + 1, before=start_at)
    page = tasks[:limit]
    if as_json:
        print_json(page)
        return
    if not page:
        click.echo("No such tasks." if filters != TaskFilters() or before else "No tasks.")
        return
    console = terminal()
    whole = not console.is_terminal or console.width >= _WIDE
    console.print(task_table(page, now=datetime.now(UTC), whole_ids=whole))
    if len(tasks) > limit:
        click.echo(f"There are more: --before {page[-1].id}", err=True)


for module in (queue_show, queue_actions, queue_ops, watch):
    for command in module.COMMANDS:
        queue.add_command(command)
