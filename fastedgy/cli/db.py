"""`fastedgy db`: the database of the project, its server and its migrations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastedgy.cli.context import CliContext, pass_cli_context, say
from fastedgy.cli.options import app_option, as_json, confirm, yes
from fastedgy.cli.output import count, print_json
from fastedgy.cli.root import Group

if TYPE_CHECKING:
    from fastedgy.embedded import EmbeddedPostgres


@click.group(cls=Group)
@app_option
@pass_cli_context
def db(context: CliContext, app: str | None) -> None:
    """Create, migrate and watch the database."""
    context.app = app or context.app


def _of_project(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of commands that read the project's models and revisions."""
    app = click.option("--app", metavar="MODULE:ATTRIBUTE", help="The application.")
    directory = click.option(
        "--directory",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where the project's own revisions are. Default: ./migrations/versions.",
    )
    return app(directory(command))


@db.command()
@click.argument("revision", default="heads")
@click.option("--no-app", is_flag=True, help="Import no application: the tables' usual names.")
@_of_project
@as_json
@pass_cli_context
async def migrate(
    context: CliContext,
    revision: str,
    no_app: bool,
    app: str | None,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Apply the revisions that the database lacks, up to REVISION (default: all).

    The queue's own and the project's, in one transaction. May be started by many at once. The
    application is imported because its models name the tables.
    """
    from fastedgy import migrate

    context.app = app or context.app
    if not no_app:
        _import_application(context)
    applied = await migrate.upgrade(await _url(context), revision, directory=directory)
    if as_json:
        print_json({"applied": applied})
    else:
        click.echo(_sentence("Applied", applied) or "Nothing to apply: the database is up to date.")


@db.command(context_settings={"ignore_unknown_options": True})
@click.argument("revision")
@_of_project
@yes
@as_json
@pass_cli_context
async def downgrade(
    context: CliContext,
    revision: str,
    app: str | None,
    directory: Path | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Undo the revisions that came after REVISION.

    -1 undoes the last one, base all of them, fastedgy@base the queue's tables and what depends on
    them. What the revisions had made is dropped together with its rows.
    """
    from fastedgy import migrate
    from fastedgy.database_url import parse_url

    context.app = app or context.app
    _import_application(context)
    url = await _url(context)
    confirm(f"Go back to {revision} in {parse_url(url)}? Rows are lost.", yes=yes)
    undone = await migrate.downgrade(url, revision, directory=directory)
    if as_json:
        print_json({"undone": undone})
    else:
        click.echo(_sentence("Undid", undone) or "Nothing to undo.")


@db.command()
@click.option("-m", "--message", required=True, help="What the change is about.")
@_of_project
@as_json
@pass_cli_context
async def makemigrations(
    context: CliContext, message: str, app: str | None, directory: Path | None, as_json: bool
) -> None:
    """Write a revision for what the project's models have and the database lacks.

    Looks at the models of fastedgy.orm and at the columns that the project added to the queue's
    tables. Read the file before you apply it.
    """
    from fastedgy import database, migrate

    context.app = app or context.app
    context.import_application(required=True)
    url = await _url(context)
    database.bind(url, context.settings)
    path = await migrate.makemigrations(url, message, directory=directory)
    if as_json:
        print_json({"path": str(path) if path else None})
    elif path is None:
        click.echo("Nothing to write: the database has all that the models have.")
    else:
        click.echo(f"Wrote {_short(path)}. Read it, then run `fastedgy db migrate`.")


@db.command()
@_of_project
@click.option("--check", is_flag=True, help="Exit with 1 unless the database is up to date.")
@as_json
@pass_cli_context
async def status(
    context: CliContext, app: str | None, directory: Path | None, check: bool, as_json: bool
) -> None:
    """Show where the database is, whether it runs, and which revisions it lacks.

    Starts nothing and changes nothing.
    """
    from fastedgy import migrate

    context.app = app or context.app
    server, url = await _server(context)
    migrations = await migrate.status(url, directory=directory) if server["running"] else None
    if as_json:
        shown = asdict(migrations) | {"up_to_date": migrations.up_to_date} if migrations else None
        print_json({"server": server, "migrations": shown})
    else:
        click.echo(_server_sentence(server))
        if migrations is not None:
            click.echo(_migrations_sentence(migrations.current, migrations.pending))
    if check and (migrations is None or not migrations.up_to_date):
        raise click.exceptions.Exit(1)


@db.command()
@as_json
@pass_cli_context
async def createdb(context: CliContext, as_json: bool) -> None:
    """Create the database that DATABASE_URL names, if it is not there."""
    from fastedgy import migrate
    from fastedgy.database_url import parse_url

    url = await _url(context)
    created = await migrate.createdb(url)
    if as_json:
        print_json({"database": parse_url(url).name, "created": created})
    elif created:
        click.echo(f"Created {parse_url(url)}. Next: `fastedgy db migrate`.")
    else:
        click.echo(f"It is there already: {parse_url(url)}.")


@db.command()
@as_json
@pass_cli_context
async def start(context: CliContext, as_json: bool) -> None:
    """Start the embedded Postgres and print its URL. Other commands start it themselves."""
    url = await asyncio.to_thread(_embedded(context).start)
    if as_json:
        print_json({"url": url})
    else:
        click.echo(url)


@db.command()
@as_json
@pass_cli_context
async def stop(context: CliContext, as_json: bool) -> None:
    """Stop the embedded Postgres. Its data stays; the next command starts it again."""
    embedded = _embedded(context)
    stopped = await asyncio.to_thread(embedded.stop)
    if as_json:
        print_json({"stopped": stopped})
    elif stopped:
        click.echo(f"Stopped the embedded Postgres in {embedded.data_dir}.")
    else:
        click.echo(f"No embedded Postgres runs in {embedded.data_dir}.")
        if context.settings.database_url:
            say("DATABASE_URL names a server that is not ours to stop.")


def _import_application(context: CliContext) -> None:
    """Import the application, whose models name the tables; without one, the usual names count.

    One that is there and cannot be imported is an error: its tables might have other names.
    """
    from fastedgy.discovery import PLACES

    there = any(Path(place).is_file() for place in PLACES)
    context.import_application(required=bool(there or context.app or context.settings.app))


async def _url(context: CliContext) -> str:
    from fastedgy import database

    return await database.resolve_url(context.settings, announce=say)


def _embedded(context: CliContext) -> EmbeddedPostgres:
    from fastedgy.embedded import server

    return server(context.settings.data_dir)


async def _server(context: CliContext) -> tuple[dict[str, Any], str]:
    """What is known of the server, as JSON, and its URL. Raises if it is not ours and silent."""
    from fastedgy import database
    from fastedgy.database_url import parse_url

    if not (context.settings.database_url or "").strip():
        found = await asyncio.to_thread(_embedded(context).status)
        known = asdict(found) | {"data_dir": str(found.data_dir)}
        return {"kind": "embedded"} | known, database.normalize_url(found.url)
    url = await _url(context)
    connection = await database.connect(
        url, application_name="fastedgy db", timeout=context.settings.database_connect_timeout
    )
    version = connection.get_settings().server_version.split()[0]
    await connection.close()
    place = str(parse_url(url))  # without the password
    return {"kind": "url", "running": True, "place": place, "version": version}, url


def _server_sentence(server: dict[str, Any]) -> str:
    if server["kind"] == "url":
        return f"PostgreSQL {server['version']}: {server['place']}"
    if not server["running"]:
        return (
            f"The embedded Postgres in {server['data_dir']} does not run. Any command that needs "
            "it starts it; DATABASE_URL names another server."
        )
    return f"Embedded PostgreSQL {server['version']} (pid {server['pid']}): {server['url']}"


def _migrations_sentence(current: list[str], pending: list[str]) -> str:
    if not pending:
        return f"Up to date, at {', '.join(current)}."
    missing = f"{count(len(pending), 'revision')} to apply: {', '.join(pending)}."
    return f"{missing} Run `fastedgy db migrate`."


def _sentence(verb: str, revisions: list[str]) -> str:
    return f"{verb} {', '.join(revisions)}." if revisions else ""


def _short(path: Path) -> Path:
    """A path as it is seen from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
