"""What MLflow 3 calls a logged model: where the files of a version lie, and its figures."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pangu.registry import tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, LoggedModel, Run

READY: Literal["READY"] = "READY"
PARAMS = ("role", "interval", "boundary", "recipe", "dataset", "dataset_version", "trained_steps")
"""Tags of ours that a person compares models by."""


def logged_model(client: "MlflowClient", run: "Run", model: str, tags: Mapping[str, str]) -> "LoggedModel":
    """The logged model of a release's run; one, however often it is tried."""
    found = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'", max_results=1)
    if found:
        return found[0]
    parameters = {name: tags[f"pangu.{name}"] for name in PARAMS if f"pangu.{name}" in tags}
    return client.create_logged_model(
        run.info.experiment_id,
        name=model,
        source_run_id=run.info.run_id,
        tags={tracking.CONTENT: run.data.tags[tracking.CONTENT]},
        params=parameters,
        model_type="text-to-image",
    )


def finish(
    client: "MlflowClient",
    run: "Run",
    logged: "LoggedModel",
    metrics: Mapping[str, float],
    inputs: Sequence["DatasetInput"],
) -> None:
    """Figures, the data that it was made of, and the word that its files are all there."""
    from mlflow.entities import LoggedModelOutput

    run_id = run.info.run_id
    if inputs:
        client.log_inputs(run_id, datasets=list(inputs))
    for name, value in metrics.items():
        client.log_metric(run_id, name, value, model_id=logged.model_id)
    if not (run.outputs and run.outputs.model_outputs):
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    client.finalize_logged_model(logged.model_id, READY)


def is_ready(logged: "LoggedModel") -> bool:
    """Whether `finish` said so."""
    return str(logged.status) == READY
