"""Clients that remember what they were told, and the comparison of it with what is there.

Transfers between accounts, a row each in `ledger`. A transaction is refused (it must not be there),
acknowledged (it must be there, for ever), or in doubt: there or not, but whole, and decided once somebody
has looked.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import psycopg

Connect = Callable[[], psycopg.Connection[Any]]

ACCOUNTS: Final = 20
BALANCE: Final = 1_000
_ROLLED_BACK: Final = 0.1
_READ_ONLY_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Verdict:
    rows: int
    lost: list[int]
    """Acknowledged, or seen before, and not there."""
    ghosts: list[int]
    """Refused, never asked for, or missing at an earlier look, and there."""
    half: list[str]
    """Balances that the rows do not explain."""

    def __bool__(self) -> bool:
        """Is all as it was promised?"""
        return not (self.lost or self.ghosts or self.half)


class Ledger:
    def __init__(self, connect: Connect) -> None:
        self.connect = connect
        self.acknowledged: set[int] = set()
        self.refused: set[int] = set()
        self.in_doubt: set[int] = set()
        self.doubts = 0
        """How many were ever in doubt."""
        self._numbers = count(1)
        self._lock = threading.Lock()

    def set_up(self) -> None:
        with self.connect() as connection:
            connection.execute("CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL)")
            connection.execute(
                "CREATE TABLE ledger (id bigint PRIMARY KEY, source bigint, target bigint, amount bigint)"
            )
            for number in range(ACCOUNTS):
                connection.execute("INSERT INTO account VALUES (%s, %s)", (number, BALANCE))

    def begin(self) -> int:
        """A transaction's number. Until its COMMIT is sent it is refused."""
        with self._lock:
            number = next(self._numbers)
            self.refused.add(number)
            return number

    def move(self, number: int, source: set[int], target: set[int]) -> None:
        with self._lock:
            source.discard(number)
            target.add(number)

    def judge(self) -> Verdict:
        """Compare what is there with what was told. No client may run meanwhile."""
        with self.connect() as connection, connection.transaction():
            balances = dict(connection.execute("SELECT id, balance FROM account").fetchall())
            rows = connection.execute("SELECT id, source, target, amount FROM ledger").fetchall()
        expected = dict.fromkeys(range(ACCOUNTS), BALANCE)
        for _, source, target, amount in rows:
            expected[source] -= amount
            expected[target] += amount
        half = [
            f"account {each}: {balances.get(each)} instead of {balance}"
            for each, balance in expected.items()
            if balances.get(each) != balance
        ]
        if sum(balances.values()) != ACCOUNTS * BALANCE:
            half.append(f"the sum of all balances is {sum(balances.values())}")
        seen = {row[0] for row in rows}
        lost = sorted(self.acknowledged - seen)
        ghosts = sorted(seen - self.acknowledged - self.in_doubt)
        self.doubts += len(self.in_doubt)
        # From now on it is known what became of those in doubt, and it may not change.
        self.acknowledged |= seen & self.in_doubt
        self.refused |= self.in_doubt - seen
        self.in_doubt.clear()
        return Verdict(len(rows), lost, ghosts, half)


class Client(threading.Thread):
    """One connection's transfers, until its connection breaks or `stop` is called."""

    def __init__(self, ledger: Ledger, dice: random.Random) -> None:
        super().__init__(daemon=True)
        self._ledger = ledger
        self._dice = dice
        self._stopping = threading.Event()
        self._unexpected: Exception | None = None
        self.start()

    def check(self) -> None:
        """Raises what ended it, unless that was the end of the server."""
        if self._unexpected is not None:
            raise self._unexpected

    def stop(self) -> None:
        self._stopping.set()
        self.join(30)
        assert not self.is_alive(), "a client waits for an answer that does not come"
        self.check()

    def run(self) -> None:
        try:
            with self._ledger.connect() as connection:
                connection.autocommit = False
                while not self._stopping.is_set():
                    try:
                        self._transfer(connection)
                    except psycopg.errors.ReadOnlySqlTransaction:
                        # Three nodes of six were there when the volume was opened; the others come.
                        connection.rollback()
                        time.sleep(_READ_ONLY_PAUSE_S)
        except psycopg.OperationalError:
            return  # the server is gone
        except Exception as error:
            self._unexpected = error

    def _transfer(self, connection: psycopg.Connection[Any]) -> None:
        ledger, dice = self._ledger, self._dice
        number = ledger.begin()
        source, target = dice.sample(range(ACCOUNTS), 2)
        amount = dice.randint(1, 50)
        change = "UPDATE account SET balance = balance + %s WHERE id = %s"
        connection.execute(change, (-amount, source))
        connection.execute(change, (amount, target))
        connection.execute("INSERT INTO ledger VALUES (%s, %s, %s, %s)", (number, source, target, amount))
        if dice.random() < _ROLLED_BACK:
            connection.rollback()
            return
        ledger.move(number, ledger.refused, ledger.in_doubt)
        connection.commit()
        ledger.move(number, ledger.in_doubt, ledger.acknowledged)


def run_clients(ledger: Ledger, dice: random.Random, clients: int) -> list[Client]:
    return [Client(ledger, random.Random(dice.random())) for _ in range(clients)]
