"""One bridge, and one namespace for each host, joined to it by a pair of interfaces; and what goes wrong there.

    host's namespace                 the machine
    eth0  <----------- wire -------> PREFIX-NAME   a port of PREFIX-br

Frames to a host leave the machine at its port (egress), frames from it enter there (ingress); filters at
the port make the loss, each with a number of its own, so that faults lie beside each other.
"""

import subprocess
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network
from itertools import count
from random import Random
from typing import Final

from tests.chaos import packet_filter
from tests.chaos.held_frames import HeldFrames

Undo = Callable[[], None]

TO_HOST: Final = "egress"
FROM_HOST: Final = "ingress"
_COMMAND_S_MAX: Final = 20.0


class CommandFailed(Exception):
    pass


def command(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=_COMMAND_S_MAX)
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def undo_later(undoing: ExitStack, *words: str) -> None:
    """Said before what is to be undone is made, which may be broken off: it may find nothing to undo."""

    def undo() -> None:
        try:
            command(*words)
        except CommandFailed:
            return

    undoing.callback(undo)


class Network:
    """Everything it makes is named after `prefix` and is undone by the `undoing` stack."""

    def __init__(self, prefix: str, names: Sequence[str], undoing: ExitStack) -> None:
        self._prefix = prefix
        self._names = names
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._subnet = _free_subnet(Random())
        self._make(undoing)

    def namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def address(self, name: str) -> IPv4Address:
        return self._subnet[self._names.index(name) + 1]

    # Faults: each returns what undoes it

    def lose(self, name: str, direction: str, probability: float = 1.0) -> Undo:
        program = packet_filter.drop_all() if probability >= 1.0 else packet_filter.drop_some(probability)
        return self._filter(name, direction, program)

    def cut(self, sources: Collection[str], target: str) -> Undo:
        """The target hears nothing from the sources."""
        return self._filter(
            target, TO_HOST, packet_filter.drop_from([self.address(source) for source in sources])
        )

    def delay(self, name: str, delay_s: float) -> Undo:
        """What the host sends comes later. Nothing happens if it does already."""
        with self._lock:
            if name in self._held:
                return lambda: None
            self._held.add(name)
        held = HeldFrames(self.namespace(name), f"{self._prefix}-in", delay_s)
        held.start()
        undo_filter = self._filter(name, FROM_HOST, packet_filter.drop_all())

        def undo() -> None:
            undo_filter()
            held.stop()
            with self._lock:
                self._held.discard(name)

        return undo

    def _filter(self, name: str, direction: str, program: str) -> Undo:
        with self._lock:
            number = str(next(self._numbers))
        place = ("dev", self.namespace(name), direction, "prio", number)
        command("tc", "filter", "add", *place, "bpf", "da", "bytecode", program)

        def undo() -> None:
            command("tc", "filter", "del", *place)

        return undo

    def _make(self, undoing: ExitStack) -> None:
        bridge, length = f"{self._prefix}-br", self._subnet.prefixlen
        undo_later(undoing, "ip", "link", "del", bridge)
        command("ip", "link", "add", bridge, "type", "bridge")
        command("ip", "addr", "add", f"{self._subnet[-2]}/{length}", "dev", bridge)
        command("ip", "link", "set", bridge, "up")
        outside, inside = f"{self._prefix}-in", f"{self._prefix}-in2"
        undo_later(undoing, "ip", "link", "del", outside)
        command("ip", "link", "add", outside, "type", "veth", "peer", "name", inside)
        command("ip", "link", "set", inside, "master", bridge)
        command("ip", "link", "set", inside, "type", "bridge_slave", "learning", "off")
        for each in (outside, inside):
            command("ip", "link", "set", each, "up")
        for name in self._names:
            self._make_host(name, bridge, f"{self.address(name)}/{length}", undoing)

    def _make_host(self, name: str, bridge: str, address: str, undoing: ExitStack) -> None:
        host = self.namespace(name)
        undo_later(undoing, "ip", "netns", "del", host)
        command("ip", "netns", "add", host)
        command("ip", "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", host)
        command("ip", "link", "set", host, "master", bridge)
        command("ip", "link", "set", host, "up")
        for words in (("link", "set", "lo", "up"), ("link", "set", "eth0", "up")):
            command("ip", "-n", host, *words)
        command("ip", "-n", host, "addr", "add", address, "dev", "eth0")
        command("tc", "qdisc", "add", "dev", host, "clsact")


def _free_subnet(dice: Random) -> IPv4Network:
    routes = command("ip", "route", "show", "table", "all")
    while True:
        prefix = f"10.{dice.randrange(100, 250)}.{dice.randrange(1, 250)}"
        if f"{prefix}." not in routes:
            return IPv4Network(f"{prefix}.0/24")
