"""`python -m tests.simulation --seed N`: one run again, with its trace; `--forever`: new seeds until stopped."""

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import islice
from typing import Final

from tests.simulation.simulation import SECONDS, line_of

_SEEDS_A_PROCESS: Final = 20
_AHEAD: Final = 8


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="this one, with all that happens")
    which.add_argument("--seeds", metavar="FIRST-LAST", help="these, one line each")
    which.add_argument("--forever", action="store_true", help="new ones until stopped")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of faults, in simulated time")
    parser.add_argument("--quiet", action="store_true", help="no trace")
    found = parser.parse_args()
    if found.seed is not None:
        return _one(found.seed, found.seconds, echo=not found.quiet)
    first, last = (int(part) for part in found.seeds.split("-")) if found.seeds else (0, 0)
    return _many(_new_seeds() if found.forever else iter(range(first, last + 1)), found.seconds)


def _new_seeds() -> Iterator[int]:
    while True:
        yield random.SystemRandom().randrange(2**32)


def _many(seeds: Iterator[int], seconds: float) -> int:
    """On every core, each process for a few seeds only: what a killed writer's greenlets held is never freed."""
    started = time.perf_counter()
    failed = count = 0
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(os.cpu_count(), mp_context=context, max_tasks_per_child=_SEEDS_A_PROCESS)
    with pool:
        waiting = {pool.submit(line_of, seed, seconds) for seed in islice(seeds, _AHEAD)}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for line in (task.result() for task in done):
                count += 1
                failed += line.startswith("FAILED")
                print(line, flush=True)
            waiting |= {pool.submit(line_of, seed, seconds) for seed in islice(seeds, len(done))}
    print(f"{count} seeds, {failed} failed, {time.perf_counter() - started:.0f} s")
    return 1 if failed else 0


def _one(seed: int, seconds: float, *, echo: bool) -> int:
    line = line_of(seed, seconds, echo)
    print(line, flush=True)
    return int(line.startswith("FAILED"))


if __name__ == "__main__":
    sys.exit(main())
