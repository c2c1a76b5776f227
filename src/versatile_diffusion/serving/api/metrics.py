"""Figures of a service, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from versatile_diffusion.serving.engine import Engine

SIZES = (1, 2, 4, 8, 16, 32, 64)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The figures of one service, apart from those of others in the same process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.batch = Histogram(
            "versatile_pass_batch_size", "Items in a pass through the network.", buckets=SIZES, registry=registry
        )
        self.seconds = Histogram(
            "versatile_pass_seconds", "Seconds of a pass through the network.", buckets=SECONDS, registry=registry
        )
        self.requests = Counter(
            "versatile_requests_total", "Requests by endpoint and status.", ["endpoint", "status"], registry=registry
        )
        self.latency = Histogram(
            "versatile_request_seconds", "Seconds of a request.", ["endpoint"], buckets=SECONDS, registry=registry
        )

    def watch(self, engine: Engine) -> None:
        """Shows how full an engine is."""
        gauges = {
            "versatile_queue_length": ("Requests that wait.", lambda: engine.waiting),
            "versatile_running_items": ("Items that are generated now.", lambda: engine.running),
        }
        for name, (help, count) in gauges.items():
            Gauge(name, help, registry=self.registry).set_function(count)

    def passed(self, size: int, seconds: float) -> None:
        """A pass through the network."""
        self.batch.observe(size)
        self.seconds.observe(seconds)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """A request."""
        self.requests.labels(endpoint, str(status)).inc()
        self.latency.labels(endpoint).observe(seconds)
