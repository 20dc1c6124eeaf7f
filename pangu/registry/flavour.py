"""The small files by which MLflow knows a pair as a model: what loads it, what goes in and out, and an example."""

import shutil
import tempfile
from pathlib import Path

from pangu.config import Sampling
from pangu.registry import drawing_model
from pangu.registry.manifest import MLFLOW_FILES
from pangu.storage import read_json


def write_flavour(pair: Path, folder: Path) -> None:
    """Write `MLFLOW_FILES` for a pair folder into `folder`; they name no weights and hold no code.

    This package is not among their requirements: what the public index has under its name is another one.
    """
    import mlflow
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    index = read_json(pair / "model_index.json")
    sampling = Sampling.model_validate(index.get("sampling") or {})
    prompts = [text for texts in (index.get("prompts") or {}).values() for text in texts[:1]] or ["a red fox"]
    signature = ModelSignature(
        inputs=Schema(
            [
                ColSpec(DataType.string, drawing_model.PROMPT),
                ColSpec(DataType.string, drawing_model.NEGATIVE, required=False),
            ]
        ),
        outputs=Schema([ColSpec(DataType.string, drawing_model.IMAGE)]),
        params=ParamSchema(
            [
                ParamSpec("num_inference_steps", DataType.long, sampling.num_inference_steps),
                ParamSpec("guidance_scale", DataType.double, sampling.guidance_scale),
                ParamSpec("seed", DataType.long, 0),
                ParamSpec("height", DataType.long, 0),
                ParamSpec("width", DataType.long, 0),
            ]
        ),
    )
    with tempfile.TemporaryDirectory() as scratch:
        mlflow.pyfunc.save_model(
            f"{scratch}/model",
            loader_module=drawing_model.MODULE,
            signature=signature,
            input_example=(pd.DataFrame({drawing_model.PROMPT: prompts}), {"seed": 0}),
            pip_requirements=[f"mlflow=={mlflow.__version__}"],
        )
        for name in MLFLOW_FILES:
            shutil.copyfile(Path(scratch, "model", name), folder / name)
