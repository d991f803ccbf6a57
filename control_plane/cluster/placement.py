"""Where the six segments of a new group go: two in each of three AZs, each on another node.

Slots 0 and 1 lie in the first AZ, 2 and 3 in the second, 4 and 5 in the third. Nodes that answer
and whose disk is well come first, then the ones with fewer segments; names settle the rest, so that a control plane that
restarts half way places the same way again.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from control_plane.cluster.model import Group, Member, Node, NodeId
from volume.errors import QuorumLost
from volume.quorum import COPIES, COPIES_PER_ZONE

ZONES: Final = COPIES // COPIES_PER_ZONE

assert ZONES * COPIES_PER_ZONE == COPIES


def place(
    nodes: Iterable[Node], segments_on: Mapping[NodeId, int], fit: Collection[NodeId]
) -> tuple[Member, ...]:
    """Choose the six nodes of a new group; raises QuorumLost when three AZs with two nodes are not there."""

    def cost(node: Node) -> tuple[bool, int, str]:
        return node.id not in fit, segments_on.get(node.id, 0), node.id

    by_az: dict[str, list[Node]] = {}
    for node in sorted((node for node in nodes if not node.draining), key=cost):
        by_az.setdefault(node.az, []).append(node)
    chosen = {az: found[:COPIES_PER_ZONE] for az, found in by_az.items() if len(found) >= COPIES_PER_ZONE}
    if len(chosen) < ZONES:
        raise QuorumLost(
            f"place a group: {len(chosen)} AZs have {COPIES_PER_ZONE} storage nodes, {ZONES} are needed"
        )

    def cost_of_az(az: str) -> tuple[bool, int, str]:
        pair = chosen[az]
        unfit = any(node.id not in fit for node in pair)
        return unfit, sum(segments_on.get(node.id, 0) for node in pair), az

    cheapest = sorted(sorted(chosen, key=cost_of_az)[:ZONES])
    six = [node for az in cheapest for node in chosen[az]]
    assert len({node.id for node in six}) == COPIES
    return tuple(Member(slot, node.id) for slot, node in enumerate(six))


def replacement_for(
    group: Group, slot: int, nodes: Iterable[Node], load: Mapping[NodeId, int], usable: Collection[NodeId]
) -> NodeId | None:
    """The node that should hold the slot instead of the one that does; None if there is none.

    Two of a group to a zone. Only where no zone has room for it that answers at all (one is gone) does a
    third go to another zone; it comes back when the zone does (membership.py).
    """
    nodes = list(nodes)
    az_of = {node.id: node.az for node in nodes}
    taken = {member.node for member in group.members}
    # Of another slot that changes hands, the one who will hold it.
    others = {member.slot: member for member in (*group.voters, *group.replacements) if member.slot != slot}
    held = [az_of.get(member.node) for member in others.values()]
    free = [node for node in nodes if node.id in usable and node.id not in taken]
    with_room = [node for node in free if held.count(node.az) < COPIES_PER_ZONE]
    if not with_room:
        wanting = {node.az for node in nodes if held.count(node.az) < COPIES_PER_ZONE}
        if any(node.az in wanting and node.id in usable for node in nodes):
            return None  # the zone lives, but all its nodes hold a segment of the group already: add one
        with_room = free
    own = next((az_of.get(member.node) for member in group.members if member.slot == slot), None)

    def cost(node: Node) -> tuple[int, bool, int, str]:
        # Of zones without room the one with fewest: three and three survive a zone, two and four do not.
        crowd = max(held.count(node.az), COPIES_PER_ZONE - 1)
        return crowd, node.az != own, load.get(node.id, 0), node.id

    best = min(with_room, key=cost, default=None)
    return best.id if best is not None else None
