"""What the queue's models have in common: indexes, checks, and who stands for a table.

A project may subclass each abstract base once, under any class and table name; its class is then
the model of that table everywhere. Where it does not, the shipped class is made when somebody
first asks for it, and gives way should a project's class be defined later.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, ClassVar

import sqlalchemy as sa

from fastedgy import database
from fastedgy.errors import ConfigurationError
from fastedgy.models.tables import Tables
from fastedgy.orm import Model, fields

# The longest constraint's name is the table's and 24 characters more; Postgres cuts at 63.
_TABLE_NAME = re.compile(r"[a-z_][a-z0-9_]{0,38}")


def now() -> datetime.datetime:
    """The time as rows that are made in Python carry it: UTC, and saying so."""
    return datetime.datetime.now(datetime.UTC)


columns: Any = fields
"""Edgy's fields. They are typed as fields, while the attributes that they make hold values."""

# A naive value is UTC, whatever zone the process happens to run in.
TimeField: Any = partial(columns.DateTimeField, default_timezone=datetime.UTC)


class WordField(fields.CharChoiceField):
    """One word of a StrEnum, stored as text. Takes the word or the member, gives the member."""

    def __new__(cls, words: type[StrEnum], **options: Any) -> Any:
        return super().__new__(cls, choices=words, max_length=None, **options)

    @classmethod
    def clean(
        cls,
        field_obj: Any,
        field_name: str,
        value: Any,
        for_query: bool = False,
        original_fn: Any = None,
    ) -> dict[str, Any]:
        """What goes to the database. In queries also a list of words, for `state__in=[…]`."""
        if for_query and not isinstance(value, str) and isinstance(value, Iterable):
            return {field_name: [cls.check(field_obj, word).value for word in value]}
        return {field_name: cls.check(field_obj, value).value}


@dataclass(frozen=True, slots=True)
class RowIndex:
    """An index that Edgy has no words for: partial, unique, descending.

    Its name in the database is the table's, an underscore and `name`.
    """

    name: str
    columns: tuple[str, ...]
    where: str | None = None
    unique: bool = False
    deduplicated: bool = True
    """Whether equal values share an entry. Not where many short-lived rows share few values: such
    an entry lasts as long as the last of its rows, so that dead ones are looked up again and again
    (measured: without, claims of tasks with 50 gates take a third less time)."""


@dataclass(frozen=True, slots=True)
class QueueTable:
    """A table of the queue: what the shipped revisions make, beside its columns."""

    kind: str
    """Which one it is: a field of `Tables`."""

    indexes: tuple[RowIndex, ...] = ()
    checks: Mapping[str, str] = field(default_factory=dict)
    """CHECK constraints by name. In the database the table's name comes first, as for indexes."""

    storage: str = ""
    """Storage parameters, as ALTER TABLE … SET takes them."""


class QueueRow(Model):
    """The base of the four bases."""

    queue_table: ClassVar[QueueTable]
    comes_with_fastedgy: ClassVar[bool] = False

    class Meta:
        abstract = True

    @classmethod
    def build(cls, schema: str | None = None, metadata: sa.MetaData | None = None) -> sa.Table:
        """Edgy's table, with the indexes, checks and storage parameters of the queue's.

        `table.info["shipped"]` then holds the names of the columns, indexes and constraints that
        the shipped revisions make; all others are the project's. Raises ConfigurationError for
        a column of the project's that rows of the queue could not fill.
        """
        table: sa.Table = super().build(schema, metadata)
        if "shipped" in table.info:  # Edgy builds again whenever it refreshes
            return table
        shipped = set(_base_of(cls).meta.fields)
        _refuse_mandatory(cls, [column for column in table.columns if column.name not in shipped])
        for index in cls.queue_table.indexes:
            shipped.add(name := f"{table.name}_{index.name}")
            where = sa.text(index.where) if index.where else None
            parts = [table.c.get(column, sa.text(column)) for column in index.columns]
            options = {} if index.deduplicated else {"deduplicate_items": "off"}
            sa.Index(
                name, *parts, unique=index.unique, postgresql_where=where,
                postgresql_with=options, _table=table,
            )  # fmt: skip
        for check, condition in cls.queue_table.checks.items():
            shipped.add(name := f"{table.name}_{check}")
            table.append_constraint(sa.CheckConstraint(condition, name=name))
        if cls.queue_table.storage:
            ddl: Any = sa.DDL  # not typed by SQLAlchemy
            setting = ddl(f"ALTER TABLE %(fullname)s SET ({cls.queue_table.storage})")
            sa.event.listen(table, "after_create", setting)
        table.info["shipped"] = shipped
        return table

    @classmethod
    def real_add_to_registry(cls, **options: Any) -> Any:
        """Edgy's registration of a class that has a table: the place for the rules about these.

        Without a name in its Meta, a class has the shipped table.
        """
        if cls.meta.abstract or cls.__is_proxy_model__:
            return super().real_add_to_registry(**options)
        if getattr(cls.__dict__.get("Meta"), "tablename", None) is None:
            cls.meta.tablename = getattr(Tables(), cls.queue_table.kind)
        if not _TABLE_NAME.fullmatch(str(cls.meta.tablename)):
            raise ConfigurationError(
                f"{_name(cls)} cannot have the table {cls.meta.tablename!r}: small letters, digits "
                "and underscores, at most 39 of them, are what the queue's tables are named with."
            )
        if not _is_shipped(cls):
            _give_way(_base_of(cls), cls)
        return super().real_add_to_registry(**options)


def models_of(base: type[QueueRow]) -> list[type[Any]]:
    """The classes with a table that come from `base`: none, one, or too many."""
    return [model for model in database.registry.models.values() if issubclass(model, base)]


def model_of(base: type[QueueRow], shipped: Callable[[], type[Any]]) -> type[Any]:
    """The class that stands for the table of `base`, made by `shipped()` if there is none yet.

    Raises ConfigurationError if several classes compete.
    """
    models = models_of(base)
    _refuse_several(base, models)
    return models[0] if models else shipped()


def table_names() -> Tables:
    """The tables as the project's models name them, or else the shipped names."""
    names = {}
    for base in QueueRow.__subclasses__():
        models = models_of(base)
        _refuse_several(base, models)
        if models:
            names[base.queue_table.kind] = models[0].meta.tablename
    return Tables(**names)


def _base_of(model: type[QueueRow]) -> type[QueueRow]:
    """BaseQueuedTask or its like: what stands right above QueueRow."""
    line = model.__mro__
    return line[line.index(QueueRow) - 1]


def _is_shipped(model: type[QueueRow]) -> bool:
    """Whether it is the shipped class itself, not a project's subclass of that."""
    return bool(vars(model).get("comes_with_fastedgy"))


def _give_way(base: type[QueueRow], model: type[QueueRow]) -> None:
    """Take the shipped class out of the registry. Who holds it already reads the new table."""
    for shipped in models_of(base):
        if _is_shipped(shipped):
            database.registry.delete_model(shipped.__name__)
            shipped.meta.tablename = model.meta.tablename
            shipped.meta.invalidate()


def _refuse_several(base: type[QueueRow], models: list[type[Any]]) -> None:
    if len({model.meta.tablename for model in models}) > 1:
        names = " and ".join(_name(model) for model in models)
        raise ConfigurationError(
            f"{names} compete for the queue's {base.queue_table.kind}: only one class with a table "
            f"may come from {base.__name__}. Make the others abstract."
        )


def _refuse_mandatory(model: type[QueueRow], columns: list[sa.Column[Any]]) -> None:
    for column in columns:
        if not column.nullable and column.server_default is None:
            raise ConfigurationError(
                f"The column {column.name!r} of {_name(model)} must be null=True or have a "
                "server_default: the queue writes its rows without knowing it."
            )


def _name(model: type[Any]) -> str:
    return f"{model.__module__}.{model.__qualname__}"
