"""`python -m tests.simulation --seed N`: one run again, with its trace; `--forever`: new seeds until stopped."""

import argparse
import os
import random
import sys
import time
import traceback

from tests.simulation.simulation import SECONDS, simulate


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
    failed = 0
    seed = first
    while found.forever or seed <= last:
        number = random.SystemRandom().randrange(2**32) if found.forever else seed
        failed += _one(number, found.seconds, echo=False)
        seed += 1
    return 1 if failed else 0


def _one(seed: int, seconds: float, *, echo: bool) -> int:
    started = time.perf_counter()
    try:
        outcome = simulate(seed, echo=echo, seconds=seconds)
    except AssertionError as error:
        if os.environ.get("TRACEBACK"):
            traceback.print_exc()
        print(f"FAILED {error}", flush=True)
        return 1
    print(f"{outcome} in {time.perf_counter() - started:.2f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
