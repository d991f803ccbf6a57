"""The schema, as the dialect needs to know it: each table's columns with their declared types."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final, NamedTuple

import apsw

from db_instance.dialect.constraints import named_keys
from db_instance.dialect.statement import Column, TableInfo
from db_instance.dialect.types import INT8, oid_of_decltype
from db_instance.dialect.views import column_oids, tables_read, view_query


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
    names = _rows(
        connection,
        "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('table', 'view')"
        " AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY type, rowid",
    )
    views = {name: view_query(sql) for kind, name, sql in names if kind == "view"}
    viewed_by = _by_second((view, read) for view, query in views.items() for read in tables_read(query))
    referenced_by = _by_second(
        _rows(
            connection,
            'SELECT DISTINCT own.name, lower(other."table") FROM sqlite_schema AS own,'
            " pragma_foreign_key_list(own.name) AS other"
            " WHERE own.type = 'table' AND lower(own.name) <> lower(other.\"table\")",
        )
    )
    unique = _unique_indexes(connection)
    schema = Schema(version, {})
    for _, name, sql in names:
        try:
            found = _rows(
                connection, "SELECT name, type, dflt_value, pk, hidden FROM pragma_table_xinfo(?)", name
            )
        except apsw.SQLError:
            if name not in views:
                raise
            continue  # it reads what is no longer there
        rows = [row for row in found if not row[4]]
        key = tuple(row[0] for row in sorted(rows, key=lambda row: row[3]) if row[3])
        oids = column_oids(views[name], schema) if name in views else ()
        if len(oids) != len(rows):
            oids = tuple(_oid(sql, column, declared, key) for column, declared, *_ in rows)
        indexes = unique.get(name, [])
        schema.tables[name.lower()] = TableInfo(
            name,
            tuple(
                Column(column, oid, default=default or "")
                for (column, _, default, _, _), oid in zip(rows, oids, strict=True)
            ),
            key,
            tuple(referenced_by.get(name.lower(), ())),
            tuple(viewed_by.get(name.lower(), ())),
            counts="AUTOINCREMENT" in sql,
            generated=tuple(Column(row[0], oid_of_decltype(row[1])) for row in found if row[4]),
            unique=tuple(each.columns for each in indexes if each.of_all_rows),
            key_names={each.columns: each.name for each in indexes if each.was_named} | named_keys(sql),
        )
    return schema


def _rows(connection: apsw.Connection, sql: str, *params: Any) -> list[Any]:
    return connection.execute(sql, params).fetchall()


def _by_second(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for first, second in pairs:
        found.setdefault(second, []).append(first)
    return found


class _Unique(NamedTuple):
    """An index of a table's, or what stands for one of its constraints."""

    name: str
    columns: tuple[str, ...]
    was_named: bool
    of_all_rows: bool


def _unique_indexes(connection: apsw.Connection) -> dict[str, list[_Unique]]:
    """By table. Those of expressions are not among them."""
    parts = _rows(
        connection,
        "SELECT own.name, list.name, list.origin, list.partial, info.name FROM sqlite_schema AS own,"
        " pragma_index_list(own.name) AS list, pragma_index_info(list.name) AS info"
        " WHERE own.type = 'table' AND list.\"unique\" ORDER BY own.name, list.seq, info.seqno",
    )
    found: dict[str, list[_Unique]] = {}
    for (table, name, origin, partial), columns in groupby(parts, key=lambda row: row[:4]):
        index = _Unique(name, tuple(row[4] for row in columns), origin == "c", not partial)
        if None not in index.columns:
            found.setdefault(table, []).append(index)
    return found


def _oid(sql: str, column: str, declared: str, key: tuple[str, ...]) -> int:
    """An integer key is declared INTEGER, to be SQLite's row number, which is bigint; its check says if it is less."""
    if declared == "INTEGER" and key == (column,):
        check = re.search(rf'"(smallint|integer) out of range" CHECK \("?{re.escape(column)}"? BETWEEN', sql)
        return oid_of_decltype(check[1]) if check else INT8
    return oid_of_decltype(declared)
