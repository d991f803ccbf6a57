"""Memberships between proto/storage.proto and volume/quorum_set.py."""

from collections.abc import Iterable

from proto import storage_pb2
from volume.errors import InvalidRequest
from volume.ids import GroupId, VolumeId
from volume.quorum_set import Member, QuorumSet, problem_with


def membership_of(epoch: int, told: Iterable[storage_pb2.Member], doing: str) -> QuorumSet:
    """Raises InvalidRequest unless these are members of one group."""
    members = tuple(Member(each.slot, each.node, each.address, each.az, each.filling) for each in told)
    problem = problem_with(members)
    if problem or epoch < 1:
        raise InvalidRequest(f"{doing}: {problem or 'no membership epoch'}")
    return QuorumSet(epoch, members)


def membership_message(volume: VolumeId, group: GroupId, membership: QuorumSet) -> storage_pb2.Membership:
    return storage_pb2.Membership(
        volume=volume,
        group=group,
        epoch=membership.epoch,
        member=[
            storage_pb2.Member(
                slot=each.slot, node=each.node, address=each.address, az=each.az, filling=each.filling
            )
            for each in membership.members
        ],
    )
