"""Pairs of random weights in the shape of a recipe, without the files that its encoders would need."""

from typing import Any

import torch

from pangu.config import ROLES, AutoencoderSource, Recipe, TextEncoderSource
from pangu.data.encode.encoders import Loaded, describe
from pangu.models.denoisers import build_denoiser
from pangu.pipelines.assemble import join
from pangu.pipelines.pangu_draw import PanGuDrawPipeline


def with_embedded_encoders(recipe: Recipe, side: int) -> Recipe:
    """The recipe with the package's own encoders, for square images of `side` px.

    A large network hardly differs by the channels of latents and text that it is given.
    """
    square = {"resolution": side, "presets": "square", "crop_from": None}
    return recipe.model_copy(
        update={
            "autoencoder": AutoencoderSource(),
            "text_encoders": (TextEncoderSource(),),
            "max_tokens": 32,
            "jobs": {role: job.model_copy(update=square) for role, job in recipe.jobs.items()},
        }
    )


def stand_in(recipe: Recipe, side: int, device: torch.device) -> PanGuDrawPipeline:
    """A pair both of whose halves are one network of random weights, which is drawn on the device and costs its memory once."""
    recipe = with_embedded_encoders(recipe, side)
    loaded = Loaded.of(recipe, "cpu")
    encoders = describe(loaded.autoencoder, loaded.towers, recipe.max_tokens)
    channels = encoders.latent_channels, encoders.context_channels, encoders.pooled_channels
    contracts = {role: encoders.contract(recipe, role) for role in ROLES}
    network = random_network(recipe, channels, device)
    pair = join(network, network, contracts, loaded.autoencoder, loaded.towers, recipe)
    pair.set_progress_bar_config(disable=True)
    return pair


def random_network(recipe: Recipe, channels: tuple[int, int, int], device: torch.device) -> Any:
    """A denoiser of the recipe's shape for latents, tokens and pooled text of so many channels, ready to predict."""
    with torch.device(device):
        return build_denoiser(recipe.denoiser_of(recipe.roles[0]), *channels).eval().requires_grad_(False)
