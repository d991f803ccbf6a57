"""What a client may say: one class for each message of the frontend."""

from typing import Final, NamedTuple

PROTOCOL_3: Final = 3
"""The major version that we speak; any minor one is answered with 3.0."""


class SslRequest(NamedTuple):
    pass


class GssEncRequest(NamedTuple):
    pass


class CancelRequest(NamedTuple):
    process_id: int
    secret: bytes


class Startup(NamedTuple):
    minor: int
    parameters: dict[str, str]
    unknown_options: list[str]
    """Protocol options (`_pq_.*`) that the client asked for and that we do not know."""


class Query(NamedTuple):
    sql: str


class Parse(NamedTuple):
    name: str
    sql: str
    param_types: tuple[int, ...]


class Bind(NamedTuple):
    portal: str
    statement: str
    param_formats: tuple[int, ...]
    params: list[bytes | None]
    result_formats: tuple[int, ...]


class Describe(NamedTuple):
    kind: str
    """"S" for a prepared statement, "P" for a portal."""
    name: str


class Execute(NamedTuple):
    portal: str
    max_rows: int


class RunPrepared(NamedTuple):
    """Bind, Describe, Execute and Sync as drivers send them to run a statement that they have prepared: of
    the unnamed portal, all its rows, nothing in between."""

    bind: Bind
    described: bool
    """Describe is among them."""


class Close(NamedTuple):
    kind: str
    name: str


class Sync(NamedTuple):
    pass


class Flush(NamedTuple):
    pass


class Terminate(NamedTuple):
    pass


class CopyData(NamedTuple):
    data: bytes


class CopyDone(NamedTuple):
    pass


class CopyFail(NamedTuple):
    reason: str


class Password(NamedTuple):
    """Also SASLInitialResponse and SASLResponse: what the body is, the authentication knows."""

    body: bytes


class FunctionCall(NamedTuple):
    pass


class NotText(NamedTuple):
    """A whole message, of which a text is not UTF-8."""

    found: bytes
    """The bytes that are none."""
    extended: bool
    """It was one of the extended query protocol: what follows up to Sync goes with it."""


StartupMessage = SslRequest | GssEncRequest | CancelRequest | Startup
Message = (
    Query
    | Parse
    | Bind
    | Describe
    | Execute
    | RunPrepared
    | Close
    | Sync
    | Flush
    | Terminate
    | CopyData
    | CopyDone
    | CopyFail
    | Password
    | FunctionCall
    | NotText
)
