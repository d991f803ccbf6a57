"""The schema, as the dialect needs to know it: each table's columns with their declared types."""

from dataclasses import dataclass, field
from typing import Any, Final

import apsw

from db_instance.dialect.statement import Column, TableInfo
from db_instance.dialect.types import INT8, oid_of_decltype


@dataclass(eq=False)
class Schema:
    """One state of the schema; another one is another object."""

    version: int = 0
    tables: dict[str, TableInfo] = field(default_factory=dict)

    def table(self, name: str) -> TableInfo | None:
        return self.tables.get(name.lower())


EMPTY_SCHEMA: Final = Schema()


def read_schema(connection: apsw.Connection) -> Schema:
    """Every table and view. Called inside a greenlet: it may wait for pages."""
    version = connection.pragma("schema_version")
    assert isinstance(version, int)
    tables: dict[str, TableInfo] = {}
    query = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    names: Any = connection.execute(query).fetchall()
    for (name,) in names:
        rows: Any = connection.execute("SELECT name, type, pk FROM pragma_table_info(?)", (name,)).fetchall()
        key = tuple(column for column, _, at in sorted(rows, key=lambda row: row[2]) if at)
        columns = tuple(Column(column, _oid(declared, at, len(key))) for column, declared, at in rows)
        tables[name.lower()] = TableInfo(name, columns, key)
    return Schema(version, tables)


def _oid(declared: str, key_position: int, key_size: int) -> int:
    if declared == "INTEGER" and key_position and key_size == 1:
        return INT8  # SQLite's row number: bigint and serial keys are declared so
    return oid_of_decltype(declared)
