"""What one gateway counts, in Prometheus' text format."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pangu.extras import is_findable, missing

COUNTING = is_findable("prometheus_client")
"""Whether anything is counted: the core serves without."""
if COUNTING or TYPE_CHECKING:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
else:
    from pangu.serve.uncounted import Uncounted as CollectorRegistry
    from pangu.serve.uncounted import Uncounted as Counter
    from pangu.serve.uncounted import Uncounted as Gauge
    from pangu.serve.uncounted import Uncounted as Histogram

STAGE_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
BATCH_SIZES = (1, 1.5, 2, 3, 4, 6, 8, 12, 16)


class Metrics:
    """Own registry, so that several gateways in one process do not collide."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.in_flight = Gauge("pangu_requests_in_flight", "Accepted and not yet answered", registry=self._registry)
        self.retried = Counter("pangu_retried", "Requests drawn again because a replica died", registry=self._registry)
        self._images = Counter("pangu_images", "Images drawn; its rate is images/s", registry=self._registry)
        self._withheld = Counter(
            "pangu_images_withheld", "Images that moderation did not let out", ["kind"], registry=self._registry
        )
        self._refused = Counter("pangu_errors", "Answers with an error", ["status", "code"], registry=self._registry)
        self._cached = Counter(
            "pangu_structures_from_cache", "Requests that began at the boundary", registry=self._registry
        )
        self._stages = Histogram(
            "pangu_stage_seconds", "Wall-clock per stage", ["stage"], buckets=STAGE_SECONDS, registry=self._registry
        )
        self._company = Histogram(
            "pangu_step_batch_size",
            "Requests that shared a call of the network, mean over the steps of one of them",
            ["pool"],
            buckets=BATCH_SIZES,
            registry=self._registry,
        )
        self._first_image = Gauge(
            "pangu_first_image_seconds",
            "From the declaration of a release to its first image",
            ["pair_version"],
            registry=self._registry,
        )
        self._releases = Counter(
            "pangu_release_images", "Images drawn by each release", ["pair_version"], registry=self._registry
        )

    def drew_first(self, pair_version: int, seconds: float) -> None:
        """A release became ready: its first image, from the declaration to the file."""
        self._first_image.labels(str(pair_version)).set(seconds)

    def drawn(
        self,
        images: int,
        seconds: Mapping[str, float],
        batch_sizes: Mapping[str, float] | None = None,
        pair_version: int = 0,
        cached: bool = False,
    ) -> None:
        """One answered request."""
        self._images.inc(images)
        self._releases.labels(str(pair_version)).inc(images)
        if cached:
            self._cached.inc()
        for stage, value in seconds.items():
            self._stages.labels(stage).observe(value)
        for pool, requests in (batch_sizes or {}).items():
            if requests:
                self._company.labels(pool).observe(requests)

    def withheld(self, images: int, kind: str) -> None:
        """kind: "result", or "partial" for one on the way."""
        self._withheld.labels(kind).inc(images)

    def refused(self, status: int, code: str | None = None) -> None:
        self._refused.labels(str(status), code or "").inc()

    def exposition(self) -> tuple[bytes, str]:
        """(text, media type).

        Raises:
            MissingExtra: nothing is counted here.
        """
        if not COUNTING:
            raise missing("platform", "/metrics")
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
