"""What a db instance tells Prometheus, read off its state when asked."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from db_instance.instance import Instance
from runtime.metrics import memory_metrics


class _InstanceCollector:
    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def collect(self) -> Iterator[Metric]:
        yield from memory_metrics()
        yield GaugeMetricFamily("sixfold_sessions", "Client sessions", value=self._instance.sessions)
        if self._instance.engine is not None and self._instance.driver is not None:
            yield from self._of_volume()

    def _of_volume(self) -> Iterator[Metric]:
        engine, driver = self._instance.engine, self._instance.driver
        assert engine is not None
        assert driver is not None
        cache = engine.pages.cache
        yield CounterMetricFamily("sixfold_commits", "Commits", value=engine.commits)
        yield CounterMetricFamily("sixfold_statements", "Statements", value=engine.statements)
        yield CounterMetricFamily("sixfold_cache_hits", "Pages found in the buffer pool", value=cache.hits)
        yield CounterMetricFamily("sixfold_cache_misses", "Pages not found there", value=cache.misses)
        yield GaugeMetricFamily("sixfold_cache_bytes", "Size of the buffer pool", value=cache.size_bytes)
        yield CounterMetricFamily(
            "sixfold_pages_read", "Pages read from storage", value=driver.reads.pages_read
        )
        yield GaugeMetricFamily("sixfold_vdl", "Volume durable LSN", value=driver.vdl)
        yield GaugeMetricFamily("sixfold_vcl", "Volume complete LSN", value=driver.vcl)
        yield GaugeMetricFamily("sixfold_last_lsn", "Last LSN given out", value=driver.last_lsn)
        yield GaugeMetricFamily("sixfold_epoch", "Volume epoch", value=driver.epoch)
        waiting = driver.unacknowledged_bytes
        yield GaugeMetricFamily("sixfold_unacknowledged_bytes", "Log not yet at a quorum", value=waiting)
        yield driver.commit_times.metric("sixfold_commit_seconds", "From a commit to its durability")
        yield driver.reads.times.metric("sixfold_page_read_seconds", "Reads of pages from storage")
        acks = CounterMetricFamily("sixfold_acks", "Acknowledgements", labels=["segment"])
        sent = CounterMetricFamily("sixfold_sent_bytes", "Log sent", labels=["node"])
        batches = CounterMetricFamily("sixfold_sent_batches", "Batches sent", labels=["node"])
        connected = GaugeMetricFamily("sixfold_connected", "Is the node's stream up?", labels=["node"])
        latency = GaugeMetricFamily("sixfold_read_seconds", "Mean time of a page read", labels=["node"])
        for node, client in driver.nodes.items():
            sent.add_metric([node], client.bytes_sent)
            batches.add_metric([node], client.messages_sent)
            connected.add_metric([node], client.connected)
            latency.add_metric([node], driver.reads.latencies.of(node))
            for segment, count in client.acks.items():
                acks.add_metric([str(segment)], count)
        scl = GaugeMetricFamily("sixfold_acknowledged_scl", "SCL as acknowledged", labels=["group", "node"])
        for group, lsns in driver.group_scl().items():
            for node, lsn in lsns.items():
                scl.add_metric([f"pg{group}", node], lsn)
        yield from (acks, sent, batches, connected, latency, scl)


def registry_of(instance: Instance) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_InstanceCollector(instance))
    return registry
