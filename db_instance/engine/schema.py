"""The schema, as the dialect needs to know it: each table's columns with their declared types."""

import re
from dataclasses import dataclass, field
from typing import Any, Final

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
    tables: dict[str, TableInfo] = {}
    query = (
        "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('table', 'view')"
        " AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY type, rowid"
    )
    names: Any = connection.execute(query).fetchall()
    references = (
        'SELECT DISTINCT own.name, lower(other."table") FROM sqlite_schema AS own,'
        " pragma_foreign_key_list(own.name) AS other WHERE own.type = 'table'"
    )
    referenced: dict[str, list[str]] = {}
    pairs: Any = connection.execute(references).fetchall()
    for name, parent in pairs:
        if parent != name.lower():
            referenced.setdefault(parent, []).append(name)
    indexes: dict[str, dict[str, list[str]]] = {}
    unique = (
        "SELECT own.name, list.name, info.name FROM sqlite_schema AS own, pragma_index_list(own.name) AS list,"
        " pragma_index_info(list.name) AS info WHERE own.type = 'table' AND list.origin = 'c' AND list.\"unique\""
        " ORDER BY list.seq, info.seqno"
    )
    parts: Any = connection.execute(unique).fetchall()
    for name, index, column in parts:
        indexes.setdefault(name, {}).setdefault(index, []).append(column)
    schema = Schema(version, tables)
    views = {name: view_query(sql) for kind, name, sql in names if kind == "view"}
    viewed: dict[str, list[str]] = {}
    for name, view in views.items():
        for read in tables_read(view):
            viewed.setdefault(read, []).append(name)
    for _, name, sql in names:
        try:
            found: Any = connection.execute(
                "SELECT name, type, dflt_value, pk, hidden FROM pragma_table_xinfo(?)", (name,)
            ).fetchall()
        except apsw.SQLError:  # a view of what is no longer there
            continue
        rows = [row for row in found if not row[4]]
        key = tuple(row[0] for row in sorted(rows, key=lambda row: row[3]) if row[3])
        oids = column_oids(views[name], schema) if name in views else ()
        if len(oids) != len(rows):
            oids = tuple(_oid(sql, column, declared, key) for column, declared, *_ in rows)
        columns = tuple(
            Column(column, oid, default=default or "")
            for (column, _, default, _, _), oid in zip(rows, oids, strict=True)
        )
        generated = tuple(Column(row[0], oid_of_decltype(row[1])) for row in found if row[4])
        tables[name.lower()] = TableInfo(
            name,
            columns,
            key,
            tuple(referenced.get(name.lower(), ())),
            tuple(viewed.get(name.lower(), ())),
            counts="AUTOINCREMENT" in sql,
            generated=generated,
            key_names={tuple(on): index for index, on in indexes.get(name, {}).items()} | named_keys(sql),
        )
    return schema


def _oid(sql: str, column: str, declared: str, key: tuple[str, ...]) -> int:
    """An integer key is declared INTEGER, to be SQLite's row number, which is bigint; its check says if it is less."""
    if declared == "INTEGER" and key == (column,):
        check = re.search(rf'"(smallint|integer) out of range" CHECK \("?{re.escape(column)}"? BETWEEN', sql)
        return oid_of_decltype(check[1]) if check else INT8
    return oid_of_decltype(declared)
