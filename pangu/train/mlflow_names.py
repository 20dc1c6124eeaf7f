"""Under which names trainings and their data stand in MLflow, for whoever writes them or looks for them."""

import json
from typing import TYPE_CHECKING

from pangu.storage import Home

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

EXPERIMENT = "pangu-training"
RUN_NAME, PAIR = "pangu.run_name", "pangu.pair"


def dataset_input(name: str, version: int) -> "DatasetInput":
    """A version of a dataset as the input of a run; the same one for everything that is made of it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    table = {"path": Home.from_environment().table_uri(name), "delta_table_version": version}
    known = Dataset(name=name, digest=f"v{version}", source_type="delta_table", source=json.dumps(table))
    return DatasetInput(known, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])
