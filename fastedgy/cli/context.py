"""What commands share: settings, the application, a checked connection to the database."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from fastedgy.errors import AppNotFound, DatabaseError, DatabaseUnavailable

if TYPE_CHECKING:
    from fastapi import FastAPI

    from fastedgy.config import QueuedTaskConfig, Settings
    from fastedgy.models.tables import Tables
    from fastedgy.store.notify import Channels


class Queue(NamedTuple):
    """What the functions of the store take: an asyncpg connection, and the names of the tables."""

    connection: Any
    tables: Tables


class CliContext:
    """The surroundings of a command. Nothing is read, imported or connected before it is used."""

    def __init__(self, app: str | None = None) -> None:
        self.app = app
        self._failed: set[str | None] = set()  # applications that were complained about

    @cached_property
    def settings(self) -> Settings:
        """The application's settings. Raises ConfigurationError."""
        from fastedgy.config import Settings

        return Settings()

    @cached_property
    def config(self) -> QueuedTaskConfig:
        """The queue's settings. Raises ConfigurationError."""
        from fastedgy.config import QueuedTaskConfig

        return QueuedTaskConfig()

    @property
    def channels(self) -> Channels:
        """Where notifications go."""
        from fastedgy.store.notify import channels_of

        return channels_of(self.config)

    def import_application(self, *, required: bool = False) -> FastAPI | None:
        """Import the application, so that its models and commands are known.

        Unless it is `required`, one that is not there is None, and so is one that cannot be
        imported, with a line on stderr: the queue can be looked at and steered without it. What it
        prints while it is imported goes to stderr. Raises AppNotFound if required.
        """
        from fastedgy.discovery import PLACES, find_app

        spec = self.app or self.settings.app
        if spec in self._failed and not required:
            return None
        with contextlib.redirect_stdout(sys.stderr):
            try:
                return find_app(spec)
            except AppNotFound as error:
                if required:
                    raise
                self._failed.add(spec)
                if spec or any(Path(place).is_file() for place in PLACES):
                    say(f"Going on without the application: {one_line(error)}")
                return None

    async def connect(self, *, prepares: bool | None = None) -> Any:
        """A connection to the queue's database. Nothing of the application is started.

        `prepares`: whether statements are prepared; by default unless there is a pooler in
        transaction mode, where they would be another client's. Raises DatabaseUnavailable.
        """
        from fastedgy import database

        if prepares is None:
            prepares = self.config.use_postgresql_notify
        url = await database.resolve_url(self.settings, announce=say)
        return await database.connect(
            url,
            application_name="fastedgy command",
            timeout=self.settings.database_connect_timeout,
            statement_cache_size=None if prepares else 0,
        )

    @asynccontextmanager
    async def queue(self, *, checked: bool = True) -> AsyncIterator[Queue]:
        """A connection to the queue's database, whose tables have been checked, unless `checked` is
        False: then statements are not prepared either, so that it works behind any pooler.

        Raises DatabaseUnavailable, SchemaOutdated and their like. Nothing else of the application
        is started.
        """
        from fastedgy import database, migrate
        from fastedgy.models import queue_tables

        self.import_application()
        connection = await self.connect(prepares=None if checked else False)
        try:
            if checked:
                await migrate.check(connection)
            yield Queue(connection, queue_tables())
        except Exception as error:
            if database.lost(error, connection):
                connection.terminate()
                raise DatabaseUnavailable(
                    f"The connection to the database was lost: {error or 'no answer'}."
                ) from error
            if type(error).__module__.startswith("asyncpg."):
                raise DatabaseError(f"The database refused: {error}.") from error
            raise
        finally:
            await connection.close()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[FastAPI | None]:
        """The application with its whole lifespan running, so that `get` gives its services."""
        from fastedgy.app import running

        app = self.import_application(required=True)
        async with running(app):
            yield app

    def get(self, key: Any) -> Any:
        """A service of the application's container. Raises ServiceNotFound."""
        from fastedgy.dependencies import get_service

        return get_service(key)

    def has(self, key: Any) -> bool:
        """Whether the application's container has that service."""
        from fastedgy.dependencies import has_service

        return has_service(key)


def one_line(error: object) -> str:
    """What an error says, without line ends."""
    return " ".join(str(error).split())


def say(sentence: str) -> None:
    """Tell the person something that is not the answer: on stderr, so that pipes stay clean."""
    click.echo(sentence, err=True)


pass_cli_context = click.make_pass_decorator(CliContext, ensure=True)
