"""For how long a writer may go on answering reads: no newer one can have acknowledged anything before. Pure.

Storage confirms a writer's epoch at each beat, for LEASE_S from the moment at which the beat was sent. A
newer writer needs promises of three of the six slots of group 0, without which nothing is ever committed;
so while four of them have confirmed us, one of any three has, and tells the newer writer how long to wait
(opening.py). With fewer than four, the control plane can confirm that it has granted no newer epoch.
"""

from volume.ids import Lsn
from volume.limits import LEASE_S
from volume.quorum_set import QuorumSet


class Lease:
    def __init__(self) -> None:
        self._confirmed_us: dict[str, Lsn] = {}
        self._granted_s = 0.0
        self.until_s = 0.0

    def on_confirmed(self, node: str, sent_us: int, members: QuorumSet) -> None:
        """A storage node has answered the beat that was sent at this time of our clock."""
        if sent_us > self._confirmed_us.get(node, 0):
            self._confirmed_us[node] = Lsn(sent_us)
            self.on_members(members)

    def on_members(self, members: QuorumSet) -> None:
        """Four slots confirm up to the time that the fourth has: as for LSNs, all members of a slot count."""
        sent_us = members.complete_lsn(self._confirmed_us)
        self.until_s = max(self._granted_s, sent_us / 1e6 + LEASE_S if sent_us else 0.0)

    def on_granted(self, sent_s: float) -> None:
        """The control plane has granted no newer epoch."""
        self._granted_s = max(self._granted_s, sent_s + LEASE_S)
        self.until_s = max(self.until_s, self._granted_s)
