"""Translated statements, shared by all sessions of an instance: most texts come again and again."""

from collections import OrderedDict
from typing import Final

from db_instance.dialect import Catalog, Statement, translate

_STATEMENTS_MAX: Final = 4000
_TEXT_CHARACTERS_MAX: Final = 10_000
"""Longer texts are rarely repeated, and would fill the memory."""


class StatementCache:
    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[Catalog, Statement]] = OrderedDict()

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
