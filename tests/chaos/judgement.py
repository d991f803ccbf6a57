"""When all is mended: is everything there that was promised, and nothing else?"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psycopg

from tests.chaos.clients import Client, Connection
from tests.chaos.cluster import ZONES, Cluster, ailments
from tests.chaos.faults import scrub
from tests.chaos.history import History
from tests.chaos.workloads import BALLAST_ROWS, ballast, counts, look_at_all
from tests.checkers import list_append, register
from tests.cluster.ledger import ACCOUNTS, Ledger

SERVES_S_MAX: Final = 60.0
WHOLE_S_MAX: Final = 60.0
_SHOWN_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """What one checker has to say."""

    checker: str
    violations: list[str]
    note: str = ""


def wait_until_served(cluster: Cluster) -> Finding:
    """A new connection commits a write."""
    begin, told = time.monotonic(), ""
    while time.monotonic() < begin + SERVES_S_MAX:
        try:
            with cluster.connect() as connection:
                connection.execute("UPDATE account SET balance = balance WHERE id = 0")
            waited_s = time.monotonic() - begin
            return Finding("serves again", [], f"after {waited_s:.1f} s")
        except psycopg.Error as error:
            told = f"{type(error).__name__}: {' '.join(str(error).split())}"
            time.sleep(0.2)
    return Finding("serves again", [f"not within {SERVES_S_MAX:.0f} s: {told}"])


def wait_until_whole(cluster: Cluster) -> Finding:
    """Six copies of each group, all alike, and nothing is being replaced."""
    begin = time.monotonic()
    if cluster.until(cluster.is_whole, WHOLE_S_MAX):
        return Finding("six copies", [], f"after {time.monotonic() - begin:.1f} s")
    status = cluster.status()
    if status is None:
        return Finding("six copies", ["the control plane does not answer"])
    scls = [
        f"pg{each['group']} at {each['node']}: {each['scl']}" for each in status["segments"] if each["lag"]
    ]
    return Finding("six copies", [f"not within {WHOLE_S_MAX:.0f} s", *ailments(status), *scls])


def scrub_all(cluster: Cluster) -> Finding:
    """Whatever a first scrub finds, the second one finds mended."""
    first = {name: scrub(cluster, name) for name in ZONES}
    whole = cluster.until(cluster.is_whole, WHOLE_S_MAX)
    second = {name: scrub(cluster, name) for name in ZONES}
    problems = [f"{name}: {', '.join(found)}" for name, found in second.items() if found]
    problems += [f"{name} does not come to an end of it" for name, found in second.items() if found is None]
    problems += [] if whole else ["afterwards the copies are not whole"]
    return Finding("scrub", problems, f"{sum(len(found or ()) for found in first.values())} found and mended")


def judge(cluster: Cluster, ledger: Ledger, history: History, clients: Sequence[Client]) -> list[Finding]:
    findings = [_clients_finding(clients)]
    with cluster.connect() as connection:
        look_at_all(connection, history)
    verdict = ledger.judge()
    problems = [f"lost: {verdict.lost[:_SHOWN_MAX]}"] if verdict.lost else []
    problems += [f"there, and was refused: {verdict.ghosts[:_SHOWN_MAX]}"] if verdict.ghosts else []
    note = f"{verdict.rows} rows, {ledger.doubts} were in doubt"
    findings.append(Finding("ledger", problems + verdict.half, note))
    note = f"{len(history.transactions)} transactions"
    findings.append(Finding("list-append", list_append.check(history.transactions), note))
    note = f"{len(history.operations)} operations"
    findings.append(Finding("registers", register.check(history.operations), note))
    with cluster.connect() as connection:
        findings += [_counts_finding(connection, history, verdict.rows), _ballast_finding(connection)]
    return findings


def _clients_finding(clients: Sequence[Client]) -> Finding:
    broken = [f"{each.workload}: {each.unexpected!r}" for each in clients if each.unexpected is not None]
    broken += [
        f"{each.workload}: waits for an answer that does not come" for each in clients if each.is_alive()
    ]
    return Finding("clients", broken)


def _counts_finding(connection: Connection, history: History, ledger_rows: int) -> Finding:
    found = counts(connection)
    expected = {"account": ACCOUNTS, "ledger": ledger_rows, "ballast": BALLAST_ROWS}
    problems = [
        f"{table}: {found[table]} rows by count, {rows} by looking"
        for table, rows in expected.items()
        if found[table] != rows
    ]
    return Finding("counts", problems, ", ".join(f"{table} {rows}" for table, rows in found.items()))


def _ballast_finding(connection: Connection) -> Finding:
    rows = dict(connection.execute("SELECT id, content FROM ballast").fetchall())
    wrong = [row for row in range(BALLAST_ROWS) if rows.get(row) != ballast(row)]
    churned = connection.execute("SELECT id, version, content FROM churn").fetchall()
    wrong += [row for row, version, content in churned if content != ballast(row, version)]
    problems = [f"{len(wrong)} rows are not what was written: {wrong[:_SHOWN_MAX]}"] if wrong else []
    return Finding("ballast and churn", problems, f"{len(rows) + len(churned)} rows")
