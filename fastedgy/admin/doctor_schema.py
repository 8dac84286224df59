"""What doctor says of the tables: missing, invalid, changed by other hands."""

from __future__ import annotations

from asyncpg import Connection, PostgresError

from fastedgy import migrate
from fastedgy.admin.findings import Finding, Fix, Severity, Ward
from fastedgy.errors import SchemaOutdated
from fastedgy.models.tables import Tables
from fastedgy.store.schema import Column, Index, Schema, actual_schema, expected_schema

_SLOW = "Statements that were written for it read the whole table instead."


async def check_release(connection: Connection) -> list[Finding]:
    """Whether the tables are there and new enough. If not, nothing else can be looked at."""
    try:
        await migrate.check(connection)
    except SchemaOutdated as error:
        return [
            Finding(
                "schema_outdated", Severity.error, str(error).split(". ")[0] + ".",
                "Nothing of this release works with this database.", str(error),
                "fastedgy db migrate",
            )
        ]  # fmt: skip
    return []


async def check_schema(
    connection: Connection, tables: Tables, ward: Ward | None = None
) -> list[Finding]:
    """Whether the tables are what the shipped revisions made."""
    try:
        expected = await expected_schema(connection, tables)
    except PostgresError as error:
        return [
            Finding(
                "schema_unchecked", Severity.info,
                "The tables could not be compared with what they should be.",
                "Missing indexes and the like are not found here.",
                f"{type(error).__name__}: {error}",
                "Run doctor on the primary, as a role that may make temporary tables.",
            )
        ]  # fmt: skip
    actual = await actual_schema(connection, tables)
    return [
        *_indexes(expected, actual),
        *_columns(expected, actual),
        *_checks(expected, actual),
        *_storage(expected, actual),
    ]


def _indexes(expected: Schema, actual: Schema) -> list[Finding]:
    findings = []
    for name, index in expected.indexes.items():
        found = actual.indexes.get(name)
        if index.table not in actual.tables or (found and found.building):
            continue
        if found is None:
            findings.append(_missing_index(name, index))
        elif not found.valid:
            findings.append(_invalid_index(name, index))
        elif (found.definition, found.unique) != (index.definition, index.unique):
            findings.append(_changed_index(name, index, found))
    for name, index in actual.indexes.items():
        if name in expected.indexes or index.building:
            continue
        if not index.valid:
            findings.append(_leftover_index(name, index))
        elif index.table in expected.tables:
            findings.append(_extra_index(name, index))
    return findings


def _create(name: str, index: Index) -> str:
    unique = "UNIQUE " if index.unique else ""
    return f"CREATE {unique}INDEX CONCURRENTLY {name} ON {index.table} USING {index.definition}"


def _missing_index(name: str, index: Index) -> Finding:
    if index.primary:
        statement = f"ALTER TABLE {index.table} ADD PRIMARY KEY {index.definition[6:]}"
        fix = None  # takes as long as the index, and locks the table meanwhile
    else:
        statement = _create(name, index)
        fix = Fix(f"Builds {name}, without blocking anybody.", (statement,))
    meaning = "What it kept unique is not any more." if index.unique else _SLOW
    return Finding(
        "missing_index", Severity.error,
        f"The index {name} of {index.table} is missing.", meaning,
        f"It should be: {index.definition}", statement, fix, {"index": name, "table": index.table},
    )  # fmt: skip


def _invalid_index(name: str, index: Index) -> Finding:
    statement = f"REINDEX INDEX CONCURRENTLY {name}"
    return Finding(
        "invalid_index", Severity.error,
        f"The index {name} of {index.table} is invalid.",
        f"It costs every write and serves no query. {_SLOW}",
        "indisvalid is false: building it was interrupted, or failed.", statement,
        Fix(f"Builds {name} anew, without blocking anybody.", (statement,)),
        {"index": name, "table": index.table},
    )  # fmt: skip


def _changed_index(name: str, index: Index, found: Index) -> Finding:
    statements = (f"DROP INDEX CONCURRENTLY {name}", _create(name, index))
    return Finding(
        "changed_index", Severity.error,
        f"The index {name} of {index.table} is not the one that was shipped.", _SLOW,
        f"It is {found.definition}, and should be {index.definition}.", "; ".join(statements),
        None if index.primary else
        Fix(f"Replaces {name}, without blocking anybody.", statements),
        {"index": name, "table": index.table},
    )  # fmt: skip


def _leftover_index(name: str, index: Index) -> Finding:
    statement = f"DROP INDEX CONCURRENTLY {name}"
    return Finding(
        "invalid_index", Severity.warning,
        f"The index {name} of {index.table} is invalid, and none of the queue's.",
        "It costs every write and serves no query.",
        "Left over from a CREATE INDEX or REINDEX CONCURRENTLY that did not come to its end.",
        statement, Fix(f"Drops {name}.", (statement,)), {"index": name, "table": index.table},
    )  # fmt: skip


def _extra_index(name: str, index: Index) -> Finding:
    return Finding(
        "extra_index", Severity.info,
        f"The table {index.table} has an index that is not the queue's: {name}.",
        "Each one costs every task, the most those on columns that change with its state (a tenth "
        "to a quarter of the rate).",
        f"{index.definition}, {index.size:,} bytes",
        f"Keep it if your own queries need it; else DROP INDEX CONCURRENTLY {name}",
        details={"index": name, "table": index.table},
    )  # fmt: skip


def _columns(expected: Schema, actual: Schema) -> list[Finding]:
    findings = []
    for (table, name), column in expected.columns.items():
        found = actual.columns.get((table, name))
        if table not in actual.tables or found == column:
            continue
        if found is None:
            findings.append(
                _drift(
                    f"The column {name} of {table} is missing.",
                    "Statements that name it fail.", f"It should be: {_sql(column)}",
                    f"ALTER TABLE {table} ADD COLUMN {name} {_sql(column)}", table, name,
                )
            )  # fmt: skip
            continue
        changes = []
        if found.type != column.type:
            changes.append(f"ALTER COLUMN {name} TYPE {column.type}")
        if found.given != column.given:
            changes.append(
                f"ALTER COLUMN {name} "
                + (f"SET DEFAULT {column.given}" if column.given else "DROP DEFAULT")
            )
        if found.required != column.required:
            changes.append(f"ALTER COLUMN {name} {'SET' if column.required else 'DROP'} NOT NULL")
        statement = f"ALTER TABLE {table} {', '.join(changes)}"
        # Another default is set in a moment; the others rewrite or read the whole table.
        fix = None
        if (found.type, found.required) == (column.type, column.required):
            fix = Fix(f"Gives {table}.{name} its default back.", (statement,))
        findings.append(
            _drift(
                f"The column {name} of {table} is not the one that was shipped.",
                "Statements that were written for it may fail, or store something else.",
                f"It is {_sql(found)}, and should be {_sql(column)}.", statement, table, name, fix,
            )
        )  # fmt: skip
    for (table, name), column in actual.columns.items():
        if (table, name) not in expected.columns and column.required and column.given is None:
            findings.append(
                _drift(
                    f"The column {name} of {table} is yours, must be given, and has no default.",
                    "The queue does not know it, so nothing can be inserted.", _sql(column),
                    f"ALTER TABLE {table} ALTER COLUMN {name} DROP NOT NULL (or SET DEFAULT …)",
                    table, name,
                )
            )  # fmt: skip
    return findings


def _sql(column: Column) -> str:
    given = f" DEFAULT {column.given}" if column.given else ""
    return f"{column.type}{' NOT NULL' if column.required else ''}{given}"


def _drift(
    title: str, meaning: str, evidence: str, cure: str, table: str, name: str,
    fix: Fix | None = None,
) -> Finding:  # fmt: skip
    return Finding("schema_drift", Severity.error, title, meaning, evidence, cure, fix,
                   {"table": table, "name": name})  # fmt: skip


def _checks(expected: Schema, actual: Schema) -> list[Finding]:
    findings = []
    for (table, name), definition in expected.checks.items():
        found = actual.checks.get((table, name))
        if table not in actual.tables or found == definition:
            continue
        statements = (
            *([f"ALTER TABLE {table} DROP CONSTRAINT {name}"] if found else []),
            f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition} NOT VALID",
            f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}",
        )
        findings.append(
            _drift(
                f"The rule {name} of {table} is {'another one' if found else 'missing'}.",
                "Rows that make no sense are accepted, and the engine may stumble over them.",
                f"It should be: {definition}" + (f"; it is: {found}" if found else ""),
                "; ".join(statements), table, name,
                Fix(f"Puts {name} back, and checks the rows that are there.", statements),
            )
        )  # fmt: skip
    return findings


def _storage(expected: Schema, actual: Schema) -> list[Finding]:
    findings = []
    for table in sorted(expected.tables & actual.tables):
        wanted = {name: value for (of, name), value in expected.storage.items() if of == table}
        found = {name: value for (of, name), value in actual.storage.items() if of == table}
        lacking = {name: value for name, value in wanted.items() if found.get(name) != value}
        off = found.get("autovacuum_enabled") in ("false", "off")
        if not lacking and not off:
            continue
        statements = []
        if lacking:
            values = ", ".join(f"{name} = {value}" for name, value in lacking.items())
            statements.append(f"ALTER TABLE {table} SET ({values})")
        if off:
            statements.append(f"ALTER TABLE {table} RESET (autovacuum_enabled)")
        findings.append(
            Finding(
                "autovacuum_off" if off else "storage_settings",
                Severity.error if off else Severity.warning,
                f"Autovacuum is switched off for {table}." if off else
                f"The storage settings of {table} are not those that were shipped.",
                "A row is written three times in its life: without room in its page and an early "
                "vacuum, claims get slower with every task.",
                ", ".join(f"{name} = {value}" for name, value in sorted(found.items())) or "none",
                "; ".join(statements),
                Fix(f"Sets them for {table}, without blocking anybody.", tuple(statements)),
                {"table": table, "lacking": lacking, "off": off},
            )
        )  # fmt: skip
    return findings
