"""How a process of ours starts and ends: assertions on, uvloop, SIGTERM and SIGINT as a request to stop."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable

import uvloop


def run(main: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    """Run a service until it returns its exit status. The event it is given says: stop now.

    A second signal ends the process at once. Refuses to start under `python -O`, which strips assertions.
    """
    if not __debug__:
        print("sixfold: runs only with assertions; start Python without -O", file=sys.stderr)
        return 2
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    return uvloop.run(_main(main))


async def _main(main: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stopping.is_set():
            os._exit(130)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    # What is alive after the imports stays alive: collections need not look at it again.
    gc.collect()
    gc.freeze()
    return await main(stopping)
