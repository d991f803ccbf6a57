"""What a storage node tells Prometheus, read off its state when asked."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from runtime.metrics import memory_metrics
from storage_node.node import StorageNode


class _NodeCollector:
    def __init__(self, node: StorageNode) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        node = self._node
        yield CounterMetricFamily("sixfold_batches", "Batches appended", value=node.batches)
        yield CounterMetricFamily("sixfold_acks", "Acknowledgements sent", value=node.acks_sent)
        yield CounterMetricFamily(
            "sixfold_log_bytes", "Bytes appended to the hot log", value=node.log.bytes_appended
        )
        yield CounterMetricFamily("sixfold_log_syncs", "Syncs of the hot log", value=node.log.syncs)
        yield CounterMetricFamily("sixfold_pages_read", "Pages served", value=node.pages_read)
        yield CounterMetricFamily(
            "sixfold_scrub_bytes", "Bytes read back by scrubs", value=node.scrub.bytes_read
        )
        yield CounterMetricFamily(
            "sixfold_scrub_damage", "Damaged places that scrubs have found", value=node.scrub.damage
        )
        yield GaugeMetricFamily("sixfold_hot_bytes", "Log held in memory", value=node.hot_bytes)
        yield GaugeMetricFamily("sixfold_free_bytes", "Free space on the disk", value=node.free_bytes)
        yield from memory_metrics()
        scl = GaugeMetricFamily("sixfold_scl", "Segment complete LSN", labels=["volume", "segment"])
        vdl = GaugeMetricFamily("sixfold_known_vdl", "Highest VDL heard of", labels=["volume", "segment"])
        layers = GaugeMetricFamily("sixfold_layers", "Layers", labels=["volume", "segment", "kind"])
        size = GaugeMetricFamily("sixfold_layer_bytes", "Bytes in layers", labels=["volume", "segment"])
        for segment in node.segments.values():
            labels = [str(segment.volume), str(segment.id)]
            scl.add_metric(labels, segment.chain.durable_scl)
            vdl.add_metric(labels, segment.chain.known_vdl)
            size.add_metric(labels, sum(info.size_bytes for info in segment.layers.layers))
            for kind in ("delta", "image"):
                count = sum(info.kind == kind for info in segment.layers.layers)
                layers.add_metric([*labels, kind], count)
        yield from (scl, vdl, layers, size)


def registry_of(node: StorageNode) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_NodeCollector(node))
    return registry
