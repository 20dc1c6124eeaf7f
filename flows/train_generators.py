"""Deployment `train-generators`: encode a dataset version, then train both generators at the same time."""

from typing import Any

from prefect import flow
from prefect.futures import wait
from prefect.task_runners import ThreadPoolTaskRunner

from flows.parameters import TrainGenerators
from flows.reporting import staged
from flows.stages import encode, recipe_of, stop_everything, train
from pangu.config import ROLES


@flow(
    name="train-generators",
    task_runner=ThreadPoolTaskRunner(max_workers=len(ROLES)),
    on_cancellation=[stop_everything],
    on_crashed=[stop_everything],
)
@staged
def train_generators(settings: TrainGenerators) -> dict[str, Any]:
    """Structure on all rows, texture on the large originals: two independent jobs, side by side."""
    recipe = recipe_of(settings.chosen_recipe, settings.all_changes)
    encoded = encode(settings.card, settings.version, recipe, settings.devices.arguments)
    return {"encode": encoded, **train_both(settings.card, encoded["encode_id"], recipe)}


def train_both(card: str, encode_id: str, recipe: str) -> dict[str, Any]:
    """Start the jobs of both roles, wait for both, and only then look at how they ended."""
    futures = {f"train-{role}": train.submit(card, encode_id, recipe, role) for role in ROLES}
    wait(list(futures.values()))
    return {stage: future.result() for stage, future in futures.items()}
