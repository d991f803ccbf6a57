"""What a metadata store promises, whichever one it is.

Each method is one transaction: when it returns, its change is durable and everybody sees it; when
it raises, nothing has changed. Epochs only ever grow, by compare-and-swap.
"""

from collections.abc import Sequence
from typing import Protocol

from control_plane.cluster.model import Instance, Member, Node, NodeId, Reason, Volume
from volume.ids import Epoch, GroupId, Lsn


class Metadata(Protocol):
    async def put_nodes(self, nodes: Sequence[Node], instances: Sequence[Instance]) -> None:
        """Take in these nodes and instances; known ones get the new address, none is forgotten.

        Members know each other by address: a group with one that has moved is in its next membership epoch.
        """
        ...

    async def nodes(self) -> tuple[Node, ...]: ...

    async def instances(self) -> tuple[Instance, ...]: ...

    async def volumes(self) -> tuple[Volume, ...]: ...

    async def volume(self, name: str) -> Volume:
        """Raises InvalidRequest when there is none of that name."""
        ...

    async def create_volume(self, name: str, segment_size: int) -> Volume:
        """A volume without groups, in epoch 0. An existing one is answered as it is."""
        ...

    async def grant_epoch(self, name: str, expected: Epoch, writer: str) -> Volume:
        """Raise the epoch by one and record its writer.

        Raises StaleEpoch unless the epoch is the expected one; 0 expects nothing.
        """
        ...

    async def add_group(self, name: str, group: GroupId, born_lsn: Lsn, members: Sequence[Member]) -> Volume:
        """Append a group, in membership epoch 1. An existing one stays as it is."""
        ...

    async def mark_created(self, name: str, group: GroupId, slot: int, node: NodeId) -> None:
        """The node has confirmed that it holds the segment."""
        ...

    async def set_draining(self, node: NodeId, draining: bool) -> None:
        """Raises InvalidRequest when there is none of that name."""
        ...

    async def remove_node(self, node: NodeId) -> None:
        """Forget it. Raises InvalidRequest when there is none of that name, when it holds a segment or is about
        to, and when fewer than six would be left.
        """
        ...

    async def begin_change(
        self, name: str, group: GroupId, expected: Epoch, slot: int, target: NodeId, reason: Reason
    ) -> Volume:
        """The next membership epoch, in which a replacement on `target` is filled beside the slot's member.

        If that member was on the same node, it is gone. Raises StaleMembership unless the epoch is as expected.
        """
        ...

    async def end_change(
        self, name: str, group: GroupId, expected: Epoch, slot: int, *, keep_new: bool
    ) -> Volume:
        """The next membership epoch, with the replacement alone in the slot, or the old member again."""
        ...

    async def accept_loss(self, name: str, group: GroupId) -> None:
        """An operator wants the group rebuilt from fewer copies than a read quorum."""
        ...

    async def end_loss(self, name: str, group: GroupId) -> None:
        """It has a read quorum again."""
        ...

    async def close(self) -> None: ...
