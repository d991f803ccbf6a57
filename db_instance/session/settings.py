"""The settings a client may SET and SHOW, with PostgreSQL's names and ways of writing values.

Most of them exist so that clients which set them on connecting go on; those that change what we do
are read through `Settings`' methods. A SET is undone if its transaction is.
"""

import re
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from db_instance.session.errors import SessionError

SERVER_VERSION: Final = "15.0"
"""The PostgreSQL whose behaviour clients may expect."""

Check = Callable[[str, str], str]
"""Name and value as given to the value as kept. Raises SessionError."""


class Setting(NamedTuple):
    default: str
    check: Check
    reported: bool = False
    """Clients are told of changes (ParameterStatus)."""


def _bad(name: str, value: str, hint: str | None = None) -> SessionError:
    return SessionError("22023", f'invalid value for parameter "{name}": "{value}"', hint=hint)


def _any(name: str, value: str) -> str:
    return value


def _constant(name: str, value: str) -> str:
    raise SessionError("55P02", f'parameter "{name}" cannot be changed')


def _switch(name: str, value: str) -> str:
    word = value.strip().lower()
    if word in ("on", "true", "t", "yes", "y", "1"):
        return "on"
    if word in ("off", "false", "f", "no", "n", "0"):
        return "off"
    raise SessionError("22023", f'parameter "{name}" requires a Boolean value')


def _one_of(*words: str) -> Check:
    def check(name: str, value: str) -> str:
        word = value.strip().lower()
        if word not in words:
            raise _bad(name, value, f"Available values: {', '.join(words)}.")
        return word

    return check


def _number(low: float, high: float) -> Check:
    def check(name: str, value: str) -> str:
        try:
            number = float(value)
        except ValueError:
            raise _bad(name, value) from None
        if not low <= number <= high:
            raise SessionError("22023", f'{value} is outside the valid range for parameter "{name}"')
        return value.strip()

    return check


_UNITS_MS: Final = {"us": 0.001, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)?\s*")


def _duration(name: str, value: str) -> str:
    """Milliseconds, shown in the largest unit that fits."""
    match = _DURATION.fullmatch(value)
    if match is None:
        raise _bad(name, value, 'Valid units for this parameter are "us", "ms", "s", "min", "h", and "d".')
    milliseconds = round(float(match[1]) * _UNITS_MS[match[2] or "ms"])
    if milliseconds > 2_147_483_647:
        raise SessionError("22023", f'{value} is outside the valid range for parameter "{name}"')
    for unit in ("d", "h", "min", "s"):
        if milliseconds and milliseconds % _UNITS_MS[unit] == 0:
            return f"{int(milliseconds // _UNITS_MS[unit])}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0"


def _encoding(name: str, value: str) -> str:
    if value.strip().lower().replace("-", "").replace("_", "") not in ("utf8", "unicode"):
        raise SessionError("0A000", f'client encoding "{value}" is not supported', hint="Use UTF8.")
    return "UTF8"


def _date_style(name: str, value: str) -> str:
    words = [word.strip().upper() for word in value.split(",")]
    if not set(words) <= {"ISO", "MDY", "DMY", "YMD", "US", "EUROPEAN"}:
        raise SessionError("0A000", f'DateStyle "{value}" is not supported', hint="Use ISO.")
    order = next((word for word in words if word != "ISO"), "MDY")
    return f"ISO, {({'US': 'MDY', 'EUROPEAN': 'DMY'}).get(order, order)}"


def _time_zone(name: str, value: str) -> str:
    if _UTC.fullmatch(value):
        return value
    if value in zoneinfo.available_timezones() or _OFFSET.fullmatch(value):
        hint = "Give times with their offset, and convert in the client."
        raise SessionError("0A000", f'TimeZone "{value}" is not supported: all times are UTC', hint=hint)
    raise _bad(name, value)


_UTC: Final = re.compile(
    r"(Etc/)?(UTC|UCT|GMT([+-]?0)?|Universal|Zulu|Greenwich)|Z|DEFAULT|LOCAL|[+-]?00?(:?00)?|<[+-]00>[+-]00?",
    re.IGNORECASE,
)
_OFFSET: Final = re.compile(r"[+-]?\d{1,2}(:?\d{2})?|<[+-]\d{2,4}>[+-]\d{1,2}(:\d{2})?")


def isolation_level(name: str, value: str) -> str:
    level = " ".join(value.lower().split())
    if level == "read uncommitted":
        level = "read committed"
    if level not in ("read committed", "repeatable read", "serializable"):
        raise _bad(name, value)
    return level


SETTINGS: Final[dict[str, Setting]] = {
    "server_version": Setting(SERVER_VERSION, _constant, True),
    "server_version_num": Setting("150000", _constant),
    "server_encoding": Setting("UTF8", _constant, True),
    "client_encoding": Setting("UTF8", _encoding, True),
    "application_name": Setting("", _any, True),
    "is_superuser": Setting("on", _constant, True),
    "session_authorization": Setting("", _constant, True),
    "DateStyle": Setting("ISO, MDY", _date_style, True),
    "IntervalStyle": Setting("postgres", _one_of("postgres"), True),
    "TimeZone": Setting("UTC", _time_zone, True),
    "integer_datetimes": Setting("on", _constant, True),
    "standard_conforming_strings": Setting("on", _one_of("on"), True),
    "in_hot_standby": Setting("off", _constant, True),
    "default_transaction_read_only": Setting("off", _switch, True),
    "default_transaction_isolation": Setting("read committed", isolation_level),
    "default_transaction_deferrable": Setting("off", _switch),
    "statement_timeout": Setting("0", _duration),
    "lock_timeout": Setting("0", _duration),
    "idle_in_transaction_session_timeout": Setting("0", _duration),
    "idle_session_timeout": Setting("0", _duration),
    "search_path": Setting('"$user", public', _any),
    "extra_float_digits": Setting("1", _number(-15, 3)),
    "bytea_output": Setting("hex", _one_of("hex")),
    "xmloption": Setting("content", _one_of("content", "document")),
    "client_min_messages": Setting("notice", _any),
    "log_min_messages": Setting("warning", _any),
    "log_statement": Setting("none", _any),
    "log_min_duration_statement": Setting("-1", _any),
    "synchronous_commit": Setting("on", _any),
    "row_security": Setting("on", _switch),
    "check_function_bodies": Setting("on", _switch),
    "default_tablespace": Setting("", _any),
    "default_table_access_method": Setting("heap", _any),
    "default_toast_compression": Setting("lz4", _any),
    "default_with_oids": Setting("off", _one_of("off")),
    "escape_string_warning": Setting("on", _switch),
    "backslash_quote": Setting("safe_encoding", _any),
    "quote_all_identifiers": Setting("off", _switch),
    "array_nulls": Setting("on", _switch),
    "work_mem": Setting("4MB", _any),
    "maintenance_work_mem": Setting("64MB", _any),
    "temp_buffers": Setting("8MB", _any),
    "effective_cache_size": Setting("4GB", _any),
    "max_parallel_workers_per_gather": Setting("0", _any),
    "random_page_cost": Setting("4", _any),
    "seq_page_cost": Setting("1", _any),
    "jit": Setting("off", _switch),
    "plan_cache_mode": Setting("auto", _any),
    "enable_seqscan": Setting("on", _switch),
    "enable_indexscan": Setting("on", _switch),
    "enable_bitmapscan": Setting("on", _switch),
    "enable_hashjoin": Setting("on", _switch),
    "enable_mergejoin": Setting("on", _switch),
    "enable_nestloop": Setting("on", _switch),
    "enable_sort": Setting("on", _switch),
    "geqo": Setting("on", _switch),
    "gin_fuzzy_search_limit": Setting("0", _any),
    "vacuum_freeze_min_age": Setting("50000000", _any),
    "tcp_keepalives_idle": Setting("60", _any),
    "tcp_keepalives_interval": Setting("10", _any),
    "tcp_keepalives_count": Setting("6", _any),
    "lc_collate": Setting("C", _constant),
    "lc_ctype": Setting("C", _constant),
    "lc_messages": Setting("C", _any),
    "lc_monetary": Setting("C", _any),
    "lc_numeric": Setting("C", _any),
    "lc_time": Setting("C", _any),
    "max_connections": Setting("500", _constant),
    "max_identifier_length": Setting("63", _constant),
    "max_index_keys": Setting("32", _constant),
    "block_size": Setting("4096", _constant),
    "wal_level": Setting("replica", _constant),
    "ssl": Setting("off", _constant),
    "role": Setting("none", _any),
    "seed": Setting("unavailable", _any),
}
_SPELLING: Final = {name.lower(): name for name in SETTINGS}
_SETTINGS_MAX: Final = 200
"""Custom settings ("app.user") one session may keep."""


def spelling(name: str) -> str:
    """The setting's own name, however the client wrote it. Raises SessionError if there is none."""
    lower = name.lower()
    lower = {
        "time zone": "timezone",
        "names": "client_encoding",
        "transaction isolation level": "transaction_isolation",
    }.get(lower, lower)
    found = _SPELLING.get(lower)
    if found is not None:
        return found
    if "." in lower:
        return lower
    raise SessionError("42704", f'unrecognized configuration parameter "{name}"')


Kept = tuple[dict[str, str], dict[str, str | None]]
"""What a savepoint goes back to: the values, and which of them end with the transaction."""


class Settings:
    """One session's values. `started_with` is what RESET goes back to."""

    def __init__(self, started_with: Mapping[str, str] | None = None) -> None:
        self._started_with: dict[str, str] = dict(started_with or {})
        self._values: dict[str, str] = {}
        self._before_transaction: dict[str, str] | None = None
        self._local: dict[str, str | None] = {}
        self._durations: dict[str, float | None] = {}
        self.changes = 0
        """Grows with each change: who keeps what was made of the values looks at this."""

    def start_with(self, given: Mapping[str, str]) -> None:
        """What the client asked for on connecting; RESET goes back to it. Raises SessionError."""
        for name, value in given.items():
            own_name = spelling(name)
            setting = SETTINGS.get(own_name)
            if setting is not None and own_name != "session_authorization":
                try:
                    value = setting.check(own_name, value)
                except SessionError as error:
                    if own_name == "TimeZone" and error.sqlstate == "0A000":
                        continue  # drivers send the zone of their machine: they are told that it is UTC here
                    raise
            self._started_with[own_name] = value
        self._changed()

    def get(self, name: str) -> str:
        """The value. Raises SessionError if there is no such setting."""
        name = spelling(name)
        value = self._values.get(name)
        if value is None:
            value = self._started_with.get(name)
        if value is None:
            setting = SETTINGS.get(name)
            if setting is None:
                raise SessionError("42704", f'unrecognized configuration parameter "{name}"')
            value = setting.default
        return value

    def set(self, name: str, value: str | None, *, local: bool = False) -> None:
        """Change a value; None is the one the session began with. Raises SessionError."""
        name = spelling(name)
        setting = SETTINGS.get(name)
        if value is not None and setting is not None:
            value = setting.check(name, value)
        if value is None and setting is not None and setting.check is _constant:
            raise SessionError("55P02", f'parameter "{name}" cannot be changed')
        if len(self._values) >= _SETTINGS_MAX and name not in self._values:
            raise SessionError("53400", f"more than {_SETTINGS_MAX} settings in one session")
        if self._before_transaction is None:
            self._before_transaction = dict(self._values)
        if local:
            self._local.setdefault(name, self._values.get(name))
        else:
            self._local.pop(name, None)
        self._put(name, value)

    def _put(self, name: str, value: str | None) -> None:
        self._changed()
        if value is None:
            self._values.pop(name, None)
        else:
            self._values[name] = value

    def _changed(self) -> None:
        self.changes += 1
        self._durations.clear()

    def reset_all(self) -> None:
        if self._before_transaction is None:
            self._before_transaction = dict(self._values)
        self._values.clear()
        self._local.clear()
        self._changed()

    @property
    def are_pending(self) -> bool:
        """Something was set in a transaction that is not over."""
        return self._before_transaction is not None

    def kept(self) -> Kept:
        return dict(self._values), dict(self._local)

    def go_back_to(self, kept: Kept) -> None:
        """To a savepoint: what was set since then is undone."""
        if kept != (self._values, self._local):
            values, local = kept
            self._values, self._local = dict(values), dict(local)
            self._changed()

    def end(self, *, committed: bool) -> None:
        """The transaction is over: what it set stays or goes with it."""
        if self._before_transaction is None:
            return
        if not committed:
            self._values = self._before_transaction
            self._changed()
        else:
            for name, value in self._local.items():
                self._put(name, value)
        self._local.clear()
        self._before_transaction = None

    def seconds(self, name: str) -> float | None:
        """A duration; None if it is off."""
        if name not in self._durations:
            match = _DURATION.fullmatch(self.get(name))
            assert match is not None, "durations are checked when they are set"
            self._durations[name] = float(match[1]) * _UNITS_MS[match[2] or "ms"] / 1000 or None
        return self._durations[name]

    def reported(self) -> dict[str, str]:
        """What clients are told on connecting, and of each change."""
        return {name: self.get(name) for name, setting in SETTINGS.items() if setting.reported}

    def all(self) -> list[tuple[str, str]]:
        """Everything, for SHOW ALL."""
        names = set(SETTINGS) | set(self._values) | set(self._started_with)
        return [(name, self.get(name)) for name in sorted(names, key=str.lower)]
