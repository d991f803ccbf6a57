"""COPY's two text formats: bytes in any portions to rows of fields, and rows to bytes. Pure.

    reader = CopyReader(CopyOptions())
    reader.feed(b"1\\tone\\n2\\t\\\\N\\n3")     # -> [[b"1", b"one"], [b"2", None]]
    reader.finish()                           # -> [[b"3"]]

A field is None for NULL. What the formats are: https://www.postgresql.org/docs/current/sql-copy.html
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from db_instance.session.errors import SessionError
from volume.limits import MIB

LINE_BYTES_MAX: Final = 16 * MIB
"""A row that is longer is refused: it is no row, or its newlines got lost."""

Fields = list[bytes | None]


@dataclass(frozen=True, slots=True)
class CopyOptions:
    csv: bool = False
    delimiter: bytes = b"\t"
    null: bytes = b"\\N"
    header: bool = False
    quote: bytes = b'"'
    escape: bytes = b'"'


_ESCAPED: Final = re.compile(rb"\\(?:x([0-9A-Fa-f]{1,2})|([0-7]{1,3})|(.))", re.DOTALL)
_CONTROL: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_NEEDS_ESCAPE: Final = {
    ord("\\"): b"\\\\",
    ord("\b"): b"\\b",
    ord("\f"): b"\\f",
    ord("\n"): b"\\n",
    ord("\r"): b"\\r",
    ord("\t"): b"\\t",
    ord("\v"): b"\\v",
}


class CopyReader:
    def __init__(self, options: CopyOptions) -> None:
        self._options = options
        self._rest = b""
        self._pending: list[bytes] = []
        """The lines of a row whose end is yet to come."""
        self._pending_bytes = 0
        self._skip_header = options.header
        self._ended = False
        self.line = 0
        """The number of the last line read, for messages."""

    def feed(self, data: bytes) -> list[Fields]:
        """The rows that are complete now."""
        data = self._rest + data
        lines = data.split(b"\n")
        self._rest = lines.pop()
        plain = not self._pending and self._is_plain(data)
        rows = self._plain_rows(lines) if plain else self._rows(lines)
        if self._pending_bytes + len(self._rest) > LINE_BYTES_MAX:
            raise SessionError("54000", f"COPY line {self.line + 1} is longer than {LINE_BYTES_MAX} bytes")
        return rows

    def _is_plain(self, data: bytes) -> bool:
        """Is each newline the end of a row, and each delimiter of a field?"""
        if self._ended or self._skip_header or b"\\" in data or b"\r" in data:
            return False
        return not (self._options.csv and self._options.quote in data)

    def _plain_rows(self, lines: list[bytes]) -> list[Fields]:
        self.line += len(lines)
        delimiter, null = self._options.delimiter, self._options.null
        rows: list[Fields] = [[*line.split(delimiter)] for line in lines]
        if b"\\" in null:
            return rows
        return [[None if field == null else field for field in row] if null in row else row for row in rows]

    def finish(self) -> list[Fields]:
        """The last row, if it has no newline after it."""
        last, self._rest = self._rest, b""
        if not last and not self._pending:
            return []
        rows = self._rows([last])
        if self._pending:
            raise SessionError(
                "22P04", "unterminated CSV quoted field" if self._options.csv else "incomplete line"
            )
        return rows

    def _rows(self, lines: list[bytes]) -> list[Fields]:
        rows = []
        for line in lines:
            if self._goes_on(line):
                self._pending.append(line)
                self._pending_bytes += len(line) + 1
                if self._pending_bytes > LINE_BYTES_MAX:
                    break
                continue
            if self._pending:
                line = b"\n".join([*self._pending, line])
                self._pending.clear()
                self._pending_bytes = 0
            self.line += 1
            if line.endswith(b"\r"):
                line = line[:-1]
            if self._ended or line == b"\\.":
                self._ended = True
                continue
            if self._skip_header:
                self._skip_header = False
                continue
            rows.append(self._csv_fields(line) if self._options.csv else self._text_fields(line))
        return rows

    def _goes_on(self, line: bytes) -> bool:
        """Whether the newline after this belongs to a value."""
        if self._options.csv:
            return self._ends_inside_quotes(line, inside=bool(self._pending))
        if not line.endswith(b"\\"):
            return False
        return (len(line) - len(line.rstrip(b"\\"))) % 2 == 1

    def _ends_inside_quotes(self, line: bytes, *, inside: bool) -> bool:
        quote, escape = self._options.quote, self._options.escape
        if escape == quote or escape not in line:
            return inside != (line.count(quote) % 2 == 1)
        marks = re.findall(b"%b[%b%b]|%b" % tuple(map(re.escape, (escape, escape, quote, quote))), line)
        for mark in marks:
            if mark == quote:
                inside = not inside
            elif mark.endswith(quote):
                inside = True  # outside of quotes the escape is a character like others
        return inside

    def _text_fields(self, line: bytes) -> Fields:
        options = self._options
        null = options.null
        if b"\\" not in line:
            return [None if field == null else field for field in line.split(options.delimiter)]
        fields = _split_unescaped(line, options.delimiter)
        return [None if field == null else _unescape(field) for field in fields]

    def _csv_fields(self, line: bytes) -> Fields:
        options = self._options
        if options.quote not in line:
            return [None if field == options.null else field for field in line.split(options.delimiter)]
        return self._quoted_fields(line)

    def _quoted_fields(self, line: bytes) -> Fields:
        options = self._options
        quote, escape, delimiter = options.quote[0], options.escape[0], options.delimiter[0]
        fields: Fields = []
        field = bytearray()
        inside = was_quoted = False
        at = 0
        while at <= len(line):
            byte = line[at] if at < len(line) else -1
            if inside and byte == escape and at + 1 < len(line) and line[at + 1] in (quote, escape):
                field.append(line[at + 1])
                at += 1
            elif byte == quote:
                inside = not inside
                was_quoted = True
            elif byte == -1 or (byte == delimiter and not inside):
                value = bytes(field)
                fields.append(None if value == options.null and not was_quoted else value)
                field = bytearray()
                was_quoted = False
            else:
                field.append(byte)
            at += 1
        return fields


def _split_unescaped(line: bytes, delimiter: bytes) -> list[bytes]:
    """Split at the delimiters that have no backslash before them."""
    fields: list[bytes] = []
    for part in line.split(delimiter):
        if fields and (len(fields[-1]) - len(fields[-1].rstrip(b"\\"))) % 2 == 1:
            fields[-1] += delimiter + part
        else:
            fields.append(part)
    return fields


def _unescape(field: bytes) -> bytes:
    if b"\\" not in field:
        return field
    return _ESCAPED.sub(_escaped_byte, field)


def _escaped_byte(match: re.Match[bytes]) -> bytes:
    hexadecimal, octal, other = match.groups()
    if hexadecimal is not None:
        return bytes([int(hexadecimal, 16)])
    if octal is not None:
        return bytes([int(octal, 8) & 0xFF])
    return _CONTROL.get(other, other)


class CopyWriter:
    def __init__(self, options: CopyOptions) -> None:
        self._options = options

    def header(self, names: Sequence[str]) -> bytes:
        return self.row([name.encode() for name in names])

    def row(self, fields: Sequence[bytes | None]) -> bytes:
        write = self._csv_field if self._options.csv else self._text_field
        return self._options.delimiter.join(map(write, fields)) + b"\n"

    def _text_field(self, field: bytes | None) -> bytes:
        if field is None:
            return self._options.null
        # Most values have nothing to escape: look once before looking at each byte.
        if field.isalnum():
            return field
        delimiter = self._options.delimiter[0]
        return b"".join(
            b"\\" + bytes([byte])
            if byte == delimiter and byte not in _NEEDS_ESCAPE
            else _NEEDS_ESCAPE.get(byte, bytes([byte]))
            for byte in field
        )

    def _csv_field(self, field: bytes | None) -> bytes:
        options = self._options
        if field is None:
            return options.null
        plain = (
            field != options.null
            and options.delimiter not in field
            and options.quote not in field
            and b"\n" not in field
            and b"\r" not in field
            and field != b"\\."
        )
        if plain:
            return field
        quoted = field.replace(options.escape, options.escape * 2)
        if options.quote != options.escape:
            quoted = quoted.replace(options.quote, options.escape + options.quote)
        return options.quote + quoted + options.quote
