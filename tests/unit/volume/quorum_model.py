"""Members of a group, written as one word a slot: `a b c d e f+g` has G filling beside F, `+g` G without F."""

from volume.quorum_set import Member, QuorumSet


def quorum_set(words: str, epoch: int = 1) -> QuorumSet:
    return QuorumSet(epoch, members(words))


def members(words: str) -> tuple[Member, ...]:
    return tuple(
        Member(slot, node, f"{node}:1", f"az{slot // 2 + 1}", filling=bool(place))
        for slot, word in enumerate(words.split())
        for place, node in enumerate(word.split("+"))
        if node
    )
