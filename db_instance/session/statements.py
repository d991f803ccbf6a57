"""What a session keeps by name: prepared statements, and portals (statements bound and being read)."""

from dataclasses import dataclass, field
from typing import Any, Final

from db_instance.dialect import Catalog, Statement
from db_instance.session.errors import SessionError
from db_instance.session.results import Columns, Decode, Writer, decoder, spread_formats
from db_instance.session.rows import Rows

PREPARED_MAX: Final = 10_000
PORTALS_MAX: Final = 1000


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
    _decoders: dict[tuple[int, ...], list[Decode]] = field(default_factory=dict)

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
        self._decoders.clear()

    def decode(self, params: list[bytes | None], formats: tuple[int, ...]) -> list[Any]:
        """The parameters as SQLite gets them. Raises SessionError, or the dialect's SqlError."""
        decoders = self._decoders.get(formats)
        if decoders is None:
            types = self.param_types()
            spread = spread_formats(formats, len(types))
            decoders = [decoder(oid, format) for oid, format in zip(types, spread, strict=True)]
            if len(self._decoders) < 8:
                self._decoders[formats] = decoders
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
    params: list[Any]
    formats: tuple[int, ...]
    running: Running | None = None
    told: Writer | None = None
    """What Describe said of the rows: Execute writes them so."""
    done: bool = False


def named(kind: str, name: str) -> str:
    return f'{kind} "{name}"' if name else f"unnamed {kind}"
