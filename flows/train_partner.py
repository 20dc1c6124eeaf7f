"""Deployment `train-partner`: encode a dataset version, then train one partner of Coop-Diffusion."""

from typing import Any

from prefect import flow

from flows.parameters import TrainPartner
from flows.reporting import staged
from flows.stages import encode, join, recipe_of, stop_everything, train
from pangu.recipes import recipe as named


@flow(name="train-partner", on_cancellation=[stop_everything], on_crashed=[stop_everything])
@staged
def train_partner(settings: TrainPartner) -> dict[str, Any]:
    """A generator for all timesteps, joined into a pipeline folder, or a ControlNet on one, which is a partner's as it is."""
    recipe, (role,) = recipe_of(settings.recipe, settings.all_changes), named(settings.recipe).roles
    encoded = encode(settings.card, settings.version, recipe, settings.devices.arguments)
    trained = train(settings.card, encoded["encode_id"], recipe, role)
    stages = {"encode": encoded, f"train-{role}": trained}
    if role != "single":
        return stages
    return {**stages, "join": join(trained["generator"], recipe, trained["run_name"])}
