"""The command `fastedgy`: its groups, imported when they are used; its errors, one line each."""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import click

from fastedgy.cli.context import CliContext, one_line
from fastedgy.errors import FastEdgyError


class Shipped(NamedTuple):
    """A command of FastEdgy's own: where it is, and what the help says of it."""

    module: str
    summary: str

    def load(self, name: str) -> click.Command | None:
        if find_spec(self.module) is None:
            return None
        loaded: click.Command = getattr(importlib.import_module(self.module), name)
        return loaded


SHIPPED = {
    "demo": Shipped("fastedgy.cli.demo", "See it work: a server, two workers and real tasks."),
    "serve": Shipped("fastedgy.cli.serve", "Serve the application over HTTP."),
    "queue": Shipped("fastedgy.cli.queue", "Run workers, and see and steer the tasks."),
    "schedule": Shipped("fastedgy.cli.schedule", "See and steer what runs on a timetable."),
    "db": Shipped("fastedgy.cli.db", "Create, migrate and watch the database."),
}


class OneLine(click.ClickException):
    """An error of ours as the command line shows it: one line, exit code 1."""

    def __init__(self, error: FastEdgyError) -> None:
        super().__init__(one_line(error))

    def show(self, file: Any = None) -> None:
        click.echo(f"{click.style('Error:', fg='red')} {self.message}", file=file, err=True)


class Command(click.Command):
    """A command whose function may be a coroutine function."""

    def invoke(self, ctx: click.Context) -> Any:
        result = super().invoke(ctx)
        if inspect.iscoroutine(result):
            return asyncio.run(result)
        return result


class Group(click.Group):
    """A group whose commands may be coroutine functions."""

    command_class = Command
    group_class = type

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not close or "Did you mean" in error.message:
                raise
            message = f"{error.message} Did you mean {close[0]!r}?"
            raise click.UsageError(message, ctx=error.ctx or ctx) from None


class Root(Group):
    """`fastedgy` itself. The project's commands are known once its application is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._import_application(ctx)
        shipped = [name for name, command in SHIPPED.items() if find_spec(command.module)]
        return [*shipped, *sorted(set(super().list_commands(ctx)) - set(shipped))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = super().get_command(ctx, cmd_name)
        if known is None and cmd_name in SHIPPED:
            known = SHIPPED[cmd_name].load(cmd_name)
        elif known is None:
            self._import_application(ctx)
            known = super().get_command(ctx, cmd_name)
        return known

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            own = self.commands.get(name)
            if own is None:
                rows.append((name, SHIPPED[name].summary))
            elif not own.hidden:
                rows.append((name, own.get_short_help_str(formatter.width)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FastEdgyError as error:
            raise OneLine(error) from error

    @staticmethod
    def _import_application(ctx: click.Context) -> None:
        ctx.ensure_object(CliContext).import_application()


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"fastedgy {version('fastedgy')}")
    ctx.exit()


def _read_env_file(_: click.Context, __: click.Parameter, path: Path | None) -> None:
    """Put the variables of a file into the environment; those that are set there already win."""
    if path is None:
        return
    from dotenv import dotenv_values

    for name, value in dotenv_values(path).items():
        if value is not None:
            os.environ.setdefault(name, value)


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version.",
)
@click.option(
    "--env-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read_env_file,
    help="A file of NAME=value lines that are not in the environment already.",
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Durable background tasks for FastAPI on Postgres."""
    ctx.ensure_object(CliContext)
    # A name or a message may hold what the terminal's encoding cannot show.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def command(name: str | None = None, **options: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command of `fastedgy`. It may be async. Options as in `click.command`."""
    make = functools.partial(click.command, name, cls=Command, **options)

    def add(function: Callable[..., Any]) -> Command:
        made: Command = make()(function)
        main.add_command(made)
        return made

    return add


def group(name: str | None = None, **options: Any) -> Callable[[Callable[..., Any]], Group]:
    """Make a function a group of commands of `fastedgy`. Options as in `click.group`."""

    def add(function: Callable[..., Any]) -> Group:
        made: Group = click.group(name, cls=Group, **options)(function)
        main.add_command(made)
        return made

    return add
