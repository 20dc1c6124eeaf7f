"""Deployment `encode-dataset`: latents and text embeddings of one dataset version."""

from typing import Any

from prefect import flow

from flows.parameters import EncodeDataset
from flows.reporting import staged
from flows.stages import encode, recipe_of, stop_everything


@flow(name="encode-dataset", on_cancellation=[stop_everything], on_crashed=[stop_everything])
@staged
def encode_dataset(settings: EncodeDataset) -> dict[str, Any]:
    """Turn one dataset version into what the recipe's jobs read."""
    recipe = recipe_of(settings.chosen_recipe, settings.changes)
    return {"encode": encode(settings.card, settings.version, recipe, settings.devices.arguments)}
