"""Figures measured on one installation, and the model that carries them over to other sizes. Pure but for its file.

A CPU training step costs `overhead_s + operations * s_per_operation`: Python and the optimizer, and the network.
A stage over images costs `start_s + images * image_s`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from pangu.config import Frozen
from pangu.errors import UserError
from pangu.storage import Home, read_json, write_json


class MeasuredTraining(Frozen):
    """A training that was measured: so many steps of so many counted operations took so many core-seconds."""

    name: str
    steps: int = Field(ge=1)
    operations_per_step: float = Field(gt=0)
    core_s: float = Field(gt=0)


class StepCost(Frozen):
    """Core-seconds of a training step on one core of this installation."""

    overhead_s: float = Field(ge=0)
    s_per_operation: float = Field(gt=0)

    def core_s(self, steps: int, operations_per_step: float) -> float:
        return steps * (self.overhead_s + operations_per_step * self.s_per_operation)


class StageCost(Frozen):
    """Core-seconds of a stage over images, as real runs of two sizes tell."""

    start_s: float = Field(ge=0)
    image_s: float = Field(gt=0)
    image_bytes: float = Field(0.0, ge=0, description="What one image takes on the disk afterwards")


class Figures(Frozen):
    """Everything that `pangu calibrate` keeps."""

    machine: str
    cores: int
    step: StepCost
    samples: tuple[MeasuredTraining, ...]
    ingest: StageCost
    prepare: StageCost
    encode: StageCost
    decode_s_per_megapixel: float = Field(gt=0, description="Decoding and fitting an image, by its own size")
    upscale_s_per_megapixel: float = Field(gt=0, description="Of the enlarged image")

    @property
    def core_gflops(self) -> float:
        """Counted operations that a core does in training, 1e9 a second, without the overhead of a step."""
        return 1e-9 / self.step.s_per_operation

    def save(self, home: Home) -> Path:
        write_json(file_of(home), self.model_dump(mode="json"))
        return file_of(home)

    @classmethod
    def load(cls, home: Home) -> "Figures":
        """Raises UserError if this installation was never calibrated."""
        try:
            return cls.model_validate(read_json(file_of(home)))
        except (OSError, ValueError, ValidationError) as error:
            raise UserError(f"{file_of(home)} holds no measured figures; run `pangu calibrate` once.") from error


def file_of(home: Home) -> Path:
    return home.root / "calibration.json"


def fit(samples: Sequence[MeasuredTraining]) -> StepCost:
    """The step cost with the least squared relative error over the samples; neither part below zero.

    Raises:
        UserError: there is no sample.
    """
    if not samples:
        raise UserError("There is no measured training to fit a cost to; run `pangu calibrate`.")
    per_step = np.array([one.core_s / one.steps for one in samples])
    operations = np.array([one.operations_per_step for one in samples])
    scaled = np.stack([1 / per_step, operations / per_step], axis=1)
    only_operations = float(scaled[:, 1].sum() / (scaled[:, 1] ** 2).sum())
    if len(set(operations)) == 1:
        return StepCost(overhead_s=0, s_per_operation=only_operations)
    overhead, slope = np.linalg.lstsq(scaled, np.ones(len(samples)), rcond=None)[0]
    if slope <= 0 or overhead < 0:
        return StepCost(overhead_s=0, s_per_operation=only_operations)
    return StepCost(overhead_s=float(overhead), s_per_operation=float(slope))


def left_out_errors(samples: Sequence[MeasuredTraining]) -> dict[str, float]:
    """Relative error of each sample's prediction by a fit to all the others: (predicted - measured) / measured."""
    errors = {}
    for index, one in enumerate(samples):
        others = [*samples[:index], *samples[index + 1 :]]
        if others:
            predicted = fit(others).core_s(one.steps, one.operations_per_step)
            errors[one.name] = predicted / one.core_s - 1
    return errors


def two_sizes(small: tuple[int, float], large: tuple[int, float], image_bytes: float = 0.0) -> StageCost:
    """The line through two measurements (images, core-seconds); where noise turns it round, all cost is the images'.

    Raises:
        ValueError: the sizes are not in order.
    """
    if not 0 < small[0] < large[0]:
        raise ValueError("the second measurement must have more images than the first")
    image_s = (large[1] - small[1]) / (large[0] - small[0])
    start_s = small[1] - small[0] * image_s
    if image_s <= 0 or start_s < 0:
        return StageCost(start_s=0, image_s=large[1] / large[0], image_bytes=image_bytes)
    return StageCost(start_s=start_s, image_s=image_s, image_bytes=image_bytes)
