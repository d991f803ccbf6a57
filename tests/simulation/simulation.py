"""One run: a cluster lives through a seed's faults, and is then judged.

Goal: nothing acknowledged is lost, nothing refused appears, no reader sees half a transaction, and once
the faults are over the cluster serves again and its six copies are the same, byte for byte. Method: the
real storage nodes, driver, engine and SQLite on a loop in made-up time (virtual_loop.py), with every
disk, message and clock from one Random. A run is replayed exactly by its seed.
"""

import asyncio
import os
import time
import traceback
from dataclasses import dataclass
from typing import Final

from tests.simulation.faults import Mischief
from tests.simulation.judgement import judge_at_rest
from tests.simulation.nodes import small_limits
from tests.simulation.trace import Trace, stop_capturing
from tests.simulation.virtual_loop import run
from tests.simulation.world import World

SECONDS: Final = 8.0
"""Of faults, in simulated time, unless told otherwise: so `make sim SEED=n` repeats what the suite ran."""

QUIET_S: Final = 120.0
"""Time the cluster has to serve again after the last fault is mended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    seed: int
    digest: str
    """Of everything that happened, in order: equal digests, equal runs."""
    seconds: float
    faults: int
    acknowledged_amid_faults: int
    acknowledged: int
    in_doubt: int
    reads: int
    statements_cancelled: int
    upgraded: int
    openings: int
    writers_died_halfway: int
    checked_lsns: int
    groups: int
    pages_compared: int
    messages: int
    bits_flipped: int
    damage_told: int
    """How often a service said that it had found a damaged place."""
    disks_lied: int
    disks_unreadable: int
    lost_log: int
    """How often a writer saw a node come back without log that it had acknowledged."""
    disks_lost: int
    copies_troubled: int
    replaced: int
    """Segments that another one took the place of."""
    cancelled: int
    """Replacements given up because the suspect came back."""

    def check_something_happened(self) -> None:
        """A run that tried nothing has shown nothing."""
        assert self.faults, "no fault was tried"
        assert self.acknowledged, "nothing was acknowledged"
        assert self.checked_lsns and self.pages_compared, "nothing was compared"
        if not (self.disks_lied or self.bits_flipped):
            assert not self.lost_log, "a disk is told to be a liar, and is none"


def simulate(seed: int, *, echo: bool = False, seconds: float = SECONDS) -> Outcome:
    """Live through one seed. Raises AssertionError, with the seed in its message."""
    trace = Trace(echo=echo)
    trace.capture_events()
    try:
        with small_limits():
            return run(_live(seed, trace, seconds))
    except Exception as error:
        repeat = f"make sim SEED={seed}"
        if seconds != SECONDS:
            repeat = f"python -m tests.simulation --seed {seed} --seconds {seconds:g}"
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}; {repeat}") from error
    finally:
        stop_capturing()


def line_of(seed: int, seconds: float, echo: bool = False) -> str:
    """What became of a seed, for a list of many."""
    started = time.perf_counter()
    try:
        outcome = simulate(seed, echo=echo, seconds=seconds)
    except AssertionError as error:
        if os.environ.get("TRACEBACK"):
            traceback.print_exc()
        return f"FAILED {error}"
    return f"{outcome} in {time.perf_counter() - started:.2f} s"


async def _live(seed: int, trace: Trace, seconds: float) -> Outcome:
    world = World(seed, trace)
    mischief = Mischief(world)
    await world.start()
    await world.start_writer()
    await asyncio.sleep(1.0)
    await _unless_broken(world, mischief.run(seconds))
    amid_faults = len(world.ledger.acknowledged)
    await mischief.mend_all()
    try:
        async with asyncio.timeout(QUIET_S):
            await _unless_broken(world, judge_at_rest(world))
    except TimeoutError:
        raise AssertionError(
            f"not at rest {QUIET_S:.0f} s after the last fault\n  {world.describe()}"
        ) from None
    world.check_bugs()
    outcome = Outcome(
        seed,
        trace.digest,
        asyncio.get_running_loop().time(),
        mischief.count,
        amid_faults,
        len(world.ledger.acknowledged),
        len(world.ledger.in_doubt),
        world.bank.reads,
        world.bank.cancelled,
        world.histories.upgraded,
        world.openings,
        world.writers_died_halfway,
        world.checked_lsns,
        len(world.control.groups()),
        world.pages_compared,
        world.network.messages,
        world.bits_flipped,
        trace.logged["error:hot_log.damaged"] + trace.logged["error:segment.failed"],
        world.disks_lied,
        world.disks_unreadable,
        trace.logged["error:node.lost_log"],
        world.disks_lost,
        world.copies_troubled,
        sum(trace.logged[f"info:{reason}.done"] for reason in ("repair", "move")),
        trace.logged["info:repair.cancelled"],
    )
    outcome.check_something_happened()
    await world.control.stop()
    world.control.close()
    trace.note("end", outcome=outcome, created=asyncio.get_running_loop().created)  # type: ignore[attr-defined]
    return outcome


async def _unless_broken(world: World, work) -> None:  # type: ignore[no-untyped-def]
    """Do the work, but stop at once when a client or a service meets what no run may have."""
    task = asyncio.create_task(work)
    done, _ = await asyncio.wait([task, world.broken], return_when=asyncio.FIRST_COMPLETED)
    if task in done:
        task.result()
    else:
        task.cancel()
    world.check_bugs()
