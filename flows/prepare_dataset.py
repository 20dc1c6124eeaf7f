"""Deployment `prepare-dataset`: from ingested images to one version of the dataset table."""

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.parameters import PrepareDataset
from flows.reporting import staged
from flows.stages import prepare, stop_everything
from pangu.data.rejects import rejected_folder
from pangu.data.report import markdown
from pangu.storage import Home


@flow(name="prepare-dataset", on_cancellation=[stop_everything], on_crashed=[stop_everything])
@staged
def prepare_dataset(settings: PrepareDataset) -> dict[str, Any]:
    """Decode, score, filter, deduplicate and upscale what was ingested, and commit it as one version of the table."""
    outcome = prepare(settings.card, settings.ingest_id)
    show_dropped(outcome)
    return {"prepare": outcome}


def show_dropped(outcome: dict[str, Any]) -> None:
    """How many rows were dropped for what, with example images, in the run's artifacts."""
    rejected = rejected_folder(Home.from_environment(), outcome["dataset"], outcome["key"])
    shown = markdown(outcome["dataset"], outcome["dropped"], outcome["rows"], outcome["report"], rejected)
    create_markdown_artifact(shown, key="prepare-report")
