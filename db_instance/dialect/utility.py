"""Statements that are not queries: transactions, settings, COPY, maintenance. Told apart by their first words."""

from collections.abc import Callable
from typing import Any, Final

from db_instance.dialect.lexer import Token, unquote
from db_instance.dialect.statement import SqlError, Statement

Reader = Callable[["Words"], Statement]


class Words:
    """The tokens of one statement, taken one after the other."""

    def __init__(self, tokens: list[Token], sql: str) -> None:
        self.sql = sql
        self._tokens = tokens
        self._at = 0

    def peek(self) -> str:
        """The next token in lower case; empty at the end."""
        return self._tokens[self._at].text.lower() if self._at < len(self._tokens) else ""

    def take(self) -> Token:
        if self._at >= len(self._tokens):
            raise SqlError("42601", "syntax error at end of input", len(self.sql) + 1)
        self._at += 1
        return self._tokens[self._at - 1]

    def accept(self, *words: str) -> bool:
        """Take these words if they come next."""
        texts = [token.text.lower() for token in self._tokens[self._at : self._at + len(words)]]
        if texts != list(words):
            return False
        self._at += len(words)
        return True

    def name(self) -> str:
        token = self.take()
        if token.kind not in ("word", "name"):
            raise SqlError("42601", f'syntax error at or near "{token.text}"', token.at + 1)
        return unquote(token)

    def end(self) -> None:
        if self._at < len(self._tokens):
            token = self._tokens[self._at]
            raise SqlError("42601", f'syntax error at or near "{token.text}"', token.at + 1)

    def rest(self) -> list[Token]:
        found, self._at = self._tokens[self._at :], len(self._tokens)
        return found


_ISOLATION: Final = ("read committed", "read uncommitted", "repeatable read", "serializable")


def _modes(words: Words) -> dict[str, Any]:
    """ISOLATION LEVEL ..., READ ONLY, READ WRITE, [NOT] DEFERRABLE, in any order."""
    details: dict[str, Any] = {}
    while words.peek():
        words.accept(",")
        if words.accept("isolation", "level"):
            details["isolation"] = next((each for each in _ISOLATION if words.accept(*each.split())), None)
            if details["isolation"] is None:
                raise SqlError("42601", f'syntax error at or near "{words.peek()}"')
        elif words.accept("read", "only"):
            details["read_only"] = True
        elif words.accept("read", "write"):
            details["read_only"] = False
        elif not (words.accept("not", "deferrable") or words.accept("deferrable")):
            words.end()
    return details


def _begin(words: Words) -> Statement:
    _ = words.accept("transaction") or words.accept("work")
    return Statement("begin", tag="BEGIN", details=_modes(words))


def _start(words: Words) -> Statement:
    if not words.accept("transaction"):
        words.end()
    return Statement("begin", tag="START TRANSACTION", details=_modes(words))


def _commit(words: Words) -> Statement:
    _ = words.accept("transaction") or words.accept("work")
    _ = words.accept("and", "no", "chain")
    words.end()
    return Statement("commit", tag="COMMIT")


def _rollback(words: Words) -> Statement:
    _ = words.accept("transaction") or words.accept("work")
    if words.accept("to"):
        words.accept("savepoint")
        return _savepoint_like("rollback_to", "ROLLBACK", words)
    _ = words.accept("and", "no", "chain")
    words.end()
    return Statement("rollback", tag="ROLLBACK")


def _savepoint_like(kind: str, tag: str, words: Words) -> Statement:
    name = words.name()
    words.end()
    return Statement(kind, tag=tag, details={"name": name})


def _release(words: Words) -> Statement:
    words.accept("savepoint")
    return _savepoint_like("release", "RELEASE", words)


def _set(words: Words) -> Statement:
    local = words.accept("local")
    _ = words.accept("session")
    if words.accept("characteristics", "as", "transaction"):
        return Statement("set", tag="SET", details={"name": "transaction", "session": True, **_modes(words)})
    if words.accept("transaction"):
        return Statement("set", tag="SET", details={"name": "transaction", **_modes(words)})
    if words.accept("time", "zone"):
        name = "timezone"
    else:
        name = words.name()
        while words.accept("."):
            name += "." + words.name()
        if not (words.accept("=") or words.accept("to")):
            words.take()
            words.end()
    value = _setting_value(words.rest())
    return Statement("set", tag="SET", details={"name": name, "value": value, "local": local})


def _setting_value(tokens: list[Token]) -> str | None:
    """The value as one text; None for DEFAULT."""
    if len(tokens) == 1 and tokens[0].text.lower() == "default":
        return None
    text = ""
    for token in tokens:
        text += ", " if token.text == "," else unquote(token)
    return text


def _show(words: Words) -> Statement:
    name = "_".join(unquote(token) for token in words.rest() if token.text != ".")
    aliases = {"transaction_isolation_level": "transaction_isolation", "time_zone": "timezone"}
    return Statement("show", tag="SHOW", returns_rows=True, details={"name": aliases.get(name, name)})


def _reset(words: Words) -> Statement:
    return Statement("reset", tag="RESET", details={"name": words.name()})


def _discard(words: Words) -> Statement:
    what = words.name()
    return Statement("discard", tag=f"DISCARD {what.upper()}", details={"what": what})


def _deallocate(words: Words) -> Statement:
    words.accept("prepare")
    name: str | None = words.name()
    tag = "DEALLOCATE ALL" if name == "all" else "DEALLOCATE"
    return Statement("deallocate", tag=tag, details={"name": None if name == "all" else name})


def _table_name(words: Words) -> str:
    name = words.name()
    while words.accept("."):
        name = words.name()
    return name


def _copy(words: Words) -> Statement:
    if words.accept("("):
        depth, query = 1, []
        while depth:
            token = words.take()
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            query.append(token)
        source = words.sql[query[0].at : query[-1].at]
        return _copy_rest(words, {"query": source, "table": None, "columns": ()})
    details: dict[str, Any] = {"query": None, "table": _table_name(words), "columns": ()}
    if words.accept("("):
        columns = [words.name()]
        while words.accept(","):
            columns.append(words.name())
        if not words.accept(")"):
            words.end()
        details["columns"] = tuple(columns)
    return _copy_rest(words, details)


def _copy_rest(words: Words, details: dict[str, Any]) -> Statement:
    incoming = words.accept("from")
    if not incoming and not words.accept("to"):
        words.take()
        words.end()
    if not (words.accept("stdin") or words.accept("stdout")):
        raise SqlError(
            "0A000",
            "COPY works with STDIN and STDOUT only",
            hint="use \\copy in psql for files of the client",
        )
    words.accept("with")
    details["options"] = _copy_options(words)
    if incoming:
        return Statement("copy_from", tag="COPY", reads_only=False, details=details)
    return Statement("copy_to", tag="COPY", details=details)


def _copy_options(words: Words) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if words.accept("("):
        while not words.accept(")"):
            name = words.name()
            value: Any = True
            if words.peek() not in (",", ")"):
                value = unquote(words.take())
            options[name] = value
            words.accept(",")
    while words.peek():
        name = words.name()
        words.accept("as")
        if name in ("csv", "binary"):
            options["format"] = name
        elif name in ("header", "freeze"):
            options[name] = True
        else:
            options[name] = unquote(words.take())
    return options


def _noop(tag: str) -> Reader:
    return lambda _words: Statement("noop", tag=tag)


def _unsupported(what: str) -> Reader:
    def refuse(_words: Words) -> Statement:
        raise SqlError("0A000", f"{what} is not supported")

    return refuse


_READERS: Final[dict[str, Reader]] = {
    "begin": _begin,
    "start": _start,
    "commit": _commit,
    "end": _commit,
    "rollback": _rollback,
    "abort": _rollback,
    "savepoint": lambda words: _savepoint_like("savepoint", "SAVEPOINT", words),
    "release": _release,
    "set": _set,
    "show": _show,
    "reset": _reset,
    "discard": _discard,
    "deallocate": _deallocate,
    "copy": _copy,
    "vacuum": _noop("VACUUM"),
    "analyze": _noop("ANALYZE"),
    "checkpoint": _noop("CHECKPOINT"),
    "cluster": _noop("CLUSTER"),
    "reindex": _noop("REINDEX"),
    "comment": _noop("COMMENT"),
    "unlisten": _noop("UNLISTEN"),
    "close": _noop("CLOSE CURSOR"),
    "lock": _noop("LOCK TABLE"),
}
_READERS.update(
    {
        word: _unsupported(word.upper())
        for word in (
            "listen",
            "notify",
            "declare",
            "fetch",
            "move",
            "do",
            "call",
            "grant",
            "revoke",
            "prepare",
        )
    }
)
_READERS.update(
    {word: _unsupported(word.upper()) for word in ("execute", "explain", "import", "load", "security")}
)


def utility(tokens: list[Token], sql: str) -> Statement | None:
    """The statement if it is no query and no definition; None otherwise."""
    words = Words(tokens, sql)
    reader = _READERS.get(words.peek())
    if reader is None:
        return None
    words.take()
    return reader(words)
