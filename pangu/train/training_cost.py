"""What the loop of a training took, in core-seconds, as a file of its run folder: `pangu calibrate` and `plan` learn from it."""

import json
from pathlib import Path

from pydantic import Field, ValidationError

from pangu.config import Frozen
from pangu.storage import read_json, write_json

SPENT_FILE = "core_seconds.json"


class TrainingCost(Frozen):
    """Of the last attempt, which may have begun at a checkpoint."""

    core_s: float = Field(gt=0, description="Processor time of the loop, all workers together")
    steps: int = Field(ge=1, description="Steps that took it")
    workers: int = Field(1, ge=1)

    def save(self, run_folder: Path) -> None:
        write_json(run_folder / SPENT_FILE, self.model_dump())


def read_spent(run_folder: Path) -> TrainingCost | None:
    """What a run left, or None: it trained on a device, made no step, or was never finished."""
    try:
        return TrainingCost.model_validate(read_json(run_folder / SPENT_FILE))
    except (OSError, json.JSONDecodeError, ValidationError):
        return None
