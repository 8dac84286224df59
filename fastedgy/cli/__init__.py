"""The command line, and what a project adds to it.

A project's own commands are functions under `@command()` or in a `@group()`, sync or async, in any
module that the application imports:

    from fastedgy.cli import CliContext, command, console, pass_cli_context

    @command()
    @pass_cli_context
    async def greet(context: CliContext) -> None:
        async with context.lifespan():
            console.print(context.get(Greeter).greeting)

`fastedgy greet` then finds it by importing the application.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from click import argument, option

from fastedgy.cli.context import CliContext, pass_cli_context
from fastedgy.cli.root import command, group, main

if TYPE_CHECKING:
    from rich.panel import Panel
    from rich.table import Table

    from fastedgy.cli.output import console

__all__ = [
    "CliContext",
    "Panel",
    "Table",
    "argument",
    "command",
    "console",
    "group",
    "main",
    "option",
    "pass_cli_context",
]


def __getattr__(name: str) -> Any:
    # Rich takes longer to import than `fastedgy --version` may take in all.
    if name == "console":
        from fastedgy.cli import output

        return output.console
    if name == "Panel":
        from rich.panel import Panel

        return Panel
    if name == "Table":
        from rich.table import Table

        return Table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
