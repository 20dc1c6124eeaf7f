"""Tiny recipes of a single generator and of a ControlNet on it."""

from pathlib import Path

from pangu.config import EdgeControl, InitialWeights, Recipe, RoleTraining
from pangu.recipes import tiny


def single_recipe(steps: int = 2) -> Recipe:
    """The tiny recipe as one generator for all timesteps, at 96 px."""
    job = RoleTraining(resolution=96, steps=steps, batch_size=4)
    return tiny().model_copy(update={"name": "tiny_single", "strategy": "single", "jobs": {"single": job}})


def control_recipe(
    generator: Path | str = "a-generator", steps: int = 4, control: EdgeControl | None = None, crop: int | None = None
) -> Recipe:
    """A ControlNet on the generator in a folder; with `crop`, on windows of so many pixels."""
    job = RoleTraining(
        resolution=crop or 96,
        crop_from=96 if crop else None,
        steps=steps,
        batch_size=4,
        control=control or EdgeControl(),
    )
    changes = {"name": "tiny_control", "strategy": "control", "jobs": {"control": job}}
    optimization = tiny().optimization.model_copy(update={"checkpoint_every": 1})
    return tiny().model_copy(
        update=changes | {"init_from": InitialWeights(source=str(generator)), "optimization": optimization}
    )
