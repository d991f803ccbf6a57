"""COPY FROM STDIN and COPY TO STDOUT: rows in bulk, over the client's connection."""

from collections.abc import Mapping
from typing import Any, Final

from db_instance.dialect import Statement, TableInfo, translate
from db_instance.dialect.assignments import first_twice
from db_instance.dialect.statement import null_in_key
from db_instance.engine.lease import BATCH_ROWS
from db_instance.session.channel import Channel
from db_instance.session.copy_format import CopyOptions, CopyReader, CopyWriter, Fields
from db_instance.session.errors import FatalError, SessionError
from db_instance.session.results import (
    Columns,
    OutputColumn,
    column_decoder,
    merge,
    settle,
    static_columns,
    writer,
)
from db_instance.session.transaction import Transaction
from db_instance.wire.postgres import backend
from db_instance.wire.postgres.messages import CopyData, CopyDone, CopyFail, Flush, Sync, Terminate

_VALUES_A_STATEMENT: Final = 500
"""One INSERT carries many rows: starting a statement costs more than a row does."""

_IDLE_S: Final = 300.0
"""A client that sends nothing of its COPY for so long is given up; it may hold the write lock."""


def read_options(given: Mapping[str, Any]) -> CopyOptions:
    """The statement's options as the format needs them. Raises SessionError."""
    options = {name.lower(): value for name, value in given.items()}
    format = str(options.pop("format", "text")).lower()
    if format not in ("text", "csv"):
        raise SessionError("0A000", f'COPY format "{format}" is not supported', hint="Use text or csv.")
    csv = format == "csv"
    options.pop("freeze", None)
    encoding = str(options.pop("encoding", "utf8"))
    if encoding.lower().replace("-", "") != "utf8":
        raise SessionError("0A000", f'COPY encoding "{encoding}" is not supported', hint="Use UTF8.")
    header = options.pop("header", False)
    if str(header).lower() == "match":
        raise SessionError("0A000", "COPY HEADER MATCH is not supported", hint="Use HEADER.")
    quote = _one_byte("quote", options.pop("quote", '"'))
    found = CopyOptions(
        csv=csv,
        delimiter=_one_byte("delimiter", options.pop("delimiter", "," if csv else "\t")),
        null=str(options.pop("null", "" if csv else "\\N")).encode(),
        header=_is_on(header),
        quote=quote,
        escape=_one_byte("escape", options.pop("escape", quote.decode())),
    )
    if found.delimiter in b"\\.abcdefghijklmnopqrstuvwxyz0123456789" and not csv:
        raise SessionError("22023", f'COPY delimiter cannot be "{found.delimiter.decode()}"')
    if options:
        raise SessionError("0A000", f'COPY option "{next(iter(options))}" is not supported')
    return found


def _one_byte(name: str, value: Any) -> bytes:
    byte = str(value).encode()
    if len(byte) != 1 or byte in b"\r\n":
        raise SessionError("22023", f"COPY {name} must be a single one-byte character")
    return byte


def _is_on(value: Any) -> bool:
    return value is True or str(value).lower() in ("true", "on", "1")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


async def _target(transaction: Transaction, statement: Statement) -> tuple[TableInfo, Columns]:
    """The table and those of its columns that the COPY is about."""
    name = statement.details["table"]
    table = (await transaction.catalog()).table(name)
    if table is None:
        raise SessionError("42P01", f'relation "{name}" does not exist')
    by_name = {column.name: column for column in table.columns}
    wanted = statement.details["columns"] or tuple(by_name)
    missing = next((each for each in wanted if each not in by_name), None)
    if missing is not None:
        raise SessionError("42703", f'column "{missing}" of relation "{name}" does not exist')
    if twice := first_twice(wanted):
        raise SessionError("42701", f'column "{twice}" specified more than once')
    return table, tuple(OutputColumn(each, by_name[each].oid) for each in wanted)


async def copy_from(channel: Channel, transaction: Transaction, statement: Statement) -> int:
    """Take rows from the client until it says that it is done. The number of rows."""
    options = read_options(statement.details["options"])
    table, columns = await _target(transaction, statement)
    if table.integer_key and not table.counts and table.integer_key not in [each.name for each in columns]:
        raise null_in_key(table.name, table.integer_key)
    await transaction.begin_writing()
    inserter = _Inserter(transaction, table, columns)
    reader = CopyReader(options)
    channel.write(backend.copy_in_response(len(columns)))
    while True:
        message = await channel.receive(lambda: _IDLE_S)
        if isinstance(message, CopyData):
            await inserter.add(reader.feed(message.data))
        elif isinstance(message, CopyDone):
            break
        elif isinstance(message, CopyFail):
            raise SessionError("57014", f"COPY from stdin failed: {message.reason}")
        elif isinstance(message, Terminate):
            raise FatalError("08P01", "unexpected EOF on client connection with an open transaction")
        elif not isinstance(message, Flush | Sync):
            raise SessionError("08P01", f"unexpected {type(message).__name__} during COPY from stdin")
    await inserter.add(reader.finish())
    await inserter.finish()
    return inserter.count


class _Inserter:
    """Collects rows, and inserts as many at a time as one statement carries."""

    def __init__(self, transaction: Transaction, table: TableInfo, columns: Columns) -> None:
        self.count = 0
        self._transaction = transaction
        self._table = table
        self._columns = columns
        self._decoders = [column_decoder(column.oid) for column in columns]
        self._rows_a_statement = max(1, _VALUES_A_STATEMENT // max(1, len(columns)))
        self._rows: list[Fields] = []
        self._full_sql = self._insert(self._rows_a_statement)

    def _insert(self, rows: int) -> str:
        names = ", ".join(_quoted(column.name) for column in self._columns)
        row = "(" + ", ".join(map(self._value, self._columns)) + ")"
        return f"INSERT INTO {_quoted(self._table.name)} ({names}) VALUES {', '.join([row] * rows)}"

    def _value(self, column: OutputColumn) -> str:
        """SQLite would give an integer key the next number for NULL."""
        if column.name != self._table.integer_key:
            return "?"
        table, key = (name.replace("'", "''") for name in (self._table.name, column.name))
        return f"coalesce(?, sixfold_null_in_key('{table}', '{key}'))"

    async def add(self, rows: list[Fields]) -> None:
        self._rows += rows
        size = self._rows_a_statement
        whole = len(self._rows) // size * size
        for start in range(0, whole, size):
            await self._run(self._full_sql, self._rows[start : start + size])
        del self._rows[:whole]

    async def finish(self) -> None:
        if self._rows:
            await self._run(self._insert(len(self._rows)), self._rows)

    async def _run(self, sql: str, rows: list[Fields]) -> None:
        await self._transaction.write(sql, self._values(rows))
        self.count += len(rows)

    def _values(self, rows: list[Fields]) -> list[Any]:
        """The values of all rows, one after the other. They are decoded by columns, which is much quicker."""
        width = len(self._columns)
        values: list[Any] = [None] * (width * len(rows))
        try:
            for at, (decode, fields) in enumerate(zip(self._decoders, zip(*rows, strict=True), strict=True)):
                values[at::width] = decode(fields)
        except ValueError:
            self._tell_what_is_wrong(rows)
            raise
        return values

    def _tell_what_is_wrong(self, rows: list[Fields]) -> None:
        """Raises SessionError for the first row that has too many fields, or too few, or a bad one."""
        for number, fields in enumerate(rows, self.count + 1):
            if len(fields) > len(self._columns):
                raise SessionError(
                    "22P04", "extra data after last expected column", detail=f"COPY row {number}"
                )
            if len(fields) < len(self._columns):
                missing = self._columns[len(fields)].name
                raise SessionError(
                    "22P04", f'missing data for column "{missing}"', detail=f"COPY row {number}"
                )
            for decode, field in zip(self._decoders, fields, strict=True):
                decode((field,))


async def copy_to(channel: Channel, transaction: Transaction, statement: Statement) -> int:
    """Send the rows of a table or query. The number of rows."""
    options = read_options(statement.details["options"])
    sql = statement.details["query"]
    if sql is None:
        table, columns = await _target(transaction, statement)
        sql = f"SELECT {', '.join(_quoted(column.name) for column in columns)} FROM {_quoted(table.name)}"
    source = translate(sql, await transaction.catalog())
    if not source.returns_rows or not source.reads_only:
        raise SessionError("0A000", "COPY query must be a SELECT")
    rows = await transaction.read(source.sql, ())
    described = rows.columns or await transaction.describe(source.sql, 0)
    columns = settle(merge(static_columns(source), described), await rows.peek())
    encoders = writer(columns, ()).encoders
    lines = CopyWriter(options)
    channel.write(backend.copy_out_response(len(columns)))
    if options.header:
        channel.write(backend.copy_data(lines.header([column.name for column in columns])))
    count = 0
    while batch := await rows.fetch(BATCH_ROWS):
        for row in batch:
            fields = [
                None if value is None else encode(value) for value, encode in zip(row, encoders, strict=True)
            ]
            channel.write(backend.copy_data(lines.row(fields)))
        count += len(batch)
        if channel.full:
            await channel.flush()
    transaction.forget(rows)
    channel.write(backend.COPY_DONE)
    return count
