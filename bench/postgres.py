"""PostgreSQL as a peer of ours: a primary whose commits wait for four of six streaming standbys.

PostgreSQL does not run as root, so root starts it as the user `postgres`; its folder must be one that
this user can reach. We are the parent of the seven servers and end them by what they are to us: pids.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final

import psycopg

from bench.commands import popen, run, telling_line, uninterrupted
from bench.errors import BenchFailed
from bench.side import HOST, Endpoint, Shipped

BIN_DIR: Final = Path("/usr/lib/postgresql/15/bin")
STANDBYS: Final = 6
WRITE_QUORUM: Final = 4
USER: Final = "postgres"

READY_S_MAX: Final = 60.0
STOP_S_MAX: Final = 30.0
LOOK_EVERY_S: Final = 0.1

NAMES: Final = tuple(f"s{number}" for number in range(1, STANDBYS + 1))
CONFIGURATION: Final = """
listen_addresses = '{host}'
unix_socket_directories = ''
port = {port}
max_connections = 300
shared_buffers = {shared_buffers_mib}MB
wal_level = replica
fsync = on
synchronous_commit = on
synchronous_standby_names = 'ANY {quorum} ({names})'
"""
STANDBY_CONFIGURATION: Final = """
port = {port}
primary_conninfo = 'host={host} port={primary_port} user={user} application_name={name}'
"""


class PostgresSide:
    name = "PostgreSQL"

    def __init__(self, endpoint: Endpoint, servers: list["subprocess.Popen[str]"]) -> None:
        self.endpoint = endpoint
        self._servers = servers

    def pids(self) -> list[int]:
        return [server.pid for server in self._servers]

    def shipped(self) -> Shipped | None:
        return None


def check_installed(bin_dir: Path) -> None:
    """Raise BenchFailed unless PostgreSQL's programs are there and somebody may run them."""
    for program in ("postgres", "initdb", "pg_basebackup", "pgbench"):
        if not (bin_dir / program).is_file():
            raise BenchFailed(f"{bin_dir / program} is not there: `make bench-peer` installs PostgreSQL 15")


@contextmanager
def postgres_side(bin_dir: Path, folder: Path, port: int, shared_buffers_mib: int) -> Iterator[PostgresSide]:
    """A primary and its standbys, new in `folder`, on `port` and the six after it."""
    starting = _Starting(bin_dir, folder, port)
    with ExitStack() as stack:
        primary = starting.make_primary(shared_buffers_mib)
        servers = [stack.enter_context(starting.server(primary, port))]
        for number, name in enumerate(NAMES, start=1):
            standby = starting.make_standby(name, port + number)
            servers.append(stack.enter_context(starting.server(standby, port + number)))
        side = PostgresSide(starting.endpoint, servers)
        _wait_for_standbys(side.endpoint)
        yield side


class _Starting:
    """The steps, with what they share."""

    def __init__(self, bin_dir: Path, folder: Path, port: int) -> None:
        self._bin_dir = bin_dir
        self._folder = folder
        self._user = USER if os.geteuid() == 0 else None
        self.endpoint = Endpoint(port, USER, "postgres")
        folder.mkdir(parents=True)
        if self._user is not None:
            try:
                shutil.chown(folder, self._user, self._user)
            except LookupError as error:
                raise BenchFailed(f"PostgreSQL does not run as root, and there is no user {USER}") from error

    def make_primary(self, shared_buffers_mib: int) -> Path:
        data = self._folder / "primary"
        self._run("initdb", "-D", data, "-U", USER, "--auth=trust", "--encoding=UTF8", "--no-locale", "-N")
        configuration = CONFIGURATION.format(
            host=HOST,
            port=self.endpoint.port,
            shared_buffers_mib=shared_buffers_mib,
            quorum=WRITE_QUORUM,
            names=", ".join(NAMES),
        )
        _append(data / "postgresql.conf", configuration)
        return data

    def make_standby(self, name: str, port: int) -> Path:
        data = self._folder / name
        self._run("pg_basebackup", "-D", data, "-c", "fast", "-N", *self.endpoint.options)
        configuration = STANDBY_CONFIGURATION.format(
            port=port, host=HOST, primary_port=self.endpoint.port, user=USER, name=name
        )
        _append(data / "postgresql.conf", configuration)
        (data / "standby.signal").touch()
        return data

    def _run(self, program: str, *words: str | Path) -> None:
        run([self._bin_dir / program, *words], cwd=self._folder, user=self._user)

    @contextmanager
    def server(self, data: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
        """One server, up and answering; stopped when the block is left."""
        log_file = self._folder / f"{data.name}.log"
        with log_file.open("w") as log:
            process = self._start(data, log)
        try:
            _wait_until_it_answers(process, Endpoint(port, USER, "postgres"), log_file)
            yield process
        finally:
            with uninterrupted():
                _stop(process)

    def _start(self, data: Path, log: IO[str]) -> "subprocess.Popen[str]":
        words: list[str | Path] = [self._bin_dir / "postgres", "-D", data]
        return popen(words, stdout=log, stderr=log, cwd=self._folder, user=self._user)


def _append(file: Path, text: str) -> None:
    with file.open("a") as opened:
        opened.write(text)


def _wait_until_it_answers(process: "subprocess.Popen[str]", endpoint: Endpoint, log_file: Path) -> None:
    give_up_at = time.monotonic() + READY_S_MAX
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            why = telling_line(log_file.read_text())
            raise BenchFailed(f"PostgreSQL did not start on port {endpoint.port}: {why}")
        try:
            psycopg.connect(endpoint.dsn).close()
            return
        except psycopg.OperationalError:
            time.sleep(LOOK_EVERY_S)
    raise BenchFailed(f"PostgreSQL on port {endpoint.port} does not answer after {READY_S_MAX:.0f} s")


def _wait_for_standbys(endpoint: Endpoint) -> None:
    """Until all six stream: fewer would make the comparison unfair, four are what a commit needs."""
    counting = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'quorum'"
    give_up_at = time.monotonic() + READY_S_MAX
    with psycopg.connect(endpoint.dsn, autocommit=True) as connection:
        while connection.execute(counting).fetchone() != (STANDBYS,):
            if time.monotonic() >= give_up_at:
                raise BenchFailed(f"not all {STANDBYS} standbys of PostgreSQL stream from it")
            time.sleep(LOOK_EVERY_S)


def _stop(process: "subprocess.Popen[str]") -> None:
    """A fast shutdown; an immediate one if that takes too long."""
    for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        process.send_signal(how)
        try:
            process.wait(STOP_S_MAX)
            return
        except subprocess.TimeoutExpired:
            continue
