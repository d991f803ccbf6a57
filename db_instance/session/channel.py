"""A session's way to its client. wire/postgres/connection.py is the real one; tests have a list."""

from typing import Protocol

from db_instance.wire.postgres.messages import Message


class ClientGone(Exception):
    """The client closed the connection, or it broke."""


class IdleTooLong(Exception):
    """Nothing came from the client within the limit given to `receive`."""


class Channel(Protocol):
    async def receive(self, idle_limit_s: float | None = None) -> Message:
        """The next message; what was written is sent before waiting. Raises ClientGone, IdleTooLong,

        ProtocolViolation, or what the server ends the session with.
        """
        ...

    def write(self, data: bytes) -> None:
        """Say something; it is sent with what follows, at the latest when the session waits."""
        ...

    @property
    def full(self) -> bool:
        """Much is written: `flush` before writing more."""
        ...

    async def flush(self) -> None:
        """Send what was written, and wait while the client is slow to read. Raises ClientGone."""
        ...

    def sequence_ends(self) -> None:
        """What was written up to here is the whole answer of a request."""
        ...
