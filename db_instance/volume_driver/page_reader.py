"""Reads pages of one storage node over one stream: many requests at a time, each answered by its number.

The stream is opened by the first request and again by the first one after it broke; a break fails what was
under way, and whoever asked asks another node.
"""

import asyncio
from typing import Final

from proto import storage_pb2
from runtime.transport import Stream, Transport
from volume.errors import DeadlineExceeded, PeerUnavailable, VolumeBusy, VolumeError, told_error
from volume.limits import CALL_TIMEOUT_S

_READ_PAGES: Final = "/sixfold.storage.Storage/ReadPages"
_UNDER_WAY_MAX: Final = 10_000


class PageReader:
    def __init__(self, transport: Transport, address: str) -> None:
        self._transport = transport
        self._address = address
        self._stream: Stream | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[storage_pb2.ReadPagesReply]] = {}
        self._last_id = 0

    async def read(self, request: storage_pb2.ReadPagesRequest) -> storage_pb2.ReadPagesReply:
        """Raises what the node answers, PeerUnavailable, DeadlineExceeded."""
        if len(self._waiting) >= _UNDER_WAY_MAX:
            raise VolumeBusy(f"read from {self._address}: {_UNDER_WAY_MAX} reads are under way")
        stream = self._open()
        self._last_id = request.id = self._last_id + 1
        answer: asyncio.Future[storage_pb2.ReadPagesReply] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = answer
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await stream.send(request.SerializeToString())
                reply = await answer
        except TimeoutError:
            raise DeadlineExceeded(f"read from {self._address}: no answer in time") from None
        finally:
            self._waiting.pop(request.id, None)
        if reply.error:
            raise told_error(reply.error)
        return reply

    def _open(self) -> Stream:
        if self._stream is None:
            self._stream = self._transport.open_stream(self._address, _READ_PAGES)
            self._receiver = asyncio.create_task(self._receive(self._stream))
        return self._stream

    async def _receive(self, stream: Stream) -> None:
        reason: VolumeError = PeerUnavailable(f"read from {self._address}: the stream has ended")
        try:
            while (data := await stream.receive()) is not None:
                reply = storage_pb2.ReadPagesReply.FromString(data)
                answer = self._waiting.get(reply.id)
                if answer is not None and not answer.done():
                    answer.set_result(reply)
        except VolumeError as error:
            reason = error
        finally:
            self._stream = None
            stream.cancel()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(reason)

    async def close(self) -> None:
        if self._receiver is not None:
            self._receiver.cancel()
            await asyncio.gather(self._receiver, return_exceptions=True)
