"""Looks at every storage node and instance, and remembers what each said last and when.

All are asked at once and each has the same short deadline, so that looking never takes longer
because somebody is dead. A question that still waits for its answer is shared, not repeated.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from google.protobuf.message import DecodeError

from control_plane.agents import Agents
from control_plane.cluster.health import GONE_AFTER_S, NodeHealth, answers, node_facts, node_health
from control_plane.cluster.model import InstanceReport, NodeId, NodeReport, is_of_the_disk
from control_plane.cluster.refusals import Refusals
from control_plane.cluster.status import Seen
from control_plane.metadata.interface import Metadata
from runtime.clock import Clock
from volume.errors import VolumeError

ANSWER_S_MAX: Final = 1.0
"""A healthy process answers in a millisecond; one that needs this long is as good as silent."""


class Observer:
    def __init__(
        self, agents: Agents, metadata: Metadata, clock: Clock, gone_after_s: float = GONE_AFTER_S
    ) -> None:
        self.gone_after_s = gone_after_s
        """A storage node that is silent for so long is taken to be gone."""
        self._agents = agents
        self._metadata = metadata
        self._clock = clock
        self._nodes: dict[NodeId, tuple[NodeReport, float]] = {}
        self._instances: dict[str, tuple[InstanceReport, float]] = {}
        self._refusals = Refusals()
        self._asked_since_s: dict[NodeId, float] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        """The question to each process that waits for its answer; never two to the same."""

    async def look(self, wait_s: float) -> None:
        """Ask everybody. Returns when all have answered, or after `wait_s`: late answers still count."""
        for node in await self._metadata.nodes():
            self._asked_since_s.setdefault(node.id, self._clock.monotonic())
            self._ask(node.id, self._ask_node(node.id, node.address))
        for instance in await self._metadata.instances():
            self._ask(instance.id, self._ask_instance(instance.id, instance.address))
        if self._asking:
            await asyncio.wait(self._asking.values(), timeout=wait_s)

    def _ask(self, id: str, question: Coroutine[Any, Any, None]) -> None:
        if id in self._asking and not self._asking[id].done():
            question.close()
        else:
            self._asking[id] = asyncio.create_task(question)

    async def _ask_node(self, id: NodeId, address: str) -> None:
        try:
            report = await self._agents.node_status(address, ANSWER_S_MAX)
        except (VolumeError, DecodeError):
            return  # its last answer stays and grows old: that is how a silence shows
        self._nodes[id] = (report, self._clock.monotonic())
        self._refusals.look(id, report, self._clock.monotonic())

    async def _ask_instance(self, id: str, address: str) -> None:
        try:
            report = await self._agents.instance_status(address, ANSWER_S_MAX)
        except (VolumeError, DecodeError):
            return
        self._instances[id] = (report, self._clock.monotonic())

    def node_reports(self) -> dict[NodeId, Seen[NodeReport]]:
        now = self._clock.monotonic()
        return {id: Seen(report, now - when) for id, (report, when) in self._nodes.items()}

    def instance_reports(self) -> dict[str, Seen[InstanceReport]]:
        now = self._clock.monotonic()
        return {id: Seen(report, now - when) for id, (report, when) in self._instances.items()}

    def silent_s(self) -> dict[NodeId, float]:
        """How long ago each storage node answered last, or was asked first."""
        now = self._clock.monotonic()
        return {
            id: now - max(since, self._nodes[id][1] if id in self._nodes else since)
            for id, since in self._asked_since_s.items()
        }

    async def node_health(self) -> dict[NodeId, NodeHealth]:
        reports = {id: report for id, (report, _) in self._nodes.items()}
        writers = [seen.report for seen in self.instance_reports().values() if answers(seen.ago_s)]
        nodes, volumes = await self._metadata.nodes(), await self._metadata.volumes()
        return node_health(node_facts(nodes, volumes, reports, self.silent_s(), writers), self.gone_after_s)

    def answering(self) -> frozenset[NodeId]:
        return frozenset(id for id, seen in self.node_reports().items() if answers(seen.ago_s))

    def fit(self) -> frozenset[NodeId]:
        """Those of them whose disk has not failed."""
        failed = {
            id
            for id, (report, _) in self._nodes.items()
            if report.failed or any(is_of_the_disk(each.state) for each in report.segments)
        }
        return self.answering() - failed

    def note_refusal(self, node: NodeId) -> None:
        """Its disk could not have a segment made."""
        self._refusals.note(node, self._clock.monotonic())

    def forget_refusal(self, node: NodeId) -> None:
        self._refusals.forget(node)

    def refusing(self) -> frozenset[NodeId]:
        """Nodes that nothing is placed on, for they lately had no room for it."""
        return self._refusals.current(self._clock.monotonic())

    async def close(self) -> None:
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
