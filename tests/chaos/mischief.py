"""Who torments the cluster: plays stories one after the other and at once, and mends everything at the end.

Each fault is a story with an end: what it breaks it mends after a while, or at once when all is to be mended.
Stories overlap. Nothing here asks whether the cluster can stand it: without a quorum commits just wait; what was
acknowledged must still be there. The exception is damage: a damaged copy is a lost copy, so a copy is damaged
only while all six are there and alike, and no other before that one is mended.
"""

import random
import signal
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from tests.chaos.clients import Gate
from tests.chaos.cluster import ZONES, Cluster
from tests.chaos.machine import Machine
from tests.chaos.network import Undo

Fault = Callable[["Mischief"], bool]
"""Tells whether it did anything."""

_PAUSE_S: Final = 1.5
_NEXT_S: Final = (0.5, 6.0)
_WHILE_S: Final = (0.5, 2.0, 5.0, 10.0)
_WHOLE_S_MAX: Final = 20.0
_MEND_S_MAX: Final = 60.0


@dataclass(slots=True)
class Story:
    kind: str
    begin: float
    end: float = 0.0
    about: str = ""
    happened: bool = False


class Mischief:
    def __init__(self, cluster: Cluster, gate: Gate, dice: random.Random) -> None:
        self.cluster = cluster
        self.gate = gate
        self._dice = dice
        self.rivalry = threading.Lock()
        """Held while there are two writers."""
        self.stories: list[Story] = []
        self.damaged = ""
        """The node that has a copy which is not known to be mended."""
        self.needs_restart: set[str] = set()
        """Nodes whose disk was full: whoever makes room starts them again, at the latest at the end."""
        self._mending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self._own = threading.local()

    def run(
        self,
        faults: Sequence[tuple[Fault, float]],
        damage: Collection[Fault],
        seconds: float,
        tell: Callable[[Story], None],
    ) -> None:
        """Faults by their weight, one after the other, some at the same time, for so long. Damage only by itself."""
        end = time.monotonic() + seconds
        kinds, weights = zip(*faults, strict=True)
        while time.monotonic() < end:
            time.sleep(self._dice.expovariate(1 / _PAUSE_S))
            fault = self._dice.choices(kinds, weights)[0]
            dice, patience_s = random.Random(self._dice.random()), self._dice.uniform(*_NEXT_S)
            story = Story(fault.__name__, time.monotonic())
            self.stories.append(story)
            if fault in damage:
                self._wait_for_stories(_WHOLE_S_MAX)
            thread = threading.Thread(target=self._play, args=(fault, story, dice, tell), daemon=True)
            self._threads.append(thread)
            thread.start()
            thread.join(None if fault in damage else patience_s)
            if self._failures:
                raise self._failures[0]

    def mend_all(self) -> None:
        """The end of all faults. Each story mends what it broke."""
        self._mending.set()
        self._wait_for_stories(_MEND_S_MAX)
        for name in self.needs_restart:
            self.machine(name).keep_down()
            self.machine(name).let_up()
        if self._failures:
            raise self._failures[0]
        assert not any(thread.is_alive() for thread in self._threads), "a fault does not end"

    def _play(self, fault: Fault, story: Story, dice: random.Random, tell: Callable[[Story], None]) -> None:
        self._own.story, self._own.dice = story, dice
        try:
            story.happened = fault(self)
        except BaseException as error:
            self._failures.append(error)
        story.end = time.monotonic()
        tell(story)

    def _wait_for_stories(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    # For the stories

    @property
    def is_over(self) -> bool:
        return self._mending.is_set()

    @property
    def dice(self) -> random.Random:
        """This thread's story's own: what others throw makes no difference to it."""
        dice: random.Random = self._own.dice
        return dice

    def machine(self, name: str) -> Machine:
        return self.cluster.machines[name]

    def about(self, *names: str) -> None:
        """What this thread's story is about."""
        self._own.story.about = " ".join(names)

    def some_node(self) -> str:
        return self.dice.choice(list(ZONES))

    def some_zone(self) -> list[str]:
        zone = self.dice.choice(sorted(set(ZONES.values())))
        return [name for name, az in ZONES.items() if az == zone]

    def wait(self, seconds: float) -> None:
        """Less, if all is to be mended."""
        self._mending.wait(seconds)

    def for_a_while(self) -> None:
        self.wait(self.dice.choice(_WHILE_S))

    def keep_down(self, names: list[str], seconds: float) -> bool:
        self.about(*names, f"{seconds:.0f} s")
        for name in names:
            self.machine(name).keep_down()
        self.wait(seconds)
        for name in names:
            self.machine(name).let_up()
        return True

    def pause(self, name: str) -> bool:
        self.about(name)
        self.machine(name).send(signal.SIGSTOP)
        self.for_a_while()
        self.machine(name).send(signal.SIGCONT)
        return True

    def for_a_while_then(self, *undoes: Undo) -> bool:
        self.for_a_while()
        for undo in undoes:
            undo()
        return True
