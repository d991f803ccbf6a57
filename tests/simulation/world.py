"""The simulated cluster: six real storage nodes, real db instances, made-up disks, network and time."""

import asyncio
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from db_instance.config import InstanceConfig
from db_instance.engine.engine import Engine
from db_instance.instance import Instance
from storage_node.node import StorageNode
from storage_node.segment_store import SegmentStore
from tests.simulation import control, histories
from tests.simulation.bank import EXPECTED, Bank, Ledger
from tests.simulation.control import Control
from tests.simulation.disk_watch import DiskWatch
from tests.simulation.histories import Histories
from tests.simulation.nodes import start_node
from tests.simulation.process import Process
from tests.simulation.sim_clock import SimClock
from tests.simulation.sim_disk import SimDisk
from tests.simulation.sim_transport import Network
from tests.simulation.trace import Trace
from volume.errors import VolumeError
from volume.ids import Epoch, GroupId, Lsn, VolumeId
from volume.timeline import Timeline

_LOOK_EVERY_S = 0.03
ZONES = {"s1": "az1", "s2": "az1", "s3": "az2", "s4": "az2", "s5": "az3", "s6": "az3"}
"""The six that every run has; up to two spare ones join them."""


@dataclass(slots=True)
class Node:
    """One storage node's machine: its disk outlives its processes."""

    name: str
    disk: SimDisk
    clock: SimClock = field(default_factory=SimClock)
    process: Process | None = None
    service: StorageNode | None = None
    damaged: bool = False
    """Bits rotted, or the disk refused writes, since it was last looked at."""
    acknowledged: dict[tuple[VolumeId, GroupId], tuple[Lsn, Epoch]] = field(default_factory=dict)
    """What its segments had told to be durable when it was stopped, and in which timeline."""

    def note_acknowledged(self) -> None:
        segments = self.service.segments.values() if self.service is not None else ()
        self.acknowledged = {
            segment.key: (segment.chain.durable_scl, segment.chain.timeline.epoch)
            for segment in segments
            if segment.failed is None and not segment.removed
        }
        self.damaged |= self.disk.faults.broken or self.disk.faults.full

    def check_acknowledged(self) -> None:
        """What the disk had acknowledged it still has, unless it was damaged."""
        assert self.service is not None
        for key, (scl, epoch) in self.acknowledged.items() if not self.damaged else ():
            segment = self.service.segments.get(key)
            assert segment is not None, f"{self.name} has lost its segment of pg{key[1]}"
            if segment.failed is None and segment.chain.timeline.epoch == epoch:
                now = segment.chain.scl
                assert now >= scl, f"{self.name} acknowledged lsn {scl} of {segment.id} and has {now}"
        self.damaged = False


@dataclass(slots=True)
class Writer:
    name: str
    process: Process
    instance: Instance
    clock: SimClock
    engine: Engine | None = None
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    clients: list[asyncio.Task[None]] = field(default_factory=list)
    task: asyncio.Task[None] = field(init=False)
    """Its life: done when it was fenced, or met what it cannot live with."""


class World:
    def __init__(self, seed: int, trace: Trace) -> None:
        self.dice = random.Random(seed)
        self.trace = trace
        self.network = Network(self.dice)
        self.watch = DiskWatch()
        self.ledger = Ledger()
        self.bank = Bank(self.dice, self.ledger, padding_max=self.dice.choice([0, 3_000, 20_000]))
        self.histories = Histories(self.dice)
        self.bank.is_newest = lambda engine: engine.pages.driver.epoch == self.control.newest_epoch
        self.bank.on_acknowledged = self._check_durable
        spares = self.dice.choice([0, 1, 2])
        self.zones = ZONES | {
            f"s{7 + number}": self.dice.choice(["az1", "az2", "az3"]) for number in range(spares)
        }
        self.nodes = {name: Node(name, SimDisk(self.dice)) for name in self.zones}
        for name, node in self.nodes.items():
            self.watch.look(name, node.disk)
        self.writers: list[Writer] = []
        """All that live, in the order in which they were started."""
        self.openings = 0
        self.checked_lsns = 0
        self.pages_compared = 0
        self.bits_flipped = 0
        self.writers_died_halfway = 0
        """In the middle of a commit of which a part was sent."""
        self.disks_lied = 0
        self.disks_unreadable = 0
        self.disks_lost = 0
        self.copies_troubled = 0
        """Something happened while a node was being filled."""
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Somebody met what no run may have."""
        self._checked: dict[int, Lsn] = {}
        """By epoch: how far the disks were compared with what was acknowledged."""
        self._restarts: list[asyncio.Task[None]] = []
        self._members_checked: dict[GroupId, int] = {}
        self._newest = Timeline(Epoch(0))
        """The newest timeline that any segment has had: those that run may all be behind."""
        self._cache_mib = self.dice.choice([0, 0, 1])
        self._pages_per_group = self.dice.choice([16, 32, 64])
        self.control = Control(
            self.network, self.dice, list(self.zones.items()), self._pages_per_group * 4096
        )

    async def start(self) -> None:
        asyncio.create_task(self.watch_segments()).add_done_callback(self._on_ended)
        await self.control.start()
        for name in self.nodes:
            await self.start_node(name)

    async def watch_segments(self) -> None:
        """What a segment has told to be durable it never takes back, unless a newer timeline does."""
        told: dict[SegmentStore, tuple[Epoch, Lsn]] = {}
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            services = [node.service for node in self.nodes.values() if node.service is not None]
            segments = [segment for service in services for segment in service.segments.values()]
            for segment in segments:
                if segment.chain.timeline.epoch > self._newest.epoch:
                    self._newest = segment.chain.timeline
            self._check_new_members()
            for node in self.nodes.values():
                if node.service is not None and node.service.must_restart.is_set():
                    # Whoever watches over processes starts one again that ended to be.
                    node.service.must_restart.clear()
                    task = asyncio.create_task(self._restart(node))
                    task.add_done_callback(self._on_ended)
                    self._restarts.append(task)
            for segment in segments:
                now = segment.chain.timeline.epoch, segment.chain.durable_scl
                before = told.get(segment, now)
                assert now >= before, f"{segment.node} {segment.id}: (epoch, scl) {before}, and later {now}"
                told[segment] = now

    def _check_new_members(self) -> None:
        """When a group's members have changed, what was acknowledged is on four of the new ones."""
        for group in self.control.groups():
            if group.membership_epoch == self._members_checked.get(group.id, 1):
                continue
            self._members_checked[group.id] = group.membership_epoch
            acknowledged = max(self._checked.values(), default=Lsn(0))
            members = {group.id: {member.node for member in group.voters}}
            few = self.watch.too_few_of_what_counts(acknowledged, self._newest.counts, members)
            assert not few, (
                f"members {sorted(members[group.id])} of pg{group.id}, but (lsn, disks): {few[:5]}"
            )

    def describe(self) -> str:
        """Where everybody stands, for a run that does not come to rest."""
        rows = [f"{len(self.ledger.acknowledged)} acknowledged"]
        for group in self.control.groups():
            members = ", ".join(
                f"{member.slot}: {member.node}{' filling' if member.filling else ''}"
                for member in group.members
            )
            rows.append(f"pg{group.id} membership {group.membership_epoch}: {members}")
        for writer in self.writers:
            driver = writer.instance.driver
            lsns = f"vdl {driver.vdl} of {driver.last_lsn}" if driver is not None else "no driver"
            rows.append(f"{writer.name} {writer.instance.state}: {lsns}")
        for name, node in self.nodes.items():
            for segment in node.service.segments.values() if node.service is not None else ():
                chain = segment.chain
                rows.append(
                    f"{name} {segment.id} {segment.state}: scl {chain.durable_scl} of {chain.scl},"
                    f" vdl {chain.known_vdl}, epochs {chain.promised}/{chain.timeline.epoch},"
                    f" flushed {segment.flushed_lsn}, log from {segment.layers.log_start},"
                    f" membership {segment.membership.epoch}"
                )
        return "\n  ".join(rows)

    # Storage nodes

    async def start_node(self, name: str) -> None:
        node = self.nodes[name]
        assert node.process is None
        node.process = Process(name)
        host = self.network.host(name, node.process)
        self.trace.note("start", node=name)
        process = node.process
        try:
            node.service = await start_node(
                name, self.zones[name], node.disk, host, process, node.clock, self.dice
            )
        except (OSError, VolumeError, asyncio.CancelledError) as error:
            faults = node.disk.faults
            if node.process is not process:
                return  # it was killed while it started
            if not (
                faults.broken or faults.full or faults.unreadable or isinstance(error, asyncio.CancelledError)
            ):
                raise
            # A process that cannot start ends; whoever watches over it starts it again later.
            self.trace.note("not_started", node=name, reason=repr(error))
            await self.stop_node(name, power_cut=False)
        else:
            node.check_acknowledged()
            for task in node.service._tasks:
                task.add_done_callback(lambda task: self._on_ended(task) if process.alive else None)

    async def _restart(self, node: Node) -> None:
        self.trace.note("restarts", node=node.name)
        await self.stop_node(node.name, power_cut=False)
        if node.process is None:
            await self.start_node(node.name)

    async def stop_node(self, name: str, *, power_cut: bool, disk_lost: bool = False) -> None:
        node = self.nodes[name]
        if node.process is None:
            return
        self.trace.note("disk_lost" if disk_lost else "power_cut" if power_cut else "kill", node=name)
        self.network.kill(name)
        node.note_acknowledged()
        if disk_lost:
            node.acknowledged.clear()
            node.disk.kill()
            node.disk = SimDisk(self.dice)
            self.disks_lost += 1
        else:
            node.disk = node.disk.crash() if power_cut else node.disk.kill()
        self.watch.look(name, node.disk)
        process, node.process, node.service = node.process, None, None
        await process.kill()

    # Writers

    async def start_writer(self) -> Writer:
        """A new instance opens the volume; its clients come once it has."""
        self.openings += 1
        name = f"w{self.openings}"
        process = Process(name)
        config = InstanceConfig(
            id=name,
            az=self.dice.choice(["az1", "az2", "az3"]),
            dir=Path(tempfile.gettempdir()),
            control=control.ADDRESS,
            listen="",
            sql="",
            metrics="",
            cache_mib=self._cache_mib,
            commit_timeout_s=self.dice.choice([3.0, 30.0]),
            max_connections=10,
        )
        clock = SimClock()
        instance = Instance(config, self.network.host(name, process), clock, self.dice)
        writer = Writer(name, process, instance, clock)
        self.writers.append(writer)
        self.trace.note("start", writer=name)
        writer.task = process.spawn(lambda: self._live(writer))
        writer.task.add_done_callback(self._on_ended)
        return writer

    async def _live(self, writer: Writer) -> None:
        """A writer's life: open, check what is there, serve clients until fenced or killed."""
        try:
            engine = await writer.instance.open()
        except VolumeError as error:
            self.trace.note("ended", writer=writer.name, reason=error)
            return
        self._check_what_was_recovered(writer)
        before = set(self.ledger.in_doubt)
        serving = asyncio.create_task(writer.instance.serve(asyncio.Event()))
        while not serving.done():
            try:
                await self.bank.set_up(engine, *histories.CREATE)
                await self._take_over(writer, engine, before)
                break
            except EXPECTED as error:
                self.trace.note("not_open_yet", writer=writer.name, reason=repr(error))
                await asyncio.sleep(0.2)
        self.trace.note("ended", writer=writer.name, reason=await serving)

    def _check_what_was_recovered(self, writer: Writer) -> None:
        """Before the first write all that can be read is on four disks, however little the last writer managed."""
        driver = writer.instance.driver
        assert driver is not None
        if driver.writable:
            few = self.watch.too_few_of_what_counts(driver.vdl, driver.timeline.counts, {})
            assert not few, f"opened at vdl {driver.vdl}, but (lsn, disks): {few[:5]}"

    async def _take_over(self, writer: Writer, engine: Engine, before: set[int]) -> None:
        """Check what is there, then let the clients in."""
        owed = self.ledger.owed()
        seen = await self._look(engine)
        self.ledger.judge(seen, owed)
        if self.bank.is_newest(engine):
            self.ledger.settle(seen, before)
        writer.engine = engine
        writer.opened.set()
        self.trace.note("opened", writer=writer.name, rows=len(seen))
        writer.clients = [asyncio.create_task(self.bank.client(engine)) for _ in range(3)]
        writer.clients.append(asyncio.create_task(self.bank.reader(engine)))
        writer.clients.append(asyncio.create_task(self.histories.client(engine)))
        for task in writer.clients:
            task.add_done_callback(self._on_ended)

    def _on_ended(self, task: "asyncio.Task[None]") -> None:
        """A task that should have gone on: was it killed, or did it meet what no run may have?"""
        if not task.cancelled() and (error := task.exception()) is not None and not self.broken.done():
            self.broken.set_exception(error)
            self.broken.exception()

    def check_bugs(self) -> None:
        if self.broken.done():
            self.broken.result()
        bugs = [*self.network.bugs, *self.trace.bugs]
        assert not bugs, f"a service met a bug of its own: {bugs[:3]}"

    async def end_clients(self, writer: Writer) -> None:
        """Let each end what it is at: a commit under way is not cancelled."""
        self.bank.closed = self.histories.closed = True
        await asyncio.wait(writer.clients)
        writer.clients.clear()

    async def judge_rows(self, writer: Writer) -> None:
        """At rest: the rows against the ledger, and SQLite's own opinion of its file."""
        engine = writer.engine
        assert engine is not None
        task = writer.process.spawn(lambda: self._look(engine, integrity=True))
        self.ledger.judge(await task, self.ledger.owed())

    async def _look(self, engine: Engine, *, integrity: bool = False) -> set[int]:
        lease = await engine.lease()
        await engine.begin_snapshot(lease)
        seen = await self.bank.look(engine, lease)
        if integrity:
            lease.connection.authorizer = None
            assert await engine.rows(lease, "PRAGMA integrity_check") == [("ok",)]
        await engine.rollback(lease)
        engine.give_back(lease)
        return seen

    def _check_durable(self, engine: Engine, lsn: Lsn) -> None:
        """A client was told that its commit is durable: every LSN up to it is on four disks."""
        driver = engine.pages.driver
        checked = self._checked.get(driver.epoch, Lsn(driver._batcher._floor))
        members = {group.id: {member.node for member in group.voters} for group in self.control.groups()}
        missing = self.watch.missing(checked, lsn, members)
        assert not missing, f"acknowledged lsn {lsn}, but (lsn, disks): {missing[:5]}"
        self.checked_lsns += max(0, lsn - checked)
        self._checked[driver.epoch] = max(checked, lsn)

    async def stop_writer(self, writer: Writer) -> None:
        if writer not in self.writers:
            return  # it is dying already: two faults at once
        self.writers.remove(writer)
        self.trace.note("kill", writer=writer.name)
        self.network.kill(writer.name)
        await writer.process.kill()
        if writer.instance.engine is not None:
            writer.instance.engine.close()
