"""The gRPC edge of a db instance: what the control plane asks of it."""

from db_instance.instance import Instance
from proto import instance_pb2
from runtime.transport import Handlers


class InstanceService:
    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def handlers(self) -> Handlers:
        return Handlers({"/sixfold.instance.Instance/Status": self.status})

    async def status(self, data: bytes) -> bytes:
        instance_pb2.StatusRequest.FromString(data)
        instance = self._instance
        reply = instance_pb2.StatusReply(
            instance=instance.config.id,
            role="writer",
            state=instance.state,
            sql_address=instance.config.sql,
            sessions=instance.sessions,
        )
        if instance.driver is not None:
            reply.epoch = instance.driver.epoch
            reply.vdl = instance.driver.vdl
            reply.vcl = instance.driver.vcl
            reply.last_lsn = instance.driver.last_lsn
            for node in instance.driver.nodes_seen():
                reply.node.add(
                    node=node.node,
                    connected=node.connected,
                    read_us=node.read_us,
                    behind=node.behind,
                    lost_log=node.lost_log,
                )
        if instance.engine is not None:
            reply.cache_bytes = instance.engine.pages.cache.size_bytes
        return reply.SerializeToString()
