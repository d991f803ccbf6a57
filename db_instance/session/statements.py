"""What a session keeps by name: prepared statements, and portals (statements bound and being read)."""

from dataclasses import dataclass, field
from typing import Any, Final

from db_instance.dialect import Catalog, Statement
from db_instance.session.errors import SessionError
from db_instance.session.results import (
    Columns,
    Decode,
    Writer,
    decoder,
    is_complete,
    spread_formats,
    static_columns,
    writer,
)
from db_instance.session.rows import Rows

PREPARED_MAX: Final = 10_000
PORTALS_MAX: Final = 1000
_FORMATS_MAX: Final = 8
"""Combinations of formats that are remembered for a statement: a client uses one or two."""


@dataclass(slots=True)
class Prepared:
    name: str
    sql: str
    declared_types: tuple[int, ...]
    """As the client gave them; 0: we are to find out."""
    statement: Statement
    catalog: Catalog
    """The schema that the statement was translated for."""
    promised: Columns | None = None
    """What the client was told of the result; it must not change from then on."""
    static: Columns | None = field(init=False)
    """The result's columns, if the translation knows all of them."""
    repeated: tuple[Any, list[Decode], Any] | None = None
    """What session/at_once.py has learnt of it."""
    _decoders: dict[tuple[int, ...], list[Decode]] = field(default_factory=dict)
    _writers: dict[tuple[int, ...], Writer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._look_at_statement()

    def _look_at_statement(self) -> None:
        columns = static_columns(self.statement) if self.statement.returns_rows else None
        self.static = columns if columns is not None and is_complete(columns) else None

    @property
    def columns(self) -> Columns | None:
        """What the client was told, or would be told; None if only running the statement can tell."""
        return self.promised if self.promised is not None else self.static

    def promise(self, columns: Columns) -> None:
        self.promised = columns
        self.repeated = None
        self._writers.clear()

    def writer(self, formats: tuple[int, ...]) -> Writer | None:
        """How the rows are written; None if the columns are not known."""
        found = self._writers.get(formats)
        if found is None and self.columns is not None:
            found = writer(self.columns, formats)
            if len(self._writers) < _FORMATS_MAX:
                self._writers[formats] = found
        return found

    def param_types(self) -> tuple[int, ...]:
        """The client's word first, then the translation's; 0 where neither knows."""
        found = list(self.statement.param_types)
        for index, oid in enumerate(self.declared_types):
            if index >= len(found):
                found.append(oid)
            elif oid:
                found[index] = oid
        return tuple(found)

    def retranslated(self, statement: Statement, catalog: Catalog) -> None:
        self.statement = statement
        self.catalog = catalog
        self.repeated = None
        self._decoders.clear()
        self._writers.clear()
        self._look_at_statement()

    def decoders(self, formats: tuple[int, ...]) -> list[Decode]:
        """A function for each parameter, by the formats that the client sends them in."""
        decoders = self._decoders.get(formats)
        if decoders is None:
            types = self.param_types()
            spread = spread_formats(formats, len(types))
            decoders = [decoder(oid, format) for oid, format in zip(types, spread, strict=True)]
            if len(self._decoders) < _FORMATS_MAX:
                self._decoders[formats] = decoders
        return decoders

    def decode(self, params: list[bytes | None], formats: tuple[int, ...]) -> list[Any]:
        """The parameters as SQLite gets them. Raises SessionError, or the dialect's SqlError."""
        decoders = self.decoders(formats)
        if len(params) != len(decoders):
            raise SessionError(
                "08P01",
                f"bind message supplies {len(params)} parameters, but prepared statement"
                f' "{self.name}" requires {len(decoders)}',
            )
        return [None if data is None else decode(data) for data, decode in zip(params, decoders, strict=True)]


@dataclass(slots=True)
class Running:
    """A statement that was started: what it returns, and what it is called when it is done."""

    tag: str
    rows: Rows | None = None
    columns: Columns = ()
    counts: bool = False
    """The number of rows belongs to the tag."""
    returned: int = 0
    """Rows given to the client."""

    def complete_tag(self) -> str:
        if not self.counts:
            return self.tag
        rows = self.rows
        # A statement with RETURNING tells how many rows it returned, which are those it changed.
        affected = rows.rows_affected if rows is not None and not self.columns else self.returned
        return f"{self.tag} {affected}"


@dataclass(slots=True)
class Portal:
    name: str
    prepared: Prepared
    bound: list[bytes | None]
    """The parameters as they came, in these formats."""
    bound_formats: tuple[int, ...]
    bound_types: tuple[int, ...]
    """The types that they were decoded for."""
    params: list[Any]
    """The same, decoded."""
    formats: tuple[int, ...]
    running: Running | None = None
    depth: int = 0
    """How many savepoints there were when it was bound."""
    told: Writer | None = None
    """What Describe said of the rows: Execute writes them so."""
    done: bool = False


def named(kind: str, name: str) -> str:
    return f'{kind} "{name}"' if name else f"unnamed {kind}"
