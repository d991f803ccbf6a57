"""What Prometheus can ask the control plane."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import Metric

from control_plane.local_processes import LocalProcesses
from control_plane.metadata.interface import Metadata
from control_plane.observer import Observer
from runtime.metrics import memory_metrics


class _Memory:
    def collect(self) -> Iterator[Metric]:
        return memory_metrics()


class Gauges:
    def __init__(self, registry: CollectorRegistry, metadata: Metadata) -> None:
        registry.register(_Memory())
        self._metadata = metadata
        self._epoch = Gauge("sixfold_volume_epoch", "Newest epoch granted", ["volume"], registry=registry)
        self._groups = Gauge("sixfold_volume_groups", "Protection groups", ["volume"], registry=registry)
        self._uncreated = Gauge(
            "sixfold_volume_segments_uncreated",
            "Segments placed and not yet confirmed by their node",
            ["volume"],
            registry=registry,
        )
        self._answering = Gauge(
            "sixfold_node_answering", "1 while the storage node answers", ["node"], registry=registry
        )
        self._crashes = Gauge(
            "sixfold_process_crashes", "Crashes in a row of a local process", ["process"], registry=registry
        )

    async def update(self, observer: Observer, local: LocalProcesses | None) -> None:
        for volume in await self._metadata.volumes():
            self._epoch.labels(volume.name).set(volume.epoch)
            self._groups.labels(volume.name).set(len(volume.groups))
            missing = sum(not member.created for group in volume.groups for member in group.members)
            self._uncreated.labels(volume.name).set(missing)
        answering, nodes = observer.answering(), await self._metadata.nodes()
        self._answering.clear()  # a node that was removed is told of no more
        for node in nodes:
            self._answering.labels(node.id).set(node.id in answering)
        self._crashes.clear()
        for facts in local.facts() if local is not None else ():
            self._crashes.labels(facts.id).set(facts.crashes)
