"""The workload and its ledger: what was asked, and what its client was told.

Transfers between accounts and inserts of padding, a row each in `ledger`. A transaction is refused
(rolled back, or never committed: it must not be there), acknowledged (it must be there, for ever), or in
doubt (there or not, but decided once and for all, and never by half).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import apsw

from db_instance.engine.engine import Engine, ReadOnlyVolume, SerializationFailure
from db_instance.engine.lease import Lease
from db_instance.engine.write_lock import LockTimeout
from volume.errors import LsnCollected, VolumeError
from volume.ids import Lsn

EXPECTED: Final = (apsw.Error, LockTimeout, ReadOnlyVolume, SerializationFailure, VolumeError, OSError)
"""What a client may meet while something is wrong."""

ACCOUNTS: Final = 12
BALANCE: Final = 100

_CREATE = (
    "CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS ledger (id INTEGER PRIMARY KEY, source INTEGER, target INTEGER,"
    " amount INTEGER, padding BLOB)",
    "CREATE INDEX IF NOT EXISTS ledger_by_source ON ledger (source, amount)",
    f"INSERT OR IGNORE INTO account SELECT value, {BALANCE} FROM"
    f" (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < {ACCOUNTS})"
    " SELECT value FROM n)",
)


_INSERT_MANY: Final = (
    "INSERT INTO ledger SELECT -value, 1, 1, 0, ? FROM"
    " (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 100) SELECT value FROM n)"
)

_UPDATE_ALL: Final = "UPDATE ledger SET padding = ?"


@dataclass(slots=True)
class Ledger:
    refused: set[int] = field(default_factory=set)
    in_doubt: set[int] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)
    decided: set[int] = field(default_factory=set)
    """In doubt, and since seen by a reader: it may not go again."""
    gone: set[int] = field(default_factory=set)
    """In doubt, and not there after a later writer took over: it may not come back."""
    asked: int = 0

    def owed(self) -> set[int]:
        """What a reader who begins now, at the newest writer, must see."""
        return self.acknowledged | self.decided

    def judge(self, seen: set[int], owed: set[int]) -> None:
        """Compare with the rows that a reader saw who was owed so much when it began."""
        lost = owed - seen
        assert not lost, f"acknowledged and not there: {sorted(lost)}"
        ghosts = seen & (self.refused | self.gone)
        assert not ghosts, f"refused and there: {sorted(ghosts)}"
        unknown = seen - self.acknowledged - self.in_doubt - self.decided
        assert not unknown, f"there and never asked for: {sorted(unknown)}"
        self.decided |= seen & self.in_doubt

    def settle(self, seen: set[int], before: set[int]) -> None:
        """A new writer has taken over: what was in doubt `before` and is not there never will be."""
        self.gone |= before - seen - self.acknowledged


class Bank:
    def __init__(self, dice: random.Random, ledger: Ledger, padding_max: int) -> None:
        self._dice = dice
        self._ledger = ledger
        self._padding_max = padding_max
        self._rate = dice.choice([3.0, 10.0])
        """Transactions a second that each client asks for."""
        self.large_next = False
        """The next transaction is to change a page of each row, as a bulk load does."""
        self.closed = False
        """Nobody begins anything more."""
        self.reads = 0
        self.cancelled = 0
        self.on_acknowledged: Callable[[Engine, Lsn], None] = lambda _engine, _lsn: None
        self.is_newest: Callable[[Engine], bool] = lambda _engine: True
        """False for a writer that another one may have replaced: it may read the past."""

    async def set_up(self, engine: Engine, *more: str) -> None:
        """Create the tables, and what else is to be there. Raises what `EXPECTED` names."""
        async with leased(engine) as lease:
            await engine.begin_write(lease, 30.0)
            for statement in (*_CREATE, *more):
                await engine.rows(lease, statement)
            lsn = await engine.commit(lease)
        await engine.wait_durable(lsn)

    async def client(self, engine: Engine) -> None:
        """One client: a transaction after the other, whatever comes."""
        while not self.closed:
            await asyncio.sleep(self._dice.expovariate(self._rate))
            try:
                await self._transaction(engine)
            except EXPECTED:
                continue

    async def _transaction(self, engine: Engine) -> None:
        ledger, dice = self._ledger, self._dice
        ledger.asked += 1
        number = ledger.asked
        ledger.refused.add(number)
        async with leased(engine) as lease:
            async with asyncio.timeout(dice.choice([0.001, 0.01, 0.1]) if dice.random() < 0.1 else None):
                await engine.begin_write(lease, 5.0)
                await self._write(engine, lease, number)
            large = dice.random() < 0.1
            if self.large_next:
                self.large_next = False
                await engine.rows(lease, _UPDATE_ALL, (dice.randbytes(dice.choice([400, 3_000])),))
            elif large:  # so that pages leave SQLite's cache before the commit, or before it is rolled back
                change = "UPDATE ledger SET padding = ? WHERE id % 3 = ?"
                await engine.rows(lease, change, (dice.randbytes(dice.choice([1, 400])), number % 3))
                if dice.random() < 0.5:
                    await self._take_back(engine, lease)
            if dice.random() < 0.1:
                await self._cancel(engine, lease)
            if dice.random() < (0.4 if large else 0.1):
                await engine.rollback(lease)
                return
            ledger.refused.discard(number)
            ledger.in_doubt.add(number)
            lsn = await engine.commit(lease)
        await engine.wait_durable(lsn)
        ledger.in_doubt.discard(number)
        ledger.acknowledged.add(number)
        self.on_acknowledged(engine, lsn)

    async def _write(self, engine: Engine, lease: Lease, number: int) -> None:
        dice = self._dice
        source, target = dice.sample(range(1, ACCOUNTS + 1), 2)
        amount = dice.randint(1, 20)
        padding = dice.randbytes(dice.randint(0, self._padding_max)) if dice.random() < 0.3 else b""
        change = "UPDATE account SET balance = balance + ? WHERE id = ?"
        await engine.rows(lease, change, (-amount, source))
        if dice.random() < 0.3:
            await asyncio.sleep(dice.uniform(0, 0.01))
        await engine.rows(lease, change, (amount, target))
        row = (number, source, target, amount, padding)
        await engine.rows(lease, "INSERT INTO ledger VALUES (?, ?, ?, ?, ?)", row)

    async def _take_back(self, engine: Engine, lease: Lease) -> None:
        """Rows that nobody ever sees, though pages of them have left SQLite's cache, and the volume has grown."""
        await engine.rows(lease, "SAVEPOINT before")
        await engine.rows(lease, _INSERT_MANY, (self._dice.randbytes(400),))
        await engine.rows(lease, "ROLLBACK TO before")

    async def _cancel(self, engine: Engine, lease: Lease) -> None:
        """A statement is cancelled somewhere in its middle, and the transaction goes on from before it, as that of a
        session does. If SQLite has undone all of it, that raises on."""
        await engine.rows(lease, "SAVEPOINT cancelled")
        try:
            async with asyncio.timeout(self._dice.choice([0.0, 0.0005, 0.005, 0.05])):
                change = self._dice.choice([_INSERT_MANY, _UPDATE_ALL])
                await engine.rows(lease, change, (self._dice.randbytes(400),))
        except TimeoutError:
            self.cancelled += 1
            if not lease.connection.in_transaction:
                raise
        await engine.rows(lease, "ROLLBACK TO cancelled")

    async def reader(self, engine: Engine) -> None:
        """Snapshots: whole transactions only, and the same at each look."""
        while not self.closed:
            await asyncio.sleep(self._dice.expovariate(4.0))
            try:
                await self._snapshot(engine)
                self.reads += 1
            except LsnCollected as error:
                if self.is_newest(engine):
                    raise AssertionError(f"a version was collected that is still read: {error}") from error
            except EXPECTED:
                continue

    async def _snapshot(self, engine: Engine) -> None:
        owed = self._ledger.owed()  # also at a writer that another one has replaced: its lease is over then
        async with leased(engine) as lease:
            await engine.begin_snapshot(lease)
            if self._dice.random() < 0.1:
                await asyncio.sleep(6.0)  # what nobody has read yet must still be there
            seen = await self.look(engine, lease)
            await asyncio.sleep(self._dice.uniform(0, 0.3))
            assert await self.look(engine, lease) == seen, "a snapshot changed"
            await engine.rollback(lease)
        self._ledger.judge(seen, owed)

    async def look(self, engine: Engine, lease: Lease) -> set[int]:
        """The transactions that are there, each of which must be whole."""
        balances = dict(await engine.rows(lease, "SELECT id, balance FROM account"))
        rows = await engine.rows(lease, "SELECT id, source, target, amount FROM ledger")
        if not balances:
            assert not rows
            return set()
        expected = dict.fromkeys(range(1, ACCOUNTS + 1), BALANCE)
        for _, source, target, amount in rows:
            expected[source] -= amount
            expected[target] += amount
        assert balances == expected, f"half a transaction: {balances} instead of {expected}"
        return {row[0] for row in rows}


@asynccontextmanager
async def leased(engine: Engine, own: Lease | None = None) -> AsyncIterator[Lease]:
    """A connection, or the one that we have; it is given back. After an error its transaction is undone first, as a
    session does it, and if its process is killed it is closed in whatever state it is."""
    lease = own if own is not None else await engine.lease()
    try:
        yield lease
    except EXPECTED:
        await engine.undo(lease)
        raise
    except BaseException:
        engine.discard(lease)
        raise
    engine.give_back(lease)
