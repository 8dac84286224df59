"""The schema that the shipped revisions make, and how the one in the database differs from it.

What is expected is not written down a second time: the revisions are run on temporary tables, in a
transaction that is rolled back, and the catalog of this very server says what became of them.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import asdict, dataclass, field
from string import Template

from asyncpg import Connection

from fastedgy.models.tables import Tables

_COLUMNS = """
SELECT class.relname AS table, attribute.attname AS name,
       format_type(attribute.atttypid, attribute.atttypmod) AS type,
       attribute.attnotnull AS required,
       pg_get_expr(given.adbin, given.adrelid) AS given
  FROM pg_class AS class
  JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid
  LEFT JOIN pg_attrdef AS given
    ON given.adrelid = class.oid AND given.adnum = attribute.attnum
 WHERE class.oid = ANY ($1::oid[]) AND attribute.attnum > 0 AND NOT attribute.attisdropped
"""
# What follows USING names no schema. A half-built index has its old name beside a suffix.
_INDEXES = """
SELECT class.relname AS table, index.relname AS name, entry.indisunique AS unique,
       entry.indisvalid AND entry.indisready AS valid, entry.indisprimary AS primary,
       substring(pg_get_indexdef(entry.indexrelid) FROM ' USING (.*)$') AS definition,
       pg_relation_size(entry.indexrelid) AS bytes,
       EXISTS (SELECT FROM pg_stat_progress_create_index AS progress
                WHERE progress.index_relid = entry.indexrelid) AS building
  FROM pg_index AS entry
  JOIN pg_class AS class ON class.oid = entry.indrelid
  JOIN pg_class AS index ON index.oid = entry.indexrelid
 WHERE entry.indrelid = ANY ($1::oid[])
"""
_CHECKS = """
SELECT class.relname AS table, rule.conname AS name,
       pg_get_constraintdef(rule.oid) AS definition, rule.convalidated AS valid
  FROM pg_constraint AS rule JOIN pg_class AS class ON class.oid = rule.conrelid
 WHERE rule.conrelid = ANY ($1::oid[]) AND rule.contype = 'c'
"""
_STORAGE = """
SELECT relname AS table, coalesce(reloptions, '{}') AS options
  FROM pg_class WHERE oid = ANY ($1::oid[])
"""
_OIDS = """
SELECT array_agg(coalesce(to_regclass($1 || quote_ident(name)), 0)::oid)
  FROM unnest($2::text[]) AS name
"""


@dataclass(frozen=True, slots=True)
class Column:
    """`given` is its default, as SQL."""

    type: str
    required: bool
    given: str | None


@dataclass(frozen=True, slots=True)
class Index:
    """`definition` is what follows USING: the method, the columns and the condition."""

    table: str
    definition: str
    unique: bool
    primary: bool
    valid: bool = True
    building: bool = False
    size: int = 0


@dataclass(slots=True)
class Schema:
    """Columns, CHECKs and storage settings by (table, name); indexes by name."""

    columns: dict[tuple[str, str], Column] = field(default_factory=dict)
    indexes: dict[str, Index] = field(default_factory=dict)
    checks: dict[tuple[str, str], str] = field(default_factory=dict)
    storage: dict[tuple[str, str], str] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)


_expected: dict[tuple[Tables, tuple[int, ...]], Schema] = {}


async def actual_schema(connection: Connection, tables: Tables) -> Schema:
    """What the database has of the queue's tables; a table that is not there is left out."""
    return await _read(connection, tables, "")


async def expected_schema(connection: Connection, tables: Tables) -> Schema:
    """What it should have, on this server.

    Needs the right to make temporary tables, which everybody has unless it was taken away, and a
    server that is no standby. Raises asyncpg's errors where that is not so.
    """
    key = (tables, tuple(connection.get_server_version()[:2]))
    if key not in _expected:
        trial = connection.transaction()
        await trial.start()
        try:
            await connection.execute("SET LOCAL search_path = pg_temp")
            for statement in _revisions(tables):
                await connection.execute(statement)
            _expected[key] = await _read(connection, tables, "pg_temp.")
        finally:
            await trial.rollback()
    return _expected[key]


def _revisions(tables: Tables) -> list[str]:
    """The statements of all shipped revisions, in their order."""
    package = importlib.import_module("fastedgy.migrations.versions")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    statements = []
    for name in names:
        script = importlib.import_module(f"{package.__name__}.{name}").UPGRADE
        filled = Template(script).substitute(asdict(tables))
        statements += [each for each in filled.split(";\n") if each.strip()]
    return statements


async def _read(connection: Connection, tables: Tables, prefix: str) -> Schema:
    found = await connection.fetchval(_OIDS, prefix, list(asdict(tables).values()))
    oids = [oid for oid in found if oid]
    schema = Schema()
    for row in await connection.fetch(_COLUMNS, oids):
        schema.columns[row["table"], row["name"]] = Column(
            row["type"], row["required"], row["given"]
        )
    for row in await connection.fetch(_INDEXES, oids):
        schema.indexes[row["name"]] = Index(
            row["table"], row["definition"], row["unique"], row["primary"], row["valid"],
            row["building"], row["bytes"],
        )  # fmt: skip
    for row in await connection.fetch(_CHECKS, oids):
        schema.checks[row["table"], row["name"]] = row["definition"]
    for row in await connection.fetch(_STORAGE, oids):
        schema.tables.add(row["table"])
        for option in row["options"]:
            name, _, value = option.partition("=")
            schema.storage[row["table"], name] = value
    return schema
