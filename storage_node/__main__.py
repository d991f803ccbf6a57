"""`python -m storage_node`: one storage node as a process."""

import argparse
import asyncio
import random
import sys
from pathlib import Path
from typing import Final

from runtime import events
from runtime.addresses import address_argument, host_and_port
from runtime.clock import RealClock
from runtime.disk import RealDisk, held
from runtime.grpc_transport import GrpcTransport
from runtime.lifecycle import run
from runtime.metrics import serve_metrics
from storage_node.metrics import registry_of
from storage_node.node import StorageNode
from storage_node.server import StorageService
from volume.errors import VolumeError

RESTART: Final = 4
"""Exit status: whoever watches over the process should start it again."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m storage_node", description="A Sixfold storage node.")
    parser.add_argument("--id", required=True, help="name of this node in the cluster")
    parser.add_argument("--az", required=True, help="availability zone it stands in")
    parser.add_argument("--dir", required=True, type=Path, help="where its data is")
    parser.add_argument("--listen", required=True, type=address_argument, metavar="HOST:PORT", help="gRPC")
    parser.add_argument(
        "--metrics", required=True, type=address_argument, metavar="HOST:PORT", help="HTTP /metrics"
    )
    return parser.parse_args()


async def serve(arguments: argparse.Namespace, stopping: asyncio.Event) -> int:
    try:
        # Before anything is read: opening cuts and removes what looks unfinished, and to a node at work it is not.
        with held(arguments.dir):
            return await _serve(arguments, stopping)
    except BlockingIOError as error:
        events.get_logger("storage_node").error("node.not_started", reason=str(error))
        print(f"storage node {arguments.id}: {error}", file=sys.stderr)
        return 1


async def _serve(arguments: argparse.Namespace, stopping: asyncio.Event) -> int:
    log = events.get_logger("storage_node")
    transport = GrpcTransport()
    node = StorageNode(
        arguments.id, arguments.az, RealDisk(arguments.dir), transport, RealClock(), random.Random()
    )
    try:
        await node.open()
        server = await transport.serve(arguments.listen, StorageService(node).handlers())
        metrics = await serve_metrics(*host_and_port(arguments.metrics), registry_of(node))
    except (VolumeError, OSError) as error:
        log.error("node.not_started", reason=f"{type(error).__name__}: {error}")
        print(f"storage node {arguments.id}: {error}", file=sys.stderr)
        return 1
    node.start()
    restarting = asyncio.ensure_future(node.must_restart.wait())
    await asyncio.wait(
        [asyncio.ensure_future(stopping.wait()), restarting], return_when=asyncio.FIRST_COMPLETED
    )
    metrics.close()
    await server.stop()
    await node.stop()
    await transport.close()
    if restarting.done():
        log.warning("node.restarts", node=arguments.id, reason=node.restarts_because)
        print(f"storage node {arguments.id}: {node.restarts_because}: start it anew", file=sys.stderr)
        return RESTART
    log.info("node.stopped", node=arguments.id)
    return 0


def main() -> int:
    arguments = parse_arguments()
    events.configure(arguments.id, arguments.dir / "log" / f"{arguments.id}.log")
    return run(lambda stopping: serve(arguments, stopping))


if __name__ == "__main__":
    sys.exit(main())
