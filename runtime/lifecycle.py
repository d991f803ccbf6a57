"""How a process of ours starts and ends: assertions on, uvloop, SIGTERM and SIGINT as a request to stop."""

import asyncio
import gc
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import uvloop

_FILES_MAX: Final = 1 << 20


def run(main: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    """Run a service until it returns its exit status. The event it is given says: stop now.

    A second signal ends the process at once. Refuses to start under `python -O`, which strips assertions.
    """
    if not __debug__:
        print("sixfold: runs only with assertions; start Python without -O", file=sys.stderr)
        return 2
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    _allow_many_files()
    return uvloop.run(_main(main))


def _allow_many_files() -> None:
    """As many as may be had: each layer, client and peer is one, and the usual limit of 1,024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, _FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
