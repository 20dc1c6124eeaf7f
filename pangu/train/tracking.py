"""MLflow run of one training job, written by rank 0. The only place in training that knows MLflow."""

import os
import time
from typing import Any

from pangu.config import Recipe
from pangu.progress import Progress, Reporter
from pangu.train.loop import OnMetrics

EXPERIMENT = "pangu-training"


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested configuration as dotted names, the way MLflow shows parameters."""
    result: dict[str, str] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        result |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: str(value)}
    return result


class Tracker:
    """One MLflow run per training run name: a resumed run continues it. Without MLFLOW_TRACKING_URI it does nothing."""

    def __init__(self, run_name: str, recipe: Recipe, facts: dict[str, str]) -> None:
        self._client: Any = None
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            return
        from mlflow import MlflowClient

        self._client = MlflowClient()
        found = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
        runs = self._client.search_runs([experiment], f"tags.`pangu.run_name` = '{run_name}'", max_results=1)
        if runs:
            self.run_id = runs[0].info.run_id
            self._client.update_run(self.run_id, status="RUNNING")
            return
        tags = {"pangu.run_name": run_name} | {f"pangu.{key}": value for key, value in facts.items()}
        self.run_id = self._client.create_run(experiment, tags=tags, run_name=run_name).info.run_id
        for key, value in flatten(recipe.model_dump(mode="json")).items():
            self._client.log_param(self.run_id, key, value)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        if self._client is None:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.run_id, [Metric(key, value, now, step) for key, value in metrics.items()])

    def finish(self, status: str = "FINISHED") -> None:
        if self._client is not None:
            self._client.set_terminated(self.run_id, status)


def reporting(tracker: Tracker, role: str, total_steps: int, report: Reporter) -> OnMetrics:
    """Send each log line to MLflow and to the progress of the stage."""

    def on_metrics(step: int, metrics: dict[str, float]) -> None:
        tracker.log(step, metrics)
        facts = {key: round(value, 5) for key, value in metrics.items()}
        report(Progress(stage=f"train-{role}", done=step, total=total_steps, unit="steps", facts=facts))

    return on_metrics
