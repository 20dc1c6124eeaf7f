"""A registered pair as MLflow's own programs use it: `mlflow.pyfunc.load_model("models:/pangu-pair@champion").predict(prompts)`.

`MLmodel` beside the files names this module, so no code comes with them, nothing is unpickled, and every byte is checked first.
"""

import base64
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangu.errors import UserError
from pangu.image_grid import png
from pangu.registry import tracking
from pangu.registry.fetch import check_folder
from pangu.registry.manifest import MANIFEST_FILE, Manifest
from pangu.storage import read_json

if TYPE_CHECKING:
    from pandas import DataFrame

    from pangu.pipelines.pangu_draw import PanGuDrawPipeline

MODULE = __name__
PROMPT, NEGATIVE, IMAGE = "prompt", "negative_prompt", "image"
AT_ONCE = 8
"""Pictures of one call of the pipeline."""
OLDEST_MLFLOW = 3
"""Major version: models have figures and an id of their own from it on."""


class DrawingModel:
    """Rows of text in, as many PNG pictures out."""

    def __init__(self, pipeline: "PanGuDrawPipeline") -> None:
        self.pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)

    def predict(self, model_input: "DataFrame", params: Mapping[str, Any] | None = None) -> "DataFrame":
        """One picture a row, as base64 of a PNG file in the column `image`.

        model_input: `prompt`, and `negative_prompt` where it is not null. params: num_inference_steps, guidance_scale, height and
        width in pixels (0: as trained), and seed; the row i is drawn from seed + i, whatever stands in the others.

        Raises:
            UserError: what the pipeline refuses, such as a size that is no preset.
        """
        import pandas as pd
        import torch

        settings = dict(params or {})
        seed = int(settings.pop("seed", 0))
        settings = {name: value for name, value in settings.items() if value or name == "guidance_scale"}
        if settings.get("guidance_scale") == self.pipeline.sampling.guidance_scale:
            del settings["guidance_scale"]  # as released: the texture half may have its own
        prompts = [str(text) for text in model_input[PROMPT]]
        negatives = [text if isinstance(text, str) else "" for text in model_input.get(NEGATIVE, [""] * len(prompts))]
        drawn: list[str] = []
        for first in range(0, len(prompts), AT_ONCE):
            rows = slice(first, first + AT_ONCE)
            noise = [torch.Generator().manual_seed(seed + first + row) for row in range(len(prompts[rows]))]
            images = self.pipeline(
                prompts[rows], negatives[rows] if any(negatives) else None, generator=noise, **settings
            ).images
            drawn += [base64.b64encode(png(image)).decode() for image in images]
        return pd.DataFrame({IMAGE: drawn}, index=model_input.index)


def check_mlflow() -> None:
    """Raises UserError if the MLflow that is installed here knows no such models."""
    found = version("mlflow")
    if int(found.partition(".")[0]) < OLDEST_MLFLOW:
        raise UserError(
            f"MLflow {found} is too old for a registered pair; install one of today: pip install 'mlflow>=3.17'."
        )


def _load_pyfunc(path: str) -> DrawingModel:
    """What MLflow calls with the folder that it fetched.

    Raises:
        UserError: a file is missing, added or changed, or the registry that is named here has no such pair.
    """
    check_mlflow()
    folder = Path(path)
    try:
        sha256 = Manifest.model_validate(read_json(folder / MANIFEST_FILE)).sha256
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} has no readable {MANIFEST_FILE}; release the pair again.") from error
    check_folder(folder, sha256)
    if os.environ.get("MLFLOW_TRACKING_URI") and not tracking.version_with(tracking.connect(), tracking.PAIR, sha256):
        raise UserError(f"No version of {tracking.PAIR} has the files of {folder}; they are not what was released.")
    import torch

    from pangu.pipelines import ExpertsPipeline, PanGuDrawPipeline

    of_experts = read_json(folder / "model_index.json").get("_class_name") == ExpertsPipeline.__name__
    kind = ExpertsPipeline if of_experts else PanGuDrawPipeline
    pipeline = kind.from_pretrained(folder, use_safetensors=True)
    return DrawingModel(pipeline.to("cuda") if torch.cuda.is_available() else pipeline)
