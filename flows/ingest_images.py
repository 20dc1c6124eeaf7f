"""Deployment `ingest-images`: fetch the images of a card."""

from typing import Any

from prefect import flow

from flows.parameters import IngestImages
from flows.reporting import staged
from flows.stages import ingest, stop_everything

DEFAULTS = IngestImages()


@flow(name="ingest-images", on_cancellation=[stop_everything], on_crashed=[stop_everything])
@staged
def ingest_images(settings: IngestImages = DEFAULTS) -> dict[str, Any]:
    """Fetch the images that a card's source lists; every row ends as ok or as failed with a reason."""
    return {"ingest": ingest(settings.card, settings.retry, settings.every_node)}
