"""Delay: what a host sends is caught at its port of the bridge, and put into the bridge a while later.

The kernel's own delay (netem) is not in every kernel, so it is done here. While it goes on, a filter drops
everything that comes in at the port. A packet socket still sees it, for sockets come before filters. What it
sees goes out again, in order, by a second port of the bridge, which does not learn addresses.
"""

import select
import socket
import threading
import time
from collections import deque
from typing import Final

_EVERY_PROTOCOL: Final = 0x0003
_SOL_PACKET: Final = 263
_PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 15, 23
_SO_RCVBUFFORCE: Final = 33
_FRAME_BYTES_MAX: Final = 1 << 17
_BUFFER_BYTES: Final = 1 << 24
_LOOK_S: Final = 0.05


class HeldFrames:
    """From `start` to `stop`, what comes in at one port leaves at the other `delay_s` later."""

    def __init__(self, port: str, way_out: str, delay_s: float) -> None:
        self._delay_s = delay_s
        self._source = _packet_socket(port)
        self._source.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self._source.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._target = _packet_socket(way_out)
        self._held: deque[tuple[float, bytes]] = deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What is still held is lost."""
        self._stopping.set()
        self._thread.join()
        self._source.close()
        self._target.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            now = time.monotonic()
            while self._held and self._held[0][0] <= now:
                self._send(self._held.popleft()[1])
            wait_s = min(_LOOK_S, self._held[0][0] - now) if self._held else _LOOK_S
            if select.select([self._source], [], [], max(0.0, wait_s))[0]:
                frame = self._source.recv(_FRAME_BYTES_MAX)
                self._held.append((time.monotonic() + self._delay_s, frame))

    def _send(self, frame: bytes) -> None:
        try:
            self._target.send(frame)
        except OSError:
            pass  # too many at once: lost, as on any wire


def _packet_socket(interface: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL))
    # Frames carry their checksums and sizes as the kernel left them: unfinished, and said so in a header.
    made.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    made.bind((interface, _EVERY_PROTOCOL))
    return made
