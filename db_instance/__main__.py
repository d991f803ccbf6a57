"""`python -m db_instance`: one db instance as a process."""

import asyncio
import random
import sys
from typing import Final

from db_instance.config import InstanceConfig, parse_arguments
from db_instance.instance import Instance
from db_instance.metrics import registry_of
from db_instance.server import InstanceService
from db_instance.session.errors import why_it_ends
from db_instance.wire.postgres.server import PostgresServer, ServerSettings
from runtime import events
from runtime.addresses import host_and_port
from runtime.clock import RealClock
from runtime.grpc_transport import GrpcTransport
from runtime.lifecycle import run
from runtime.metrics import serve_metrics
from volume.errors import StaleEpoch, VolumeError

_FENCED: Final = 3
"""Exit status: another writer has opened the volume, or this process cannot go on for another reason of storage's."""


async def serve(config: InstanceConfig, stopping: asyncio.Event) -> int:
    log = events.get_logger("db_instance")
    transport = GrpcTransport()
    instance = Instance(config, transport, RealClock(), random.Random())
    try:
        server = await transport.serve(config.listen, InstanceService(instance).handlers())
        metrics = await serve_metrics(*host_and_port(config.metrics), registry_of(instance))
        opening = asyncio.ensure_future(instance.open())
        stop = asyncio.ensure_future(stopping.wait())
        await asyncio.wait((opening, stop), return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            opening.cancel()
            return 0
        sql = PostgresServer(opening.result(), ServerSettings(max_connections=config.max_connections))
        instance.count_sessions = lambda: sql.sessions
        await sql.start(*host_and_port(config.sql))
    except (OSError, VolumeError) as error:
        log.error("instance.not_started", reason=f"{type(error).__name__}: {error}")
        print(f"db instance {config.id}: {error}", file=sys.stderr)
        return _FENCED if isinstance(error, StaleEpoch) else 1
    log.info("instance.ready", instance=config.id, sql=config.sql)
    reason = await instance.serve(stopping)
    await sql.stop(why_it_ends(reason) if reason is not None else None)
    metrics.close()
    await server.stop()
    await instance.close()
    await transport.close()
    log.info("instance.stopped", instance=config.id, reason=str(reason) if reason else "asked to")
    return 0 if reason is None else _FENCED


def main() -> int:
    config = parse_arguments()
    events.configure(config.id, config.dir / "log" / f"{config.id}.log")
    return run(lambda stopping: serve(config, stopping))


if __name__ == "__main__":
    sys.exit(main())
