"""Deployment `train-generators`: encode a dataset version, then train both generators at the same time."""

from typing import Any

from prefect import flow
from prefect.futures import wait
from prefect.task_runners import ThreadPoolTaskRunner

from flows.mixing import with_further
from flows.parameters import TrainGenerators
from flows.reporting import staged
from flows.stages import encode, recipe_of, stop_everything, train
from pangu.config import MIDDLE_ROLES, ROLES, Role
from pangu.recipes import recipe as named

MOST = len(ROLES) + len(MIDDLE_ROLES)
"""Experts that can be trained side by side; they wait for devices in Ray."""


@flow(
    name="train-generators",
    task_runner=ThreadPoolTaskRunner(max_workers=MOST),
    on_cancellation=[stop_everything],
    on_crashed=[stop_everything],
)
@staged
def train_generators(settings: TrainGenerators) -> dict[str, Any]:
    """Structure on all rows, texture on the large originals: independent jobs, side by side, one an expert of the recipe."""
    recipe = recipe_of(settings.chosen_recipe, settings.all_changes)
    encoded = encode(settings.card, settings.version, recipe, settings.devices.arguments)
    recipe = with_further(recipe, settings.further, settings.devices.arguments)
    return {"encode": encoded, **train_all(settings.card, encoded["encode_id"], recipe)}


def train_all(card: str, encode_id: str, recipe: str) -> dict[str, Any]:
    """Start the jobs of all experts, wait for all, and only then look at how they ended. recipe: its name or file."""
    futures = {f"train-{role}": train.submit(card, encode_id, recipe, role) for role in experts_of(recipe)}
    wait(list(futures.values()))
    return {stage: future.result() for stage, future in futures.items()}


def experts_of(recipe: str) -> tuple[Role, ...]:
    """The experts that take turns, the noisiest first; of a recipe without any, those that its training will say it lacks."""
    roles = tuple(named(recipe).roles)
    return roles if set(ROLES) <= set(roles) else ROLES
