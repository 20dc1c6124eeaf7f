"""Deployment `prepare-dataset`: from ingested images to one version of the dataset table."""

from typing import Any

from prefect import flow

from flows.dataset_report import show_dropped
from flows.events import announce
from flows.parameters import PrepareDataset
from flows.reporting import staged
from flows.stages import prepare, stop_everything


@flow(name="prepare-dataset", on_cancellation=[stop_everything], on_crashed=[stop_everything])
@staged
def prepare_dataset(settings: PrepareDataset) -> dict[str, Any]:
    """Decode, score, filter, deduplicate and upscale what was ingested, and commit it as one version of the table."""
    outcome = prepare(settings.card, settings.ingest_id, settings.preparing.arguments)
    show_dropped(outcome)
    announce(settings.card, outcome)
    return {"prepare": outcome}
