"""Where the six segments of a new group go: two in each of three AZs, each on another node.

Slots 0 and 1 lie in the first AZ, 2 and 3 in the second, 4 and 5 in the third. Nodes that answer
come first, then the ones with fewer segments; names settle the rest, so that a control plane that
restarts half way places the same way again.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from control_plane.cluster.model import Member, Node, NodeId
from volume.errors import QuorumLost
from volume.quorum import COPIES, COPIES_PER_ZONE

ZONES: Final = COPIES // COPIES_PER_ZONE

assert ZONES * COPIES_PER_ZONE == COPIES


def place(
    nodes: Iterable[Node], segments_on: Mapping[NodeId, int], answering: Collection[NodeId]
) -> tuple[Member, ...]:
    """Choose the six nodes of a new group; raises QuorumLost when three AZs with two nodes are not there."""

    def cost(node: Node) -> tuple[bool, int, str]:
        return node.id not in answering, segments_on.get(node.id, 0), node.id

    by_az: dict[str, list[Node]] = {}
    for node in sorted(nodes, key=cost):
        by_az.setdefault(node.az, []).append(node)
    chosen = {az: found[:COPIES_PER_ZONE] for az, found in by_az.items() if len(found) >= COPIES_PER_ZONE}
    if len(chosen) < ZONES:
        raise QuorumLost(
            f"place a group: {len(chosen)} AZs have {COPIES_PER_ZONE} storage nodes, {ZONES} are needed"
        )

    def cost_of_az(az: str) -> tuple[bool, int, str]:
        pair = chosen[az]
        unanswering = any(node.id not in answering for node in pair)
        return unanswering, sum(segments_on.get(node.id, 0) for node in pair), az

    cheapest = sorted(sorted(chosen, key=cost_of_az)[:ZONES])
    six = [node for az in cheapest for node in chosen[az]]
    assert len({node.id for node in six}) == COPIES
    return tuple(Member(slot, node.id) for slot, node in enumerate(six))
