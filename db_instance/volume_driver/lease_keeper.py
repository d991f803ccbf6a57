"""Keeps the writer's lease (lease.py) going: hears its confirmations, and asks for more where they run out."""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from db_instance.volume_driver.control_client import ControlClient, VolumeLayout
from db_instance.volume_driver.lease import Lease
from runtime.clock import Clock
from volume.errors import LeaseExpired, StaleEpoch, VolumeError
from volume.ids import Epoch
from volume.limits import BEAT_S, CALL_TIMEOUT_S, LEASE_S
from volume.quorum_set import QuorumSet


class Owner(Protocol):
    """What the lease's keeper needs of the driver."""

    epoch: Epoch
    fenced: asyncio.Future[StaleEpoch]

    def ask_nodes(self) -> None: ...
    def on_granted(self, layout: VolumeLayout) -> None: ...
    def on_fenced(self, reason: StaleEpoch) -> None: ...
    def spawn(self, work: Awaitable[None]) -> asyncio.Task[None]: ...


class LeaseKeeper:
    def __init__(self, owner: Owner, control: ControlClient, clock: Clock, timeout_s: float) -> None:
        self._owner = owner
        self._control = control
        self._clock = clock
        self._timeout_s = timeout_s
        self._lease = Lease()
        self._renewed = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None

    def holds(self) -> bool:
        """Is it certain that no newer writer has acknowledged anything?"""
        return self._clock.monotonic() < self._lease.until_s

    async def wait(self) -> None:
        """Before a read: return once it is certain again. Raises LeaseExpired when nobody confirms it for long."""
        deadline = self._clock.monotonic() + self._timeout_s
        while not self.holds():
            left = deadline - self._clock.monotonic()
            if self._owner.fenced.done() or left <= 0:
                raise LeaseExpired(
                    "read: too few storage nodes and no control plane confirm that this is still the writer"
                )
            self._owner.ask_nodes()
            self.ask_control()
            self._renewed.clear()
            try:
                async with asyncio.timeout(min(left, BEAT_S)):
                    await self._renewed.wait()
            except TimeoutError:
                continue

    def on_confirmed(self, node: str, sent_us: int, members: QuorumSet) -> None:
        self._lease.on_confirmed(node, sent_us, members)
        self._renewed.set()

    def on_members(self, members: QuorumSet) -> None:
        self._lease.on_members(members)

    async def watch(self) -> None:
        """Where storage alone does not confirm our epoch, the control plane may."""
        while True:
            if self._lease.until_s - self._clock.monotonic() < LEASE_S / 2:
                self.ask_control()
            await asyncio.sleep(BEAT_S)

    def ask_control(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = self._owner.spawn(self._confirm_with_control())

    async def _confirm_with_control(self) -> None:
        """It tells whether our epoch is the newest one granted, and who the members are."""
        sent = self._clock.monotonic()
        try:
            layout = await self._control.confirm(self._owner.epoch, timeout_s=CALL_TIMEOUT_S)
        except StaleEpoch as error:
            self._owner.on_fenced(error)
            return
        except VolumeError:
            return  # it may be down: then storage has to do
        self._lease.on_granted(sent)
        self._renewed.set()
        self._owner.on_granted(layout)
