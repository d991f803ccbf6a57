"""What goes wrong, by dice: processes, disks, and the network between real interfaces.

How stories are played, and what they may do to each other: mischief.py.
"""

import random
import signal
import threading
import time
from typing import Final

from tests.chaos.cluster import COMMIT_TIMEOUT_S, CONTROL, REPLACE_AFTER_S, WRITERS, ZONES, Cluster, ailments
from tests.chaos.mischief import Fault, Mischief
from tests.chaos.network import FROM_HOST, TO_HOST

_DELAY_S: Final = (0.05, 0.1, 0.2, 0.5)
_LOSS: Final = (0.02, 0.1, 0.3)
_DRAINED_S: Final = (5.0, 20.0)
_UNDRAINED_S_MAX: Final = 50.0
_AWAY_S: Final = (REPLACE_AFTER_S + 3.0, REPLACE_AFTER_S + 10.0)
_CUT_OFF_S: Final = (COMMIT_TIMEOUT_S + 2.0, COMMIT_TIMEOUT_S + 6.0)
"""Until clients that wait for a commit have given up, and write elsewhere."""
_RIVAL_S_MAX: Final = 20.0
_WELL_S_MAX: Final = 15.0
_ALIKE_S_MAX: Final = 5.0
_WHOLE_S_MAX: Final = 20.0
_SCRUB_S_MAX: Final = 20.0
_SCRUB_LOOK_S: Final = 0.3
_FLIP_BYTES: Final = 16


def node_dies(m: Mischief) -> bool:
    return m.keep_down([m.some_node()], m.dice.choice((0.0, 0.5, 3.0)))


def zone_dies(m: Mischief) -> bool:
    return m.keep_down(m.some_zone(), m.dice.choice((0.0, 1.0, 5.0)))


def zone_and_one_more_die(m: Mischief) -> bool:
    zone = m.some_zone()
    other = m.dice.choice([name for name in ZONES if name not in zone])
    return m.keep_down([*zone, other], m.dice.choice((0.0, 1.0, 4.0)))


def everything_dies(m: Mischief) -> bool:
    return m.keep_down([*ZONES, CONTROL, m.cluster.home], m.dice.choice((0.0, 1.0)))


def writer_dies(m: Mischief) -> bool:
    return m.keep_down([m.cluster.home], m.dice.choice((0.0, 0.5, 3.0)))


def writer_dies_half_heard(m: Mischief) -> bool:
    """What it wrote last is on one node, or two, and they are down when the next one opens: it cannot know."""
    writer = m.cluster.home
    heard = m.dice.sample(list(ZONES), m.dice.choice((1, 2)))
    m.about(writer, "by", *heard)
    # Nobody tells the others either.
    undoes = [m.cluster.network.cut([writer, *heard], name) for name in ZONES if name not in heard]
    m.wait(m.dice.uniform(0.5, 2.0))
    for name in (writer, *heard):
        m.machine(name).keep_down()
    for undo in undoes:
        undo()
    m.machine(writer).let_up()
    m.wait(m.dice.uniform(2.0, 5.0))
    for name in heard:
        m.machine(name).let_up()
    return True


def control_dies(m: Mischief) -> bool:
    return m.keep_down([CONTROL], m.dice.choice((0.0, 2.0, 8.0)))


def node_stays_away(m: Mischief) -> bool:
    """For longer than the control plane's patience: the spare node takes its place."""
    return m.keep_down([m.some_node()], m.dice.uniform(*_AWAY_S))


def node_is_drained(m: Mischief) -> bool:
    """Its segments move to the spare node, as far as there is time, and then it may have some again."""
    name = m.some_node()
    m.about(name)
    if m.cluster.drain(name) is None:
        return False
    m.wait(m.dice.uniform(*_DRAINED_S))
    assert m.cluster.until(lambda: m.cluster.drain(name, undo=True) is not None, _UNDRAINED_S_MAX)
    return True


def writer_is_replaced_while_it_lives(m: Mischief) -> bool:
    """Another one opens the volume; the first one may be paused meanwhile, or hear of nobody but its clients,
    and ends once it knows."""
    if not m.rivalry.acquire(blocking=False):
        return False
    before = m.cluster.home
    other = next(name for name in WRITERS if name != before)
    hindrance = m.dice.choice(("", "paused", "cut off"))
    m.about(before, "to", other, hindrance)
    if hindrance == "paused":
        m.machine(before).send(signal.SIGSTOP)
    elif hindrance == "cut off":
        undo = m.cluster.network.cut([*ZONES, CONTROL], before)
    m.cluster.home = other
    m.machine(before).is_retired = True
    m.machine(other).is_retired = False
    m.machine(other).let_up()
    if hindrance == "cut off":
        m.wait(m.dice.uniform(*_CUT_OFF_S))
        undo()
    else:
        m.for_a_while()
    m.machine(before).send(signal.SIGCONT)
    deadline = time.monotonic() + _RIVAL_S_MAX
    while m.machine(before).runs and time.monotonic() < deadline:
        m.wait(0.1)
        time.sleep(0.1)
    m.machine(before).keep_down()
    m.rivalry.release()
    return True


def node_is_paused(m: Mischief) -> bool:
    return m.pause(m.some_node())


def writer_is_paused(m: Mischief) -> bool:
    return m.pause(m.cluster.home)


def control_is_paused(m: Mischief) -> bool:
    return m.pause(CONTROL)


def host_hears_nothing(m: Mischief) -> bool:
    """Or is not heard."""
    name = m.dice.choice([*ZONES, CONTROL, m.cluster.home])
    direction = m.dice.choice((TO_HOST, FROM_HOST))
    m.about(name, direction)
    return m.for_a_while_then(m.cluster.network.lose(name, direction))


def frames_are_lost(m: Mischief) -> bool:
    names = m.dice.sample([*ZONES, CONTROL, m.cluster.home], m.dice.randint(1, 3))
    loss = m.dice.choice(_LOSS)
    m.about(*names, f"{loss:.0%}")
    return m.for_a_while_then(*(m.cluster.network.lose(name, FROM_HOST, loss) for name in names))


def frames_are_late(m: Mischief) -> bool:
    names = m.dice.sample([*ZONES, CONTROL, m.cluster.home], m.dice.randint(1, 3))
    delay_s = m.dice.choice(_DELAY_S)
    m.about(*names, f"{1000 * delay_s:.0f} ms")
    return m.for_a_while_then(*(m.cluster.network.delay(name, delay_s) for name in names))


def zone_is_cut_off(m: Mischief) -> bool:
    """From the other nodes, the control plane and the writers: in one direction or both."""
    zone = m.some_zone()
    others = [name for name in (*ZONES, CONTROL, *WRITERS) if name not in zone]
    directions = m.dice.choice(("in", "out", "both"))
    m.about(*zone, directions)
    undoes = []
    if directions != "out":
        undoes += [m.cluster.network.cut(others, name) for name in zone]
    if directions != "in":
        undoes += [m.cluster.network.cut(zone, name) for name in others]
    return m.for_a_while_then(*undoes)


def writer_is_cut_off_from_nodes(m: Mischief) -> bool:
    """From all or some, in one direction or both. Its clients still reach it."""
    writer, network = m.cluster.home, m.cluster.network
    nodes = m.dice.sample(list(ZONES), m.dice.randint(3, len(ZONES)))
    directions = m.dice.choice(("in", "out", "both"))
    m.about(writer, *nodes, directions)
    undoes = [network.cut(nodes, writer)] if directions != "out" else []
    if directions != "in":
        undoes += [network.cut([writer], node) for node in nodes]
    return m.for_a_while_then(*undoes)


def disk_is_full(m: Mischief) -> bool:
    name = m.some_node()
    m.about(name)
    m.needs_restart.add(name)
    m.machine(name).fill_disk()
    m.for_a_while()
    m.machine(name).free_disk()
    return True


def bytes_rot(m: Mischief) -> bool:
    """In one layer or hot log of a node that runs, or is down meanwhile. A scrub finds what nobody has read."""
    name, is_down = m.some_node(), m.dice.random() < 0.5
    if not _is_well(m):
        return False
    with m.gate.closed():
        if not _is_whole(m):
            return False
        if is_down:
            m.machine(name).keep_down()
        try:
            kinds = m.machine(name).data_files()
            if not kinds:
                m.about(name, "has no data")
                return False
            file = m.dice.choice(m.dice.choice(kinds))
            m.damaged = name
            offset = m.dice.randrange(file.stat().st_size)
            m.about(name, file.name, f"at {offset} of {file.stat().st_size}", "down" if is_down else "")
            _flip(m.dice, str(file), offset)
        finally:
            if is_down:
                m.machine(name).let_up()
    threading.Thread(target=_see_to_damage, args=(m, name, m.dice.uniform(1.0, 5.0)), daemon=True).start()
    return True


def disk_is_emptied(m: Mischief) -> bool:
    """The node comes back with nothing."""
    name = m.some_node()
    if not _is_well(m):
        return False
    with m.gate.closed():
        if not _is_whole(m):
            return False
        m.about(name)
        m.machine(name).keep_down()
        m.machine(name).empty_disk()
        m.machine(name).let_up()
    return True


def _is_well(m: Mischief) -> bool:
    """While the clients go on. What keeps it from that goes into the story."""
    if m.damaged:
        m.about(f"{m.damaged} is not known to be mended")
    elif not m.cluster.until(m.cluster.is_well, _WELL_S_MAX):
        status = m.cluster.status()
        m.about("; ".join(ailments(status)) if status else "the control plane does not answer")
    else:
        return True
    return False


def _is_whole(m: Mischief) -> bool:
    """While the clients rest."""
    if m.cluster.until(m.cluster.is_whole, _ALIKE_S_MAX):
        return True
    m.about("the copies do not become alike")
    return False


def _flip(dice: random.Random, file: str, offset: int) -> None:
    with open(file, "r+b", buffering=0) as opened:
        opened.seek(offset)
        found = opened.read(_FLIP_BYTES)
        opened.seek(offset)
        opened.write(bytes(byte ^ dice.randint(1, 255) for byte in found))


def _see_to_damage(m: Mischief, name: str, after_s: float) -> None:
    """After a while, and until the node has looked at all it has and has nothing left to mend."""
    m.wait(after_s)
    while not m.is_over:
        # One may have been under way: the second one began after the damage for sure.
        scrubbed = all(scrub(m.cluster, name) is not None for _ in range(2))
        if scrubbed and m.cluster.until(m.cluster.is_well, _WHOLE_S_MAX):
            m.damaged = ""
            return


def scrub(cluster: Cluster, name: str) -> list[str] | None:
    """What it found; None if it did not come to its end."""
    number = cluster.scrub(name, start=True).get("number", 0)
    deadline = time.monotonic() + _SCRUB_S_MAX
    while time.monotonic() < deadline:
        told = cluster.scrub(name, start=False)
        if told.get("number", 0) >= number > 0 and not told["running"]:
            return [str(each) for each in told["found"]]
        time.sleep(_SCRUB_LOOK_S)
    return None


DAMAGE: Final = (bytes_rot, disk_is_emptied)

FAULTS: Final[list[tuple[Fault, float]]] = [
    (node_dies, 4),
    (zone_dies, 2),
    (zone_and_one_more_die, 2),
    (everything_dies, 1),
    (writer_dies, 3),
    (writer_dies_half_heard, 3),
    (writer_is_replaced_while_it_lives, 3),
    (control_dies, 2),
    (node_stays_away, 3),
    (node_is_drained, 2),
    (node_is_paused, 3),
    (writer_is_paused, 2),
    (control_is_paused, 1),
    (host_hears_nothing, 3),
    (frames_are_lost, 2),
    (frames_are_late, 2),
    (zone_is_cut_off, 2),
    (writer_is_cut_off_from_nodes, 3),
    (disk_is_full, 2),
    (bytes_rot, 4),
    (disk_is_emptied, 3),
]
