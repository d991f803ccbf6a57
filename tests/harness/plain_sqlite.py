"""A database of SQLite's own in memory, with our functions: what the dialect writes, without a volume under it."""

import time
from functools import partial

import apsw

from db_instance.dialect.functions import FUNCTIONS, OF_TRANSACTIONS


class _Transaction:
    user = "somebody"

    def moment(self) -> float:
        return time.time()


def plain_sqlite() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    connection.pragma("case_sensitive_like", True)
    connection.pragma("foreign_keys", True)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    for name, arguments, function, deterministic in FUNCTIONS:
        connection.create_scalar_function(name, function, arguments, deterministic=deterministic)
    for name, told in OF_TRANSACTIONS:
        connection.create_scalar_function(name, partial(told, _Transaction()), 0)
    return connection
