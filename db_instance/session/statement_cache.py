"""Translated statements, shared by all sessions of an instance: most texts come again and again."""

from collections import OrderedDict
from typing import Any, Final

from db_instance.dialect import Catalog, SqlError, Statement, translate
from db_instance.dialect.literals import take_literals
from db_instance.session.results import decoder

_STATEMENTS_MAX: Final = 4000
_TEXT_CHARACTERS_MAX: Final = 10_000
"""Longer texts are rarely repeated, and would fill the memory."""


class StatementCache:
    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[Catalog, Statement]] = OrderedDict()

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
        return statement, [
            int(value) if is_number else decoder(oid, 0)(value.encode())
            for value, is_number, oid in zip(
                shape.values, shape.is_number, statement.param_types, strict=True
            )
        ]

    def translate(self, sql: str, catalog: Catalog) -> Statement:
        """The statement, for this schema. Raises the dialect's SqlError."""
        known = self._known.get(sql)
        if known is not None and known[0] is catalog:
            self._known.move_to_end(sql)
            return known[1]
        statement = translate(sql, catalog)
        if len(sql) <= _TEXT_CHARACTERS_MAX:
            self._known[sql] = (catalog, statement)
            self._known.move_to_end(sql)
            if len(self._known) > _STATEMENTS_MAX:
                self._known.popitem(last=False)
        return statement
