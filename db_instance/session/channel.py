"""A session's way to its client: what it needs of wire/postgres/connection.py."""

from collections.abc import Callable
from typing import Any, Protocol

from db_instance.wire.postgres.messages import Message, RunPrepared


class ClientGone(Exception):
    """The client closed the connection, or it broke."""


class IdleTooLong(Exception):
    """Nothing came from the client within the limit given to `receive`."""


class Channel(Protocol):
    def poll(self) -> Message | None:
        """The next message if it is here already and nothing else is to be done first."""
        ...

    async def receive(self, idle_limit_s: Callable[[], float | None] | None = None) -> Any:
        """The next message, or what was handed over; what was written is sent before waiting. Raises ClientGone, IdleTooLong,

        ProtocolViolation, or what the server ends the session with. The limit is asked for when it waits.
        """
        ...

    def unfold(self, message: RunPrepared) -> None:
        """Of what was just received only the Bind was taken: what follows is received again, message by message."""
        ...

    def put_back(self, packet: bytes) -> None:
        """What was handed over in the place of this packet has come to nothing: its messages are received after all."""
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
