"""What one gateway counts, in Prometheus' text format."""

from collections.abc import Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

STAGE_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class Metrics:
    """Own registry, so that several gateways in one process do not collide."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.in_flight = Gauge("pangu_requests_in_flight", "Accepted and not yet answered", registry=self._registry)
        self._images = Counter("pangu_images", "Images drawn", registry=self._registry)
        self._refused = Counter("pangu_errors", "Answers with an error", ["status"], registry=self._registry)
        self._stages = Histogram(
            "pangu_stage_seconds", "Wall-clock per stage", ["stage"], buckets=STAGE_SECONDS, registry=self._registry
        )

    def drawn(self, images: int, seconds: Mapping[str, float]) -> None:
        self._images.inc(images)
        for stage, value in seconds.items():
            self._stages.labels(stage).observe(value)

    def refused(self, status: int) -> None:
        self._refused.labels(str(status)).inc()

    def exposition(self) -> tuple[bytes, str]:
        """(text, media type)."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
