"""A release that is killed (SIGKILL) when it first reaches one step of its work. Run by test_release."""

import os
import signal
import sys
from pathlib import Path

from mlflow import MlflowClient
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

from pangu.registry import release
from pangu.storage import read_json

STEPS = {"alias": "set_registered_model_alias"}


def main(folder: Path, pair: Path, step: str) -> None:
    """Replace the step by the process's death; everything before it is real."""
    where = MlflowArtifactsRepository if step == "log_artifacts" else MlflowClient
    setattr(where, STEPS.get(step, step), lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    root = folder / "a"
    release(pair, root / "structure", root / "texture", read_json(folder / "evaluation.json"))


main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
