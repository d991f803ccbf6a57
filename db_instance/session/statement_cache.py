"""Translated statements, shared by all sessions of an instance: most texts come again and again."""

from collections import OrderedDict
from typing import Any, Final, NamedTuple

from db_instance.dialect import Catalog, SqlError, Statement, translate, types
from db_instance.dialect.lexer import string_value
from db_instance.dialect.literals import (
    DIGITS_MAX,
    LITERALS_TEXT_MAX,
    plain_literals,
    plain_shape,
    take_literals,
)
from db_instance.session.results import Decode, decoder

_STATEMENTS_MAX: Final = 4000
_TEXT_CHARACTERS_MAX: Final = 10_000
"""Longer texts are rarely repeated, and would fill the memory."""


class _Repeated(NamedTuple):
    catalog: Catalog
    decoders: list[Decode | None]
    """For each literal; None for a number."""
    known: Any


class StatementCache:
    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, tuple[int, ...]], tuple[Catalog, Statement]] = OrderedDict()
        self._repeated: OrderedDict[str, _Repeated] = OrderedDict()

    def repeated(self, sql: str, catalog: Catalog | None) -> tuple[Any, list[Any]] | None:
        """What was learnt of a text that differs only in its literals, and the values of these.

        Raises SqlError, ValueError for literals that are no values of the parameters' types.
        """
        shape = plain_shape(sql)
        known = self._repeated.get(shape) if shape is not None else None
        if known is None or known.catalog is not catalog:
            return None
        values = []
        for literal, decode in zip(plain_literals(sql), known.decoders, strict=True):
            if literal[0] == "'":
                if decode is None:
                    return None
                values.append(decode(string_value(literal).encode()))
            elif decode is not None or len(literal) > DIGITS_MAX:
                return None
            else:
                values.append(int(literal))
        return known.known, values

    def learn(self, sql: str, statement: Statement, catalog: Catalog, known: Any) -> None:
        """Remember `known` for all texts that differ from this one, which is the statement, in literals only."""
        shape = plain_shape(sql)
        if shape is None or len(sql) > LITERALS_TEXT_MAX:
            return
        literals = plain_literals(sql)
        if len(literals) != len(statement.param_types):
            return  # some decide what the statement means
        decoders = [
            decoder(oid, 0) if literal[0] == "'" else None
            for literal, oid in zip(literals, statement.param_types, strict=True)
        ]
        self._repeated[shape] = _Repeated(catalog, decoders, known)
        if len(self._repeated) > _STATEMENTS_MAX:
            self._repeated.popitem(last=False)

    def translate_text(self, sql: str, catalog: Catalog) -> tuple[Statement, list[Any]]:
        """The statement of a text whose values are in it, and those values. Raises SqlError, InvalidValue."""
        shape = take_literals(sql)
        if shape is None:
            return self.translate(sql, catalog), []
        try:
            statement = self.translate(shape.sql, catalog)
        except SqlError:
            # The client knows nothing of our $1: what is wrong is told of its own text.
            return self.translate(sql, catalog), []
        if any(
            is_number and oid in types.NOT_NUMBERS
            for is_number, oid in zip(shape.is_number, statement.param_types, strict=True)
        ):
            return self.translate(sql, catalog), []  # it is refused where it stands
        return statement, [
            int(value) if is_number else decoder(oid, 0)(value.encode())
            for value, is_number, oid in zip(
                shape.values, shape.is_number, statement.param_types, strict=True
            )
        ]

    def translate(self, sql: str, catalog: Catalog, declared: tuple[int, ...] = ()) -> Statement:
        """The statement, for this schema and its parameters' types. Raises the dialect's SqlError."""
        key = sql, declared
        known = self._known.get(key)
        if known is not None and known[0] is catalog:
            self._known.move_to_end(key)
            return known[1]
        statement = translate(sql, catalog, declared)
        if len(sql) <= _TEXT_CHARACTERS_MAX:
            self._known[key] = (catalog, statement)
            self._known.move_to_end(key)
            if len(self._known) > _STATEMENTS_MAX:
                self._known.popitem(last=False)
        return statement
