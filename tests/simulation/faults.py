"""What goes wrong, by dice: machines, processes, disks, the network, and writers that replace each other.

Each fault is a short story with an end: what it breaks it mends after a while, unless `mend_all` is
quicker. Nothing here asks whether the cluster can stand it: without a quorum nothing is acknowledged, and
that is all right; what was acknowledged must still be there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import permutations
from typing import Final

from control_plane.cluster.model import NodeId
from tests.simulation.sim_disk import DiskFaults
from tests.simulation.sim_transport import NetworkFaults
from tests.simulation.world import World, Writer
from volume.ids import VolumeId
from volume.quorum import COPIES, READ_QUORUM

Fault = Callable[["Mischief"], Awaitable[None]]
_PAUSE_S: Final = 0.8
_VOLUME: Final = VolumeId(1)


class Mischief:
    def __init__(self, world: World) -> None:
        self.world = world
        self.dice = world.dice
        self.count = 0
        self._needs_restart: set[str] = set()
        self._stories: dict[asyncio.Task[None], None] = {}

    async def run(self, seconds: float) -> None:
        """Faults one after the other, some at the same time, for so long."""
        end = asyncio.get_running_loop().time() + seconds
        faults, weights = zip(*FAULTS, strict=True)
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(self.dice.expovariate(1 / _PAUSE_S))
            fault = self.dice.choices(faults, weights)[0]
            self.count += 1
            self.world.trace.note("fault", kind=fault.__name__)
            story = asyncio.create_task(fault(self))
            self._stories[story] = None
            await asyncio.wait([story], timeout=self.dice.uniform(0.1, 3.0))

    async def mend_all(self) -> None:
        """The end of all faults: everything runs, and nothing stands in its way."""
        for story in self._stories:
            story.cancel()
        if self._stories:
            await asyncio.wait(list(self._stories))
        for story in self._stories:
            if not story.cancelled():
                story.result()
        world = self.world
        world.trace.note("mend")
        world.network.heal()
        world.network.faults = NetworkFaults()
        for process in [writer.process for writer in world.writers] + [
            node.process for node in world.nodes.values() if node.process is not None
        ]:
            process.resume()
        if world.control.process is None:
            await world.control.start()
        for name in world.nodes:
            await world.control.metadata.set_draining(NodeId(name), False)
        for name, node in world.nodes.items():
            node.disk.faults = DiskFaults()
            if name in self._needs_restart:
                await world.stop_node(name, power_cut=False)
            if node.process is None:
                await world.start_node(name)
        if not world.writers:
            await world.start_writer()

    def hosts(self) -> list[str]:
        return [*self.world.zones, "control", *(writer.name for writer in self.world.writers)]

    def some_node(self) -> str:
        return self.dice.choice(sorted(self.world.nodes))

    async def restart(self, names: list[str], *, power_cut: bool) -> None:
        stopped = [name for name in names if self.world.nodes[name].process is not None]
        for name in stopped:
            await self.world.stop_node(name, power_cut=power_cut)
        await asyncio.sleep(self.dice.choice([0.0, 0.3, 2.0, 5.0]))
        for name in stopped:
            if self.world.nodes[name].process is None:
                await self.world.start_node(name)

    async def for_a_while(self) -> None:
        await asyncio.sleep(self.dice.choice([0.05, 0.5, 2.0, 8.0]))

    def needs_restart(self, name: str) -> None:
        self._needs_restart.add(name)


async def node_dies(m: Mischief) -> None:
    await m.restart([m.some_node()], power_cut=False)


async def node_loses_power(m: Mischief) -> None:
    await m.restart([m.some_node()], power_cut=True)


async def zone_loses_power(m: Mischief) -> None:
    zone = m.dice.choice(["az1", "az2", "az3"])
    await m.restart([name for name, az in m.world.zones.items() if az == zone], power_cut=True)


async def zone_and_one_more_lose_power(m: Mischief) -> None:
    zone = m.dice.choice(["az1", "az2", "az3"])
    inside = [name for name, az in m.world.zones.items() if az == zone]
    other = m.dice.choice([name for name in m.world.zones if name not in inside])
    await m.restart([*inside, other], power_cut=True)


async def everything_loses_power(m: Mischief) -> None:
    writers = list(m.world.writers)
    for writer in writers:
        await m.world.stop_writer(writer)
    await m.restart(list(m.world.zones), power_cut=True)
    await m.world.start_writer()


async def writer_dies(m: Mischief) -> None:
    for writer in list(m.world.writers):
        await m.world.stop_writer(writer)
    await asyncio.sleep(m.dice.choice([0.0, 0.2]))
    await m.world.start_writer()


async def writer_is_replaced_while_it_lives(m: Mischief) -> None:
    if len(m.world.writers) < 2:
        await m.world.start_writer()
    await m.for_a_while()
    for writer in m.world.writers[:-1]:
        await m.world.stop_writer(writer)


async def writer_dies_half_heard(m: Mischief) -> None:
    """What it wrote last is on one node, or two, and they go down with it: the next one cannot know."""
    if not m.world.writers:
        return
    writer = m.world.writers[-1]
    names = m.dice.sample(sorted(m.world.nodes), m.dice.choice([1, 2]))
    for name in m.world.nodes:
        if name not in names:
            m.world.network.cut(writer.name, name)
    await asyncio.sleep(m.dice.uniform(0.2, 1.5))
    if writer in m.world.writers:
        await m.world.stop_writer(writer)
    stopped = [name for name in names if m.world.nodes[name].process is not None]
    for name in stopped:
        await m.world.stop_node(name, power_cut=False)
    m.world.network.heal()
    if not m.world.writers:
        await m.world.start_writer()
    await asyncio.sleep(m.dice.choice([0.1, 0.5, 2.0]))
    for name in stopped:
        if m.world.nodes[name].process is None:
            await m.world.start_node(name)


async def writer_dies_amid_a_large_commit(m: Mischief) -> None:
    """A part of its log is sent, and perhaps in layers already; some nodes may go with it, or have heard nothing."""
    if len(m.world.writers) != 1:
        return
    (writer,) = m.world.writers
    deaf = m.dice.sample(sorted(m.world.nodes), m.dice.choice([0, 2, 3, 3]))
    for name in deaf:
        m.world.network.cut(writer.name, name)
    m.world.bank.large_next = True
    for _ in range(1500):
        if _is_amid_a_large_commit(writer):
            break
        await asyncio.sleep(0.001)
    await asyncio.sleep(m.dice.choice([0.0, 0.02, 0.2, 0.5]))
    if writer in m.world.writers:
        m.world.writers_died_halfway += _is_amid_a_large_commit(writer)
        await m.world.stop_writer(writer)
    for name in deaf:
        m.world.network.heal(name)
    if not m.world.writers:
        await m.world.start_writer()
    if m.dice.random() < 0.5:
        await m.restart(m.dice.sample(sorted(m.world.nodes), 2), power_cut=m.dice.random() < 0.5)


def _is_amid_a_large_commit(writer: Writer) -> bool:
    engine, driver = writer.instance.engine, writer.instance.driver
    return engine is not None and driver is not None and driver.last_lsn > engine.pages.newest


async def nodes_die_amid_an_opening(m: Mischief) -> None:
    """While a second writer opens and the first one goes on: what they promised is all that they know."""
    epoch = m.world.control.newest_epoch
    if len(m.world.writers) != 1:
        return
    await m.world.start_writer()
    for _ in range(500):
        if m.world.control.newest_epoch > epoch:
            break
        await asyncio.sleep(0.001)
    await asyncio.sleep(m.dice.uniform(0.0, 0.02))
    names = m.dice.sample(sorted(m.world.nodes), m.dice.randint(1, 4))
    for name in [name for name in names if m.world.nodes[name].process is not None]:
        await m.world.stop_node(name, power_cut=m.dice.random() < 0.7)
        await m.world.start_node(name)
    if m.dice.random() < 0.5 and m.world.writers:
        await m.world.stop_writer(m.world.writers[-1])  # so that nobody but the first one is left
    await m.for_a_while()
    if len(m.world.writers) < 2:
        await m.world.start_writer()


async def nodes_die_between_promise_and_timeline(m: Mischief) -> None:
    """Both writers stand still while the nodes that promised the newer one die: the old one goes on first."""
    if len(m.world.writers) != 1 or m.world.writers[0].process.paused:
        return
    epoch, (old,) = m.world.control.newest_epoch, m.world.writers
    old.process.pause()
    try:
        await asyncio.sleep(m.dice.choice([0.0, 0.02]))  # what it has sent may arrive, or meet the promise
        new = await m.world.start_writer()
        for _ in range(500):
            promised = [name for name in sorted(m.world.nodes) if _has_promised_after(m.world, name, epoch)]
            if len(promised) >= COPIES or (len(promised) >= READ_QUORUM and m.dice.random() < 0.02):
                break
            await asyncio.sleep(0.001)
        await asyncio.sleep(m.dice.uniform(0.0, 0.003))
        if not new.process.paused:
            new.process.pause()
        for name in m.dice.sample(promised, m.dice.randint(0, len(promised))):
            await m.world.stop_node(name, power_cut=m.dice.random() < 0.5)
            if m.world.nodes[name].process is None:
                await m.world.start_node(name)
    finally:
        old.process.resume()
    await m.for_a_while()
    new.process.resume()
    await m.for_a_while()
    await m.world.stop_writer(old)
    if not m.world.writers:
        await m.world.start_writer()


def _has_promised_after(world: World, name: str, epoch: int) -> bool:
    service = world.nodes[name].service
    return service is not None and any(
        segment.chain.promised > epoch for segment in service.segments.values()
    )


async def hosts_are_cut_off(m: Mischief) -> None:
    """Some hosts from the others: in one direction or both."""
    hosts = m.hosts()
    apart = set(m.dice.sample(hosts, m.dice.randint(1, 3)))
    directions = m.dice.choice([(True, True), (True, False), (False, True)])
    for source, target in permutations(hosts, 2):
        if (source in apart) != (target in apart) and directions[source in apart]:
            m.world.network.cut(source, target)
    await m.for_a_while()
    m.world.network.heal()


async def partitions_are_swizzled(m: Mischief) -> None:
    """A random subset is cut off one by one, and comes back in another order."""
    hosts = m.hosts()
    apart = m.dice.sample(hosts, m.dice.randint(2, 4))
    for name in apart:
        for other in hosts:
            if other != name:
                m.world.network.cut(name, other)
                m.world.network.cut(other, name)
        await asyncio.sleep(m.dice.uniform(0.0, 0.5))
    for name in m.dice.sample(apart, len(apart)):
        m.world.network.heal(name)
        await asyncio.sleep(m.dice.uniform(0.0, 0.5))


async def network_is_bad(m: Mischief) -> None:
    m.world.network.faults = NetworkFaults(
        late=m.dice.choice([0.0, 0.02, 0.2]),
        late_s=m.dice.choice([0.05, 0.5, 3.0]),
        lost=m.dice.choice([0.0, 0.005, 0.05]),
        repeated=m.dice.choice([0.0, 0.05]),
    )
    await m.for_a_while()
    m.world.network.faults = NetworkFaults()


async def disk_is_slow(m: Mischief) -> None:
    name = m.some_node()
    m.world.nodes[name].disk.faults.slow_factor = m.dice.choice([10.0, 100.0, 1000.0])
    await m.for_a_while()
    m.world.nodes[name].disk.faults.slow_factor = 1.0


async def disk_is_full(m: Mischief) -> None:
    """Once there is room again the node starts anew, by itself."""
    name = m.some_node()
    m.world.nodes[name].disk.faults.full = True
    await m.for_a_while()
    m.world.nodes[name].disk.faults.full = False


async def disk_breaks(m: Mischief) -> None:
    name = m.some_node()
    m.needs_restart(name)
    m.world.nodes[name].disk.faults.broken = True
    await m.for_a_while()
    m.world.nodes[name].disk.faults.broken = False
    await m.restart([name], power_cut=m.dice.random() < 0.5)


async def node_stays_away(m: Mischief) -> None:
    """For longer than the control plane's patience: where there is a spare node, it takes its place."""
    name = m.some_node()
    if m.world.nodes[name].process is None:
        return
    await m.world.stop_node(name, power_cut=m.dice.random() < 0.5)
    await asyncio.sleep(m.dice.uniform(3.0, 9.0))
    if m.world.nodes[name].process is None:
        await m.world.start_node(name)


async def node_stays_away_while_two_hear_nothing(m: Mischief) -> None:
    """Nothing but the control plane. What is written is on the other four, and one of them is to be replaced."""
    groups = m.world.control.groups()
    if not groups or not m.world.writers:
        return
    voters = [str(member.node) for member in m.dice.choice(groups).voters]
    *deaf, away = m.dice.sample(voters, 3)
    for name in deaf:
        for other in m.hosts():
            if other not in (name, "control"):
                m.world.network.cut(other, name)
    await asyncio.sleep(m.dice.uniform(0.1, 1.5))
    if m.world.nodes[away].process is not None:
        await m.world.stop_node(away, power_cut=m.dice.random() < 0.5)
    await asyncio.sleep(m.dice.uniform(3.0, 9.0))
    m.world.network.heal()
    await m.for_a_while()
    if m.world.nodes[away].process is None:
        await m.world.start_node(away)


async def disk_is_lost(m: Mischief) -> None:
    """The node comes back with an empty disk. Only when all others hold what it held, as for bits that rot."""
    name = m.some_node()
    if _all_others_hold_what_is_on(m.world, name):
        await m.world.stop_node(name, power_cut=True, disk_lost=True)
        await asyncio.sleep(m.dice.choice([0.0, 1.0, 5.0]))
        if m.world.nodes[name].process is None:
            await m.world.start_node(name)


async def trouble_amid_a_copy(m: Mischief) -> None:
    """A node that has lost its disk is filled again, and in the midst of it something happens to it, to the node that
    it copies from, or to those who watch over it."""
    name = m.some_node()
    if not _all_others_hold_what_is_on(m.world, name):
        return
    await m.world.stop_node(name, power_cut=True, disk_lost=True)
    await m.world.start_node(name)
    for _ in range(3000):
        if sources := _copies_from(m.world, name):
            break
        await asyncio.sleep(0.002)
    else:
        return
    m.world.copies_troubled += 1
    trouble = m.dice.choice(["full", "dies", "source", "writer", "control"])
    m.world.trace.note("trouble", node=name, kind=trouble)
    if trouble == "full":
        m.world.nodes[name].disk.faults.full = True
        await m.for_a_while()
        m.world.nodes[name].disk.faults.full = False
    elif trouble == "dies":
        await m.restart([name], power_cut=m.dice.random() < 0.5)
    elif trouble == "source":
        await m.restart(sources[:1], power_cut=m.dice.random() < 0.5)
    elif trouble == "writer":
        await writer_dies(m)
    else:
        await control_dies(m)


def _copies_from(world: World, name: str) -> list[str]:
    """The nodes whose layers it is taking."""
    service = world.nodes[name].service
    segments = service.segments.values() if service is not None else ()
    return [segment.fill.source for segment in segments if segment.fill is not None]


async def disk_has_lied(m: Mischief) -> None:
    """For a while a node's disk does not keep what it syncs of the hot log, and then its power is cut. Only when
    all others hold what it held, as for bits that rot."""
    name = m.some_node()
    node = m.world.nodes[name]
    process, before = node.process, node.disk.synced("hot")
    await m.for_a_while()
    if node.process is process and _all_others_hold_what_is_on(m.world, name):
        node.damaged = True
        m.world.disks_lied += 1
        node.disk.unsync("hot", before)
        await m.restart([name], power_cut=True)


async def node_is_drained(m: Mischief) -> None:
    name = NodeId(m.some_node())
    if m.world.control.process is None:
        return
    await m.world.control.metadata.set_draining(name, True)
    await m.for_a_while()
    if m.world.control.process is not None:
        await m.world.control.metadata.set_draining(name, False)


async def control_dies(m: Mischief) -> None:
    if m.world.control.process is None:
        return
    await m.world.control.stop()
    await asyncio.sleep(m.dice.choice([0.0, 0.5, 3.0]))
    if m.world.control.process is None:
        await m.world.control.start()


async def process_is_paused(m: Mischief) -> None:
    """SIGSTOP, and SIGCONT: a writer, a node or the control plane goes on as if no time had passed."""
    processes = [writer.process for writer in m.world.writers]
    processes += [node.process for node in m.world.nodes.values() if node.process is not None]
    processes += [m.world.control.process] if m.world.control.process is not None else []
    running = [each for each in processes if not each.paused]
    if not running:
        return
    process = m.dice.choice(running)
    process.pause()
    try:
        await m.for_a_while()
    finally:
        process.resume()


async def clock_jumps(m: Mischief) -> None:
    """Some machine's wall clock is set, by a second or by a year; it stays so."""
    clocks = [node.clock for node in m.world.nodes.values()] + [writer.clock for writer in m.world.writers]
    m.dice.choice(clocks).jump(m.dice.choice([-1, 1]) * m.dice.choice([1.0, 3_600.0, 3e7]))


async def bit_rots(m: Mischief) -> None:
    """One bit in a log or layer file or a manifest of a node, stopped or running.

    Only when all others hold what this node holds: a damaged copy is a lost copy, and what may go beside
    it is for the other faults to find. All that is damaged is found, and comes back from the peers.
    """
    name = m.some_node()
    if not _all_others_hold_what_is_on(m.world, name):
        return
    stopped, power_cut = m.dice.random() < 0.5, m.dice.random() < 0.5
    if stopped:
        await m.world.stop_node(name, power_cut=power_cut)
    disk = m.world.nodes[name].disk
    files = [path for path in disk.paths() if path.endswith((".layer", ".log", "manifest"))]
    for path in m.dice.sample(files, min(len(files), m.dice.choice([1, 1, 3]))):
        disk.flip_bit(path)
        m.world.nodes[name].damaged = True
        m.world.bits_flipped += 1
        m.world.trace.note("bit_flipped", node=name, path=path)
    if stopped and m.world.nodes[name].process is None:
        await m.world.start_node(name)
    service = m.world.nodes[name].service
    if service is not None and m.dice.random() < 0.5:
        service.scrub.start()


async def disk_cannot_be_read(m: Mischief) -> None:
    """For a while whatever a node reads of its layers, its log or its manifests meets EIO. Only when all others
    hold what it holds, as for bits that rot."""
    name = m.some_node()
    if not _all_others_hold_what_is_on(m.world, name):
        return
    node = m.world.nodes[name]
    faults = node.disk.faults
    faults.unreadable = m.dice.choice([".layer", ".layer", ".log", "manifest"])
    node.damaged = True
    m.world.disks_unreadable += 1
    m.world.trace.note("unreadable", node=name, what=faults.unreadable)
    if m.dice.random() < 0.5:
        await m.world.stop_node(name, power_cut=False)
        await m.world.start_node(name)
    elif node.service is not None and m.dice.random() < 0.5:
        node.service.scrub.start()
    await m.for_a_while()
    faults.unreadable = node.disk.faults.unreadable = ""
    if node.process is None:
        await m.world.start_node(name)


async def node_is_scrubbed(m: Mischief) -> None:
    service = m.world.nodes[m.some_node()].service
    if service is not None:
        service.scrub.start()


def _all_others_hold_what_is_on(world: World, name: str) -> bool:
    services = {each: node.service for each, node in world.nodes.items() if node.process is not None}
    damaged = services.get(name)
    groups = world.control.groups()
    if damaged is None or not groups or any(group.replacements for group in groups):
        return False
    for group in groups:
        own = damaged.segments.get((_VOLUME, group.id))
        for member in group.voters:
            service = services.get(member.node)
            segment = service.segments.get((_VOLUME, group.id)) if service is not None else None
            if segment is None or segment.failed is not None:
                return False
            if own is not None and segment.chain.durable_scl < own.chain.scl:
                return False
    return True


FAULTS: Final[list[tuple[Fault, float]]] = [
    (node_dies, 3),
    (node_loses_power, 4),
    (zone_loses_power, 2),
    (zone_and_one_more_lose_power, 1),
    (everything_loses_power, 1),
    (writer_dies, 3),
    (writer_is_replaced_while_it_lives, 2),
    (writer_dies_half_heard, 3),
    (writer_dies_amid_a_large_commit, 3),
    (nodes_die_amid_an_opening, 2),
    (nodes_die_between_promise_and_timeline, 2),
    (hosts_are_cut_off, 3),
    (network_is_bad, 3),
    (disk_is_slow, 2),
    (disk_is_full, 1),
    (disk_breaks, 1),
    (clock_jumps, 1),
    (bit_rots, 3),
    (disk_cannot_be_read, 3),
    (node_is_scrubbed, 1),
    (partitions_are_swizzled, 1),
    (node_stays_away, 3),
    (node_stays_away_while_two_hear_nothing, 2),
    (disk_is_lost, 3),
    (trouble_amid_a_copy, 2),
    (disk_has_lied, 2),
    (node_is_drained, 2),
    (control_dies, 2),
    (process_is_paused, 3),
]
