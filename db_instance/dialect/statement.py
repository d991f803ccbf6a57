"""What the dialect says of a statement, what it needs to know of the schema, and how it refuses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from db_instance.dialect.types import INTEGERS


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    oid: int = 0
    typmod: int = -1
    default: str = ""
    """SQLite's source of the expression; empty without one."""


@dataclass(frozen=True, slots=True)
class Statement:
    kind: str
    """select insert update delete ddl begin commit rollback savepoint release rollback_to set show reset
    copy_from copy_to discard deallocate prepare execute explain noop empty"""
    sql: str = ""
    """For SQLite, with ?1..?n."""
    tag: str = ""
    """The command tag; the session appends counts."""
    returns_rows: bool = False
    reads_only: bool = True
    param_types: tuple[int, ...] = ()
    """OIDs as far as known, 0 otherwise."""
    columns: tuple[Column, ...] | None = None
    """None, or OID 0: to be decided from declared types and values."""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TableInfo:
    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    referenced_by: tuple[str, ...] = ()
    """The other tables with foreign keys to this one."""
    viewed_by: tuple[str, ...] = ()
    """The views that read it."""
    counts: bool = False
    """Its key counts on by itself: serial, or identity."""

    generated: tuple[Column, ...] = ()
    """Columns that are computed, which are not among the others: nothing is given to them."""
    unique: tuple[tuple[str, ...], ...] = ()
    """The columns of each unique constraint and index of all rows; the primary key may be missing among them."""
    key_names: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    """What unique constraints and indexes of these columns were called, where somebody named them."""

    @property
    def integer_key(self) -> str | None:
        """The column that SQLite gives the next number where it should be NULL, whether or not it counts."""
        oids = [each.oid for each in self.columns if self.primary_key == (each.name,)]
        return self.primary_key[0] if oids and oids[0] in INTEGERS else None

    def key_called(self, name: str) -> tuple[str, ...] | None:
        """The columns of a constraint that is unique, by its name, or by the one PostgreSQL would have given it."""
        named = next((columns for columns, given in self.key_names.items() if given == name), None)
        if named is not None:
            return named
        if self.primary_key and name == f"{self.name}_pkey":
            return self.primary_key
        unnamed = [on for on in self.unique if on not in self.key_names]
        return next((on for on in unnamed if name == "_".join((self.name, *on, "key"))), None)


class Catalog(Protocol):
    version: int
    """Another one after each change of the schema."""

    def table(self, name: str) -> TableInfo | None: ...


class SqlError(Exception):
    """The statement is refused, with what the client is told."""

    about: Mapping[str, str] = {}
    """PostgreSQL's letters: t table, c column, n constraint."""

    def __init__(
        self, sqlstate: str, message: str, position: int | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.position = position
        self.hint = hint


def null_in_key(table: str, column: str) -> SqlError:
    told = f'null value in column "{column}" of relation "{table}" violates not-null constraint'
    error = SqlError("23502", told)
    error.about = {"t": table, "c": column}
    return error
