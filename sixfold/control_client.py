"""Asks the control plane, and in its absence an instance, from code that is not asynchronous."""

import asyncio
import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

from control_plane.agents import Agents
from control_plane.cluster.model import InstanceReport, Wanted
from proto import control_pb2
from runtime.grpc_transport import GrpcTransport
from volume.errors import VolumeError

PREFIX: Final = "/sixfold.control.Control/"

STATUS_S_MAX: Final = 2.0
SET_WANTED_S_MAX: Final = 5.0
CHANGE_S_MAX: Final = 5.0
REMOVE_S_MAX: Final = 30.0
"""A local node's process is ended, and its folder deleted."""

SCRUB_S_MAX: Final = 8.0
"""The control plane waits up to 5 s for a storage node."""

SHUTDOWN_S_MAX: Final = 40.0
"""Longer than the control plane takes at most: two rounds of SIGTERM, deadline and SIGKILL."""


class ControlClient:
    """One connection; every call has a deadline and raises VolumeError."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._runner = asyncio.Runner()
        self._transport: GrpcTransport | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            self._runner.run(self._transport.close())
        self._runner.close()

    def status(self) -> dict[str, Any]:
        reply = self._call("Status", control_pb2.StatusRequest().SerializeToString(), STATUS_S_MAX)
        found: dict[str, Any] = json.loads(control_pb2.StatusReply.FromString(reply).json)
        return found

    def set_wanted(self, target: str, wanted: Wanted) -> list[str]:
        request = control_pb2.SetWantedRequest(target=target, wanted=wanted)
        reply = self._call("SetWanted", request.SerializeToString(), SET_WANTED_S_MAX)
        return list(control_pb2.SetWantedReply.FromString(reply).process)

    def add_node(self, node: str, az: str, address: str) -> None:
        request = control_pb2.AddNodeRequest(node=node, az=az, address=address)
        self._call("AddNode", request.SerializeToString(), CHANGE_S_MAX)

    def drain(self, node: str, *, undo: bool = False) -> int:
        """How many segments are still there."""
        request = control_pb2.DrainRequest(node=node, undo=undo)
        reply = self._call("Drain", request.SerializeToString(), CHANGE_S_MAX)
        return control_pb2.DrainReply.FromString(reply).segments

    def remove_node(self, node: str) -> None:
        request = control_pb2.RemoveNodeRequest(node=node)
        self._call("RemoveNode", request.SerializeToString(), REMOVE_S_MAX)

    def scrub(self, nodes: Sequence[str], *, start: bool) -> dict[str, dict[str, Any]]:
        """By node: how far its last scrub is, or why it does not say. No nodes: all of them."""
        request = control_pb2.ScrubRequest(start=start, node=nodes)
        reply = self._call("Scrub", request.SerializeToString(), SCRUB_S_MAX)
        found: dict[str, dict[str, Any]] = json.loads(control_pb2.ScrubReply.FromString(reply).json)
        return found

    def accept_loss(self, group: int) -> None:
        request = control_pb2.AcceptLossRequest(group=group)
        self._call("AcceptLoss", request.SerializeToString(), CHANGE_S_MAX)

    def shutdown(self) -> None:
        self._call("Shutdown", control_pb2.ShutdownRequest().SerializeToString(), SHUTDOWN_S_MAX)

    def instance_status(self, address: str, timeout_s: float) -> InstanceReport | None:
        """What an instance says of itself; None if it does not answer."""

        async def ask() -> InstanceReport:
            return await Agents(self._open()).instance_status(address, timeout_s)

        try:
            return self._runner.run(ask())
        except VolumeError:
            return None

    def _call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        async def call() -> bytes:
            return await self._open().call(self._address, PREFIX + method, request, timeout_s=timeout_s)

        return self._runner.run(call())

    def _open(self) -> GrpcTransport:
        if self._transport is None:
            self._transport = GrpcTransport()
        return self._transport
