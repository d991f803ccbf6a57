"""Two more workloads, whose histories are judged at the end: lists that are appended to, and registers.

The judges (tests/checkers) know nothing of the database: strict serializability of the lists' transactions,
linearizability of each register.
"""

import asyncio
import random
from itertools import count
from typing import Final

from db_instance.engine.engine import Engine
from db_instance.engine.lease import Lease
from db_instance.engine.lone_writes import RunAlone
from tests.checkers import list_append, register
from tests.checkers.history import Outcome
from tests.checkers.list_append import Append, Read, Transaction
from tests.checkers.register import Operation
from tests.simulation.bank import EXPECTED, leased

LISTS: Final = 3
REGISTERS: Final = 2

CREATE: Final = (
    "CREATE TABLE IF NOT EXISTS list (id INTEGER PRIMARY KEY AUTOINCREMENT, key INTEGER, value INTEGER)",
    "CREATE TABLE IF NOT EXISTS register (key INTEGER PRIMARY KEY, value INTEGER)",
)
_WRITE_LOCK_S: Final = 5.0


class Histories:
    def __init__(self, dice: random.Random) -> None:
        self.transactions: list[Transaction] = []
        self.operations: list[Operation] = []
        self.upgraded = 0
        """Transactions that wrote on the snapshot that they had read."""
        self.closed = False
        """Nobody begins anything more."""
        self._dice = dice
        self._ids = count(1)
        self._values = count(1)

    def judge(self) -> None:
        """Raises AssertionError for what no order of transactions explains."""
        problems = list_append.check(self.transactions)
        assert not problems, f"lists: {problems[0]}"
        problems = register.check(self.operations)
        assert not problems, f"registers: {problems[0]}"

    async def client(self, engine: Engine) -> None:
        while not self.closed:
            await asyncio.sleep(self._dice.expovariate(4.0))
            work = self._dice.choice([self._append, self._look, self._register])
            await work(engine)

    # Lists

    async def _append(self, engine: Engine) -> None:
        """Reads and appends under the write lock."""
        begin, outcome = _now(), Outcome.FAILED
        done: list[Append | Read] = []
        try:
            async with leased(engine) as lease:
                if self._dice.random() < 0.3:  # REPEATABLE READ
                    await engine.begin_snapshot(lease)
                    done.append(await _read_list(engine, lease, self._dice.randrange(LISTS)))
                    await engine.upgrade(lease, _WRITE_LOCK_S)
                    self.upgraded += 1
                else:
                    await engine.begin_write(lease, _WRITE_LOCK_S)
                for _ in range(self._dice.randint(1, 3)):
                    await self._operate(engine, lease, done)
                outcome = Outcome.UNKNOWN
                lsn = await engine.commit(lease)
            await engine.wait_durable(lsn)
            outcome = Outcome.OK
        except EXPECTED:
            pass
        finally:
            self._note(begin, outcome, done)

    async def _operate(self, engine: Engine, lease: Lease, done: list[Append | Read]) -> None:
        key = self._dice.randrange(LISTS)
        if self._dice.random() < 0.3:
            done.append(await _read_list(engine, lease, key))
            return
        append = Append(key, next(self._values))
        done.append(append)  # before it is asked for: it may take effect however this ends
        await engine.rows(lease, "INSERT INTO list (key, value) VALUES (?, ?)", (key, append.value))

    async def _look(self, engine: Engine) -> None:
        """Some lists, as of one read point."""
        begin, outcome = _now(), Outcome.FAILED
        done: list[Append | Read] = []
        try:
            async with leased(engine) as lease:
                await engine.begin_snapshot(lease)
                for key in range(LISTS):
                    done.append(await _read_list(engine, lease, key))
                await engine.rollback(lease)
            outcome = Outcome.OK
        except EXPECTED:
            pass
        finally:
            self._note(begin, outcome, done)

    def _note(self, begin: float, outcome: Outcome, done: list[Append | Read]) -> None:
        self.transactions.append(Transaction(next(self._ids), begin, _now(), outcome, tuple(done)))

    # Registers

    async def _register(self, engine: Engine) -> None:
        key, kind = self._dice.randrange(REGISTERS), self._dice.choice(["read", "write", "cas"])
        if kind == "read":
            await self._read_register(engine, key)
        else:
            await self._change_register(engine, key, kind)

    async def _read_register(self, engine: Engine, key: int) -> None:
        begin = _now()
        try:
            async with leased(engine) as lease:
                await engine.begin_snapshot(lease)
                value = await _value_of(engine, lease, key)
                await engine.rollback(lease)
        except EXPECTED:
            return
        self.operations.append(Operation(key, "read", begin, _now(), Outcome.OK, value))

    async def _change_register(self, engine: Engine, key: int, kind: str) -> None:
        begin, outcome = _now(), Outcome.FAILED
        value, expected = next(self._values), None
        change = "INSERT OR REPLACE INTO register VALUES (?, ?)"
        try:
            if kind == "write" and engine.lone_writes.gathering:
                outcome = Outcome.UNKNOWN
                _, lsn = await engine.lone_writes.add(change, (key, value), _WRITE_LOCK_S).done
                await engine.wait_durable(lsn)
                outcome = Outcome.OK
                return
            if kind == "write":
                outcome = Outcome.UNKNOWN
                async with leased(engine, await engine.lease_to_write(_WRITE_LOCK_S)) as lease:
                    _, lsn = await engine.run_and_commit(lease, change, (key, value))
                await engine.wait_durable(lsn)
                outcome = Outcome.OK
                return
            async with leased(engine) as lease:
                await engine.begin_write(lease, _WRITE_LOCK_S)
                expected = await _value_of(engine, lease, key)
                await engine.rows(lease, change, (key, value))
                outcome = Outcome.UNKNOWN
                lsn = await engine.commit(lease)
            await engine.wait_durable(lsn)
            outcome = Outcome.OK
        except RunAlone:
            outcome = Outcome.FAILED
        except EXPECTED:
            pass
        finally:
            self.operations.append(Operation(key, kind, begin, _now(), outcome, value, expected))


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _read_list(engine: Engine, lease: Lease, key: int) -> Read:
    rows = await engine.rows(lease, "SELECT value FROM list WHERE key = ? ORDER BY id", (key,))
    return Read(key, tuple(value for (value,) in rows))


async def _value_of(engine: Engine, lease: Lease, key: int) -> int | None:
    rows = await engine.rows(lease, "SELECT value FROM register WHERE key = ?", (key,))
    return rows[0][0] if rows else None
