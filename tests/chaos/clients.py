"""Clients that never give up: their connections break, their statements take too long, and they come again."""

import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from tests.chaos.cluster import STATEMENT_S_MAX, Cluster
from tests.chaos.history import History, Sample, Span, outcome_of
from tests.checkers.history import Outcome

Connection = psycopg.Connection[Any]

_THINK_S: Final = (0.0, 0.02)
_RETRY_S: Final = (0.05, 0.3)
_GRACE_S: Final = 3.0
_OTHER_WRITER: Final = 0.3
_FAILURES_MAX: Final = 3


class Declined(Exception):
    """The client itself, or the data, did not want it: not done, and nobody's failure."""


class Guard(threading.Thread):
    """Hangs up connections whose transaction takes too long: the machine may be silent for ever."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._deadlines: dict[Connection, float] = {}
        self._lock = threading.Lock()
        self.start()

    @contextmanager
    def limit(self, connection: Connection, seconds: float) -> Iterator[None]:
        with self._lock:
            self._deadlines[connection] = time.monotonic() + seconds
        try:
            yield
        finally:
            with self._lock:
                self._deadlines.pop(connection, None)

    def run(self) -> None:
        while True:
            time.sleep(0.2)
            with self._lock:
                late = [each for each, deadline in self._deadlines.items() if deadline < time.monotonic()]
                for each in late:
                    del self._deadlines[each]
                    _hang_up(each)


def _hang_up(connection: Connection) -> None:
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
    except (OSError, psycopg.Error):
        return  # it is gone already


class Gate:
    """Closed, it keeps clients from beginning anything new."""

    def __init__(self) -> None:
        self._is_open = threading.Event()
        self._is_open.set()
        self.rests: list[Span] = []
        """When it was closed."""

    @contextmanager
    def closed(self) -> Iterator[None]:
        begin = time.monotonic()
        self._is_open.clear()
        try:
            yield
        finally:
            self._is_open.set()
            self.rests.append((begin, time.monotonic()))

    def pass_through(self) -> None:
        self._is_open.wait()


class Attempt:
    """A transaction on its way: until `committing` is set, an error means that it is not done."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.end = 0.0
        self.committing = False
        self.outcome = Outcome.UNKNOWN


class Client(threading.Thread):
    """One connection, and another one whenever it breaks. What it does is the subclass's `transact`."""

    workload = ""

    def __init__(
        self, cluster: Cluster, history: History, gate: Gate, guard: Guard, dice: random.Random
    ) -> None:
        super().__init__(daemon=True)
        self.cluster = cluster
        self.history = history
        self.dice = dice
        self.unexpected: Exception | None = None
        self._gate = gate
        self._guard = guard
        self._stopping = threading.Event()

    def transact(self, connection: Connection, attempt: Attempt) -> None:
        """One transaction. Sets `attempt.committing` before what may make it durable."""
        raise NotImplementedError

    def settle(self, attempt: Attempt) -> None:
        """It is known what became of the last one, or that it never will be."""
        raise NotImplementedError

    def end(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._use_a_connection()
        except Exception as error:
            self.unexpected = error

    def _use_a_connection(self) -> None:
        try:
            connection = self.cluster.connect(self._some_writer())
        except psycopg.Error:
            self._stopping.wait(self.dice.uniform(*_RETRY_S))
            return
        failures = 0
        try:
            while not self._stopping.is_set() and not connection.closed and failures < _FAILURES_MAX:
                self._gate.pass_through()
                failures = 0 if self._try(connection) else failures + 1
                self._stopping.wait(self.dice.uniform(*(_RETRY_S if failures else _THINK_S)))
        finally:
            connection.close()

    def _some_writer(self) -> str:
        """Mostly the one at home; now and then another one that still believes to be."""
        others = [name for name in self.cluster.writers_that_run() if name != self.cluster.home]
        return others[0] if others and self.dice.random() < _OTHER_WRITER else self.cluster.home

    def _try(self, connection: Connection) -> bool:
        attempt, told = Attempt(), ""
        try:
            with self._guard.limit(connection, STATEMENT_S_MAX + _GRACE_S):
                self.transact(connection, attempt)
            attempt.outcome = Outcome.OK
        except Declined:
            attempt.outcome = Outcome.FAILED
        except psycopg.Error as error:
            attempt.outcome = outcome_of(error, committing=attempt.committing)
            told = f"{error.sqlstate or 'no answer'}: {' '.join(str(error).split())}"
        attempt.end = time.monotonic()
        self.settle(attempt)
        self.history.samples.append(Sample(self.workload, attempt.begin, attempt.end, attempt.outcome, told))
        if told and not connection.closed:
            _roll_back(connection)
        return not told


def _roll_back(connection: Connection) -> None:
    try:
        connection.rollback()
    except psycopg.Error:
        connection.close()
