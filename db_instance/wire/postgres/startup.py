"""What happens before a client is in a session: encryption is declined, then it tells its name."""

import shlex
from dataclasses import dataclass, field

from db_instance.session.errors import FatalError
from db_instance.wire.postgres import backend
from db_instance.wire.postgres.auth import Authentication, AuthenticationFailed
from db_instance.wire.postgres.connection import Connection
from db_instance.wire.postgres.messages import (
    PROTOCOL_3,
    CancelRequest,
    GssEncRequest,
    Password,
    SslRequest,
    Startup,
)

_REFUSALS_MAX = 4


@dataclass(frozen=True, slots=True)
class Client:
    """Who wants a session, and with which settings."""

    user: str
    database: str
    settings: dict[str, str] = field(default_factory=dict)


async def introduce(connection: Connection) -> Startup | CancelRequest:
    """Answer what comes before the startup message. Raises ProtocolViolation."""
    for _ in range(_REFUSALS_MAX):
        message = await connection.receive_startup()
        if isinstance(message, SslRequest | GssEncRequest):
            connection.write(backend.SSL_REFUSED)
            continue
        return message
    raise FatalError("08P01", "too many encryption requests")


async def authenticate(connection: Connection, startup: Startup, authentication: Authentication) -> Client:
    """Let the client in, or raise FatalError."""
    if startup.minor or startup.unknown_options:
        connection.write(backend.negotiate_protocol_version(PROTOCOL_3 << 16, startup.unknown_options))
    client = _client(startup)
    try:
        connection.write(authentication.begin(client.user))
        while not authentication.done:
            message = await connection.receive()
            if not isinstance(message, Password):
                raise FatalError("08P01", "expected a password response")
            connection.write(authentication.on_password(message.body))
    except AuthenticationFailed as error:
        raise FatalError(error.sqlstate, str(error)) from None
    return client


def _client(startup: Startup) -> Client:
    parameters = dict(startup.parameters)
    user = parameters.pop("user", "")
    database = parameters.pop("database", "") or user
    if parameters.pop("replication", "off").lower() not in ("off", "false", "no", "0"):
        raise FatalError("0A000", "replication connections are not supported")
    settings = _options(parameters.pop("options", ""))
    return Client(user, database, settings | parameters)


def _options(text: str) -> dict[str, str]:
    """Settings given as a server's command line: "-c statement_timeout=5s --search_path=public"."""
    settings: dict[str, str] = {}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise FatalError("08P01", f"invalid options in startup packet: {error}") from None
    while words:
        word = words.pop(0)
        if word == "-c" and words:
            word = words.pop(0)
        elif word.startswith(("-c", "--")):
            word = word[2:]
        else:
            raise FatalError("42601", f"invalid command-line argument for server process: {word}")
        name, equals, value = word.partition("=")
        if not equals:
            raise FatalError("42601", f"option {name} requires a value")
        settings[name.replace("-", "_")] = value
    return settings
