"""What `makemigrations` compares with the database: the project's share of the models."""

from __future__ import annotations

import re
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastedgy import database
from fastedgy.models import queue_tables

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import MetaData


def project_metadata() -> MetaData:
    """The tables of all models that are bound to `fastedgy.orm`'s registry by now."""
    database.registry.refresh_metadata()
    metadata: MetaData = database.registry.metadata_by_name[None]
    return metadata


class Included:
    """Alembic's `include_object`: whether a difference is the project's business.

    Of the queue's tables, what the project added. Of the others, those that have a model, and
    those that one of the project's revisions created (their model is gone: drop them). A table
    that neither knows belongs to somebody else in the same database and stays as it is.
    """

    def __init__(self, metadata: MetaData, scripts: ScriptDirectory) -> None:
        self.metadata = metadata
        self.queue_tables = set(astuple(queue_tables()))
        self.revisions = [Path(script.path).read_text() for script in scripts.walk_revisions()]

    def __call__(
        self, item: Any, name: str | None, type_: str, reflected: bool, compare_to: Any
    ) -> bool:
        if type_ == "table":
            return self._table(str(name))
        table = item.table.name
        if table not in self.queue_tables:
            return True
        shipped: set[str] = self.metadata.tables[table].info["shipped"]
        return name not in shipped

    def _table(self, name: str) -> bool:
        if name in self.queue_tables:
            return name in self.metadata.tables
        return name in self.metadata.tables or any(
            re.search(rf"create_table\(\s*['\"]{re.escape(name)}['\"]", text)
            for text in self.revisions
        )


def without_empty(context: object, revision: object, directives: list[Any]) -> None:
    """Alembic's `process_revision_directives`: no file when there is nothing to write in it."""
    if directives[0].upgrade_ops.is_empty():
        directives.clear()


def render_item(type_: str, item: Any, autogen_context: AutogenContext) -> Literal[False]:
    """Alembic's `render_item`: as usual, but import the modules of types that are not SQLAlchemy's.

    Edgy has some of its own, and a project may have too.
    """
    module = type(item).__module__
    if type_ == "type" and not module.startswith(("sqlalchemy", "builtins")):
        autogen_context.imports.add(f"import {module}")
    return False
