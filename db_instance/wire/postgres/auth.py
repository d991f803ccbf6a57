"""Who the client is. Trust for now: whoever reaches the port is whom they say they are.

An Authentication is a state machine without a socket: it is told what the client sent and answers
with what to send back, until it is `done` or raises AuthenticationFailed. SCRAM-SHA-256 becomes a
second class with the same two methods.
"""

from typing import Protocol

from db_instance.wire.postgres import backend


class AuthenticationFailed(Exception):
    """The client is not let in. The message is all that it learns."""

    sqlstate = "28000"


class Authentication(Protocol):
    @property
    def done(self) -> bool: ...

    def begin(self, user: str) -> bytes:
        """What to send to a client that has told its name."""
        ...

    def on_password(self, body: bytes) -> bytes:
        """What to answer to a password message, or to a step of SASL."""
        ...


class Trust:
    """Everybody is let in."""

    def __init__(self) -> None:
        self.done = False

    def begin(self, user: str) -> bytes:
        if not user:
            raise AuthenticationFailed("no PostgreSQL user name specified in startup packet")
        self.done = True
        return backend.AUTHENTICATION_OK

    def on_password(self, body: bytes) -> bytes:
        raise AuthenticationFailed("no password was asked for")
