"""Nodes that had no room lately: to make a segment, or to fill one. Pure.

Nothing is placed on them for a while. A node that says that twice as many bytes are free as when it had none is asked
again at once: it was full, and is empty.
"""

import math
from typing import Final

from control_plane.cluster.model import NodeId, NodeReport, lacks_room

REFUSED_S: Final = 300.0
"""For so long nothing is placed on a node whose disk could not have what it was asked for, and tells of no more room."""


class Refusals:
    def __init__(self) -> None:
        self._since: dict[NodeId, tuple[float, float]] = {}
        """When a node refused last, and the fewest free bytes that it has told of since."""

    def note(self, node: NodeId, now_s: float) -> None:
        """It could not make a segment."""
        self._since[node] = now_s, math.inf

    def forget(self, node: NodeId) -> None:
        """It made one."""
        self._since.pop(node, None)

    def look(self, node: NodeId, report: NodeReport, now_s: float) -> None:
        """What the node says of itself now."""
        if any(lacks_room(segment.state) for segment in report.segments):
            self._since[node] = now_s, report.free_bytes
        elif node in self._since:
            when_s, fewest = self._since[node]
            if report.free_bytes > 2 * fewest:
                del self._since[node]
            else:
                self._since[node] = when_s, min(fewest, report.free_bytes)

    def current(self, now_s: float) -> frozenset[NodeId]:
        return frozenset(node for node, (when_s, _) in self._since.items() if when_s > now_s - REFUSED_S)
