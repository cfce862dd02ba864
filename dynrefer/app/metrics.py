"""What the service counts, in the text form that Prometheus reads."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TOGETHER = (1, 2, 4, 8, 16, 32, 64)


class ServiceMetrics:
    """Counters of one service; Prometheus's own for the process are beside them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        labels = ["path", "status"]
        self.answers = Counter("dynrefer_answers", "answered requests", labels, registry=registry)
        self.seconds = Histogram(
            "dynrefer_answer_seconds",
            "from a request's first byte to its answer",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.waiting = Gauge(
            "dynrefer_waiting_requests", "received, waiting or computed", registry=registry
        )
        self.together = Histogram(
            "dynrefer_batch_requests",
            "requests that the model took at once",
            buckets=TOGETHER,
            registry=registry,
        )
        self.regions = Counter("dynrefer_regions", "regions that were described", registry=registry)

    def text(self) -> bytes:
        """All of them, in Prometheus's text form."""
        return generate_latest(self.registry)
