"""What the clients do, and what they write down for the checkers.

bank        transfers, with the ledger of tests/cluster/ledger.py
lists       transactions at SERIALIZABLE that append to lists and read them
registers   single statements that read, write, and compare and set
churn       rows written over and over, so that storage nodes make layers; each row's text tells its version
ballast     written once, at the beginning: pages that must stay as they are, in more than one group

Lists and registers are given up after a while for new ones, so that their histories stay short enough to be judged.
"""

import hashlib
import time
from itertools import count
from typing import Any, Final

from tests.chaos.clients import Attempt, Client, Connection, Declined
from tests.chaos.history import History
from tests.checkers.history import Outcome
from tests.checkers.list_append import Append, Read, Transaction
from tests.checkers.register import Operation
from tests.cluster.ledger import ACCOUNTS, Ledger

CLIENTS_EACH: Final = 3
BALLAST_ROWS: Final = 6_000
_BALLAST_ROW_BYTES: Final = 1_024
_BALLAST_BATCH: Final = 500
CHURN_ROWS: Final = 2_000
_CHURN_BATCH: Final = 50
_CHURN_PAUSE_S: Final = 0.15
_KEYS: Final = 5
_KEYS_LIVE_S: Final = 5.0
_OPERATIONS_MAX: Final = 4
_ROLLED_BACK: Final = 0.1

_numbers = count(1)
"""Of list-append transactions, and of all values: none is written twice. `next` is one step for all threads."""


def set_up(connection: Connection) -> None:
    connection.execute("CREATE TABLE lists (id bigint PRIMARY KEY, elements text NOT NULL)")
    connection.execute("CREATE TABLE registers (id bigint PRIMARY KEY, value bigint NOT NULL)")
    connection.execute("CREATE TABLE ballast (id bigint PRIMARY KEY, content text NOT NULL)")
    connection.execute(
        "CREATE TABLE churn (id bigint PRIMARY KEY, version bigint NOT NULL, content text NOT NULL)"
    )
    with connection.cursor() as cursor:
        for first in range(0, BALLAST_ROWS, _BALLAST_BATCH):
            with connection.transaction():
                rows = range(first, first + _BALLAST_BATCH)
                cursor.executemany(
                    "INSERT INTO ballast VALUES (%s, %s)", [(row, ballast(row)) for row in rows]
                )


def ballast(row: int, version: int = 0) -> str:
    """Hard to compress, and known without being kept."""
    seed = hashlib.sha256(f"{row} {version}".encode()).digest()
    return hashlib.shake_128(seed).hexdigest(_BALLAST_ROW_BYTES // 2)


def some_key(client: Client) -> int:
    """One of those that are in use now."""
    return int(time.monotonic() / _KEYS_LIVE_S) * _KEYS + client.dice.randrange(_KEYS)


class BankClient(Client):
    workload = "bank"
    ledger: Ledger
    _number = 0

    def transact(self, connection: Connection, attempt: Attempt) -> None:
        self._number = self.ledger.begin()
        source, target = self.dice.sample(range(ACCOUNTS), 2)
        amount = self.dice.randint(1, 50)
        change = "UPDATE account SET balance = balance + %s WHERE id = %s"
        connection.execute("BEGIN")
        connection.execute(change, (-amount, source))
        connection.execute(change, (amount, target))
        row = (self._number, source, target, amount)
        connection.execute("INSERT INTO ledger VALUES (%s, %s, %s, %s)", row)
        if self.dice.random() < _ROLLED_BACK:
            connection.execute("ROLLBACK")
            raise Declined("rolled back, as was wanted")
        self.ledger.move(self._number, self.ledger.refused, self.ledger.in_doubt)
        attempt.committing = True
        connection.execute("COMMIT")

    def settle(self, attempt: Attempt) -> None:
        ledger = self.ledger
        if attempt.committing and attempt.outcome is not Outcome.UNKNOWN:
            verdict = ledger.acknowledged if attempt.outcome is Outcome.OK else ledger.refused
            ledger.move(self._number, ledger.in_doubt, verdict)


class ListClient(Client):
    workload = "lists"
    _operations: tuple[Append | Read, ...] = ()

    def transact(self, connection: Connection, attempt: Attempt) -> None:
        self._operations = ()
        connection.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        for _ in range(self.dice.randint(1, _OPERATIONS_MAX)):
            key = some_key(self)
            if self.dice.random() < 0.5:
                self._operations += (Append(key, next(_numbers)),)
                _append(connection, self._operations[-1])
            else:
                self._operations += (read_list(connection, key),)
        attempt.committing = True
        connection.execute("COMMIT")

    def settle(self, attempt: Attempt) -> None:
        operations = self._operations
        if attempt.outcome is not Outcome.OK:
            operations = tuple(each for each in operations if isinstance(each, Append))
        self.history.transactions.append(
            Transaction(next(_numbers), attempt.begin, attempt.end, attempt.outcome, operations)
        )


def _append(connection: Connection, append: Append | Read) -> None:
    assert isinstance(append, Append)
    connection.execute(
        "INSERT INTO lists VALUES (%s, %s)"
        " ON CONFLICT (id) DO UPDATE SET elements = lists.elements || ',' || excluded.elements",
        (append.key, str(append.value)),
    )


def read_list(connection: Connection, key: int) -> Read:
    row = connection.execute("SELECT elements FROM lists WHERE id = %s", (key,)).fetchone()
    return Read(key, tuple(int(each) for each in row[0].split(",")) if row is not None else ())


class RegisterClient(Client):
    workload = "registers"
    _operation: tuple[int, str, int | None, int | None] = (0, "read", None, None)
    _last: tuple[int, int | None] = (0, None)
    """The key that was read or written last, and what was there."""

    def transact(self, connection: Connection, attempt: Attempt) -> None:
        key, kind = some_key(self), self.dice.choices(("read", "write", "cas"), (4, 3, 3))[0]
        if kind == "cas" and self._last[1] is not None:
            self._compare_and_set(connection, attempt, *self._last)
        elif kind == "write":
            self._operation = (key, kind, next(_numbers), None)
            attempt.committing = True
            connection.execute(
                "INSERT INTO registers VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET value = excluded.value",
                self._operation[:3:2],
            )
        else:
            self._operation = (key, "read", read_register(connection, key), None)
        self._last = (self._operation[0], self._operation[2])

    def _compare_and_set(
        self, connection: Connection, attempt: Attempt, key: int, expected: int | None
    ) -> None:
        self._operation = (key, "cas", next(_numbers), expected)
        attempt.committing = True
        changed = connection.execute(
            "UPDATE registers SET value = %s WHERE id = %s AND value = %s",
            (self._operation[2], key, expected),
        )
        if changed.rowcount == 0:
            self._last = (0, None)
            raise Declined("another value was there")

    def settle(self, attempt: Attempt) -> None:
        key, kind, value, expected = self._operation
        is_stale = kind == "read" and attempt.outcome is not Outcome.OK
        if not is_stale:
            self.history.operations.append(
                Operation(key, kind, attempt.begin, attempt.end, attempt.outcome, value, expected)
            )
        self._operation = (0, "read", None, None)


class ChurnClient(Client):
    workload = "churn"

    def transact(self, connection: Connection, attempt: Attempt) -> None:
        time.sleep(_CHURN_PAUSE_S)
        attempt.begin = time.monotonic()
        rows, version = self.dice.sample(range(CHURN_ROWS), _CHURN_BATCH), next(_numbers)
        connection.execute("BEGIN")
        connection.execute(
            f"INSERT INTO churn VALUES {', '.join(['(%s, %s, %s)'] * _CHURN_BATCH)} ON CONFLICT (id)"
            " DO UPDATE SET version = excluded.version, content = excluded.content",
            [value for row in rows for value in (row, version, ballast(row, version))],
        )
        attempt.committing = True
        connection.execute("COMMIT")

    def settle(self, attempt: Attempt) -> None:
        return  # each row says itself what it must be


class RegisterReader(RegisterClient):
    """It never waits for a commit: a writer that was replaced and does not know would have it read what is old."""

    def transact(self, connection: Connection, attempt: Attempt) -> None:
        key = some_key(self)
        self._operation = (key, "read", read_register(connection, key), None)


def read_register(connection: Connection, key: int) -> int | None:
    row = connection.execute("SELECT value FROM registers WHERE id = %s", (key,)).fetchone()
    return row[0] if row is not None else None


def look_at_all(connection: Connection, history: History) -> None:
    """Read every list and register once more, when nothing else goes on: what is lost shows here at the latest."""
    lists = sorted({each.key for one in history.transactions for each in one.operations})
    for key in lists:
        begin = time.monotonic()
        read = read_list(connection, key)
        history.transactions.append(Transaction(next(_numbers), begin, time.monotonic(), Outcome.OK, (read,)))
    for key in sorted({operation.key for operation in history.operations}):
        begin = time.monotonic()
        value = read_register(connection, key)
        history.operations.append(Operation(key, "read", begin, time.monotonic(), Outcome.OK, value, None))


def counts(connection: Connection) -> dict[str, int]:
    tables = ("account", "ledger", "lists", "registers", "churn", "ballast")
    rows: dict[str, Any] = {}
    for table in tables:
        row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert row is not None
        rows[table] = row[0]
    return rows
