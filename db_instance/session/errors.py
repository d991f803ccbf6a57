"""Every failure as the client learns it: SQLSTATE, message, and what they are about.

    report(error)      # any exception that a statement may raise -> Report

SQLite tells what went wrong only in the words of its messages; the tables below read them. Anything
that is in no table is a bug of ours: XX000, and the log has the traceback.
"""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import apsw

from db_instance.dialect.statement import Catalog
from db_instance.engine.engine import ReadOnlyVolume, SerializationFailure
from db_instance.engine.write_lock import LockTimeout
from volume.errors import (
    CorruptPage,
    CorruptRecord,
    DeadlineExceeded,
    LeaseExpired,
    OutcomeUnknown,
    PeerUnavailable,
    QuorumLost,
    StaleEpoch,
    TransactionTooLarge,
    VolumeBusy,
    VolumeError,
)


class SessionError(Exception):
    """The client asked for something that cannot be; the session goes on."""

    def __init__(
        self, sqlstate: str, message: str, *, detail: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.detail = detail
        self.hint = hint
        self.position: int | None = None


class FatalError(SessionError):
    """The session ends with this."""


def why_it_ends(reason: VolumeError) -> FatalError:
    """What every session is told when the instance cannot go on."""
    if isinstance(reason, StaleEpoch):
        return FatalError(
            "57P02",
            "terminating connection because another writer has opened the volume",
            detail=str(reason),
            hint="Connect again: what was acknowledged is there. The outcome of a commit under way is unknown.",
        )
    return FatalError("57P02", f"terminating connection because the instance cannot go on: {reason}")


@dataclass(slots=True)
class Report:
    sqlstate: str
    message: str
    severity: str = "ERROR"
    detail: str | None = None
    hint: str | None = None
    position: int | None = None
    about: dict[str, str] = field(default_factory=dict)
    """PostgreSQL's letters: t table, c column, n constraint."""
    is_bug: bool = False

    def fields(self) -> dict[str, str]:
        """As backend.error_response wants it."""
        found = {"S": self.severity, "V": self.severity, "C": self.sqlstate, "M": self.message}
        if self.detail:
            found["D"] = self.detail
        if self.hint:
            found["H"] = self.hint
        if self.position:
            found["P"] = str(self.position)
        return found | self.about


OUTCOME_UNKNOWN: Final = (
    "the outcome of this commit is unknown: too few storage nodes acknowledged it in time."
    " It may still become durable, or be undone"
)

_VOLUME_STATES: Final[dict[type[VolumeError], str]] = {
    OutcomeUnknown: "08007",
    StaleEpoch: "57P02",
    LeaseExpired: "57P03",
    TransactionTooLarge: "54000",
    VolumeBusy: "53000",
    CorruptPage: "XX001",
    CorruptRecord: "XX001",
    PeerUnavailable: "58030",
    DeadlineExceeded: "58030",
    QuorumLost: "58030",
}

_PLAIN_STATES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (SerializationFailure, "40001"),
    (LockTimeout, "55P03"),
    (ReadOnlyVolume, "25006"),
    (apsw.InterruptError, "57014"),
    (apsw.BusyError, "55P03"),
    (apsw.LockedError, "55P03"),
    (apsw.FullError, "53100"),
    (apsw.IOError, "58030"),
    (apsw.CorruptError, "XX001"),
    (apsw.NotADBError, "XX001"),
    (apsw.NoMemError, "53200"),
    (apsw.TooBigError, "54000"),
    (apsw.ReadOnlyError, "25006"),
    (apsw.MismatchError, "42804"),
    (apsw.AuthError, "42501"),
    (apsw.BindingsError, "08P01"),
    (apsw.AbortError, "40000"),
    (apsw.SchemaChangeError, "40001"),
    (MemoryError, "53200"),
    (RecursionError, "54001"),
    (OverflowError, "22003"),
    (UnicodeError, "22021"),
)

_TYPE_CHECKS: Final = (
    (re.compile(r"(smallint|integer) out of range"), "22003"),
    (re.compile(r"invalid input syntax for type [a-z ]+"), "22P02"),
    (re.compile(r"value too long for type [a-z ]+\(\d+\)"), "22001"),
)
"""Names of the checks that stand for a column's type (dialect/clauses.py)."""

_SQL_MESSAGES: Final = tuple(
    (re.compile(pattern, re.DOTALL), sqlstate, message)
    for pattern, sqlstate, message in (
        (r"no such (?:table|view): (?:main\.)?(.+)", "42P01", 'relation "{0}" does not exist'),
        (r'no such column: "?(.+?)"?', "42703", 'column "{0}" does not exist'),
        (r"table (\S+) has no column named (\S+)", "42703", 'column "{1}" of relation "{0}" does not exist'),
        (r"no such function: (.+)", "42883", "function {0} does not exist"),
        (
            r"wrong number of arguments to function (.+?)\(\)",
            "42883",
            "function {0}: no such number of arguments",
        ),
        (r"no such index: (.+)", "42704", 'index "{0}" does not exist'),
        (r"no such collation sequence: (.+)", "42704", 'collation "{0}" does not exist'),
        (r"no such savepoint: (.+)", "3B001", 'savepoint "{0}" does not exist'),
        (r"(?:table|view|index) (\S+) already exists", "42P07", 'relation "{0}" already exists'),
        (
            r"there is already (?:a|an) (?:table|view|index).* named:? (\S+)",
            "42P07",
            'relation "{0}" already exists',
        ),
        (r"duplicate column name: (.+)", "42701", 'column "{0}" specified more than once'),
        (r"ambiguous column name: (.+)", "42702", 'column reference "{0}" is ambiguous'),
        (r'near "(.*)": syntax error', "42601", 'syntax error at or near "{0}"'),
        (r"incomplete input", "42601", "syntax error at end of input"),
        (r"unrecognized token: (.+)", "42601", "syntax error at or near {0}"),
        (
            r"ON CONFLICT clause does not match any PRIMARY KEY or UNIQUE constraint",
            "42P10",
            "there is no unique or exclusion constraint matching the ON CONFLICT specification",
        ),
        (r"misuse of (?:window|aggregate).*", "42803", None),
        (r"a GROUP BY clause is required.*", "42803", None),
        (r"foreign key mismatch.*", "42830", None),
        (r"cannot modify (\S+) because it is a view", "42809", 'cannot change view "{0}"'),
        (
            r"error in (view|index) (\S+) after (?:drop|rename).*",
            "2BP01",
            "cannot drop column because other objects depend on it: {0} {1}",
        ),
        (r"use DROP (\S+) to delete (\S+) (\S+)", "42809", '"{2}" is a {1}: use DROP {0}'),
        (r"integer overflow", "22003", "bigint out of range"),
        (r"Cannot add a .*|cannot drop .*", "0A000", None),
        (r"too many columns.*", "54011", None),
        (r"too many .*|.*tree is too large.*|parser stack overflow|.* too complex.*", "54001", None),
        (r"not authorized.*|.* prohibited .*|access to .*", "42501", None),
        (
            r".* (?:values for|columns but) .*|.*number of result columns.*|sub-select returns .*",
            "42601",
            None,
        ),
        (r".*", "42601", None),
    )
)


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that led to it: SQLite's own words sometimes cover a storage error."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def outcome_unknown(error: BaseException) -> OutcomeUnknown | None:
    """The reason why nobody knows what became of a commit, if that is what happened."""
    return next((found for found in chain(error) if isinstance(found, OutcomeUnknown)), None)


def report(error: BaseException, catalog: Catalog | None = None) -> Report:
    """The catalog knows the names of unique constraints."""
    told = _told_by(error)
    if told is not None:
        return told
    # First of all: whatever failed because of it, the client must not take the commit for undone.
    storage = outcome_unknown(error) or next(
        (found for found in chain(error) if isinstance(found, VolumeError)), None
    )
    if storage is not None:
        return _storage_report(storage)
    if isinstance(error, apsw.ConstraintError):
        return _constraint_report(error, catalog)
    for kind, sqlstate in _PLAIN_STATES:
        if isinstance(error, kind):
            return Report(sqlstate, str(error) or kind.__name__)
    if isinstance(error, apsw.SQLError):
        return _sql_report(str(error))
    if isinstance(error, asyncio.CancelledError):
        return Report("57014", "canceling statement due to user request")
    return Report("XX000", f"internal error: {type(error).__name__}: {error}", is_bug=True)


def _told_by(error: BaseException) -> Report | None:
    """Errors of ours that name their SQLSTATE themselves: SessionError, the dialect's SqlError."""
    sqlstate = getattr(error, "sqlstate", None)
    if not isinstance(sqlstate, str):
        return None
    return Report(
        sqlstate,
        str(getattr(error, "message", None) or error),
        severity="FATAL" if isinstance(error, FatalError) else "ERROR",
        detail=getattr(error, "detail", None),
        hint=getattr(error, "hint", None),
        position=getattr(error, "position", None),
        about=dict(getattr(error, "about", None) or {}),
    )


def _storage_report(error: VolumeError) -> Report:
    for kind in type(error).__mro__:
        sqlstate = _VOLUME_STATES.get(kind)
        if sqlstate is not None:
            break
    else:
        sqlstate = "58030"
    if sqlstate == "08007":
        return Report(sqlstate, OUTCOME_UNKNOWN, severity="FATAL", detail=str(error))
    return Report(sqlstate, f"storage: {error}")


def _sql_report(message: str) -> Report:
    for pattern, sqlstate, told in _SQL_MESSAGES:
        match = pattern.fullmatch(message)
        if match is not None:
            return Report(sqlstate, told.format(*match.groups()) if told else message)
    return Report("42601", message)


def _constraint_report(error: apsw.ConstraintError, catalog: Catalog | None) -> Report:
    message = str(error)
    code = getattr(error, "extendedresult", 0)
    _, _, subject = message.partition("failed: ")
    if code in (
        apsw.SQLITE_CONSTRAINT_UNIQUE,
        apsw.SQLITE_CONSTRAINT_PRIMARYKEY,
        apsw.SQLITE_CONSTRAINT_ROWID,
    ):
        return _unique_report(subject, catalog, primary=code != apsw.SQLITE_CONSTRAINT_UNIQUE)
    if code == apsw.SQLITE_CONSTRAINT_NOTNULL:
        table, _, column = subject.partition(".")
        told = f'null value in column "{column}" of relation "{table}" violates not-null constraint'
        return Report("23502", told, about={"t": table, "c": column})
    if (
        code in (apsw.SQLITE_CONSTRAINT_FOREIGNKEY, apsw.SQLITE_CONSTRAINT_TRIGGER)
        and "FOREIGN KEY" in message
    ):
        return Report("23503", "insert, update or delete violates foreign key constraint")
    if code == apsw.SQLITE_CONSTRAINT_CHECK:
        for name, sqlstate in _TYPE_CHECKS:
            if name.fullmatch(subject):
                return Report(sqlstate, subject)
        return Report("23514", f'new row violates check constraint "{subject}"', about={"n": subject})
    if code == apsw.SQLITE_CONSTRAINT_DATATYPE:
        return Report("22P02", f"invalid input: {message}")
    if code == apsw.SQLITE_CONSTRAINT_TRIGGER:
        return Report("P0001", message)
    return Report("23000", message)


def _unique_report(subject: str, catalog: Catalog | None, *, primary: bool) -> Report:
    """From "t.a, t.b" to the name that PostgreSQL would have given the constraint."""
    if subject.startswith("index "):
        name = subject.removeprefix("index ").strip("'")
        return Report("23505", f'duplicate key value violates unique constraint "{name}"', about={"n": name})
    columns = [column.partition(".") for column in subject.split(", ")]
    table = columns[0][0]
    names = "_".join(column for _, _, column in columns)
    name = f"{table}_pkey" if primary else f"{table}_{names}_key"
    info = catalog.table(table) if catalog is not None else None
    if info is not None:
        name = info.key_names.get(tuple(column for _, _, column in columns), name)
    told = f'duplicate key value violates unique constraint "{name}"'
    return Report("23505", told, about={"t": table, "n": name})
