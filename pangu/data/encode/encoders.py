"""The frozen encoders of a recipe, loaded, and the facts about them."""

from dataclasses import dataclass
from typing import Any

import torch

from pangu.config import Recipe
from pangu.data.encode.encoded import Encoders
from pangu.models.autoencoders import autoencoder_hash, latent_channels, load_autoencoder, scaling, spatial_factor
from pangu.models.devices import best_device, dtype_on
from pangu.models.placeholder_tokens import placeholders, text_towers_of
from pangu.models.text import TextTower, embed_captions


@dataclass(frozen=True)
class Loaded:
    """The frozen encoders of a recipe."""

    autoencoder: Any
    towers: list[TextTower]
    max_tokens: int
    styles: dict[str, str]

    @classmethod
    def of(cls, recipe: Recipe, device: torch.device | str) -> "Loaded":
        autoencoder = load_autoencoder(recipe.autoencoder).to(device)
        return cls(autoencoder, load_towers(recipe, device), recipe.max_tokens, recipe.styles)

    @classmethod
    def at_work(cls, recipe: Recipe) -> "Loaded":
        """On the device of this process, as fast as it is right there; `describe` wants them as `of` loads them."""
        return cls.of(recipe, best_device()).fast()

    def fast(self) -> "Loaded":
        """The same, converted in place to the number format that their device encodes in."""
        dtype = dtype_on(self.autoencoder.device)
        for network in (self.autoencoder, *(tower.encoder for tower in self.towers)):
            torch.nn.Module.to(network, dtype)
        return self


def load_towers(recipe: Recipe, device: torch.device | str) -> list[TextTower]:
    """The text encoders of a recipe alone."""
    towers = text_towers_of(recipe)
    for tower in towers:
        tower.encoder.to(device)
    return towers


def describe(autoencoder: Any, towers: list[TextTower], max_tokens: int) -> Encoders:
    """The facts about loaded encoders that travel with their output."""
    scale, shift = scaling(autoencoder)
    tokens, pooled = embed_captions(towers, [""], max_tokens)
    return Encoders(
        autoencoder_hash=autoencoder_hash(autoencoder),
        text_encoder_hashes=tuple(tower.hash for tower in towers),
        placeholder_tokens=placeholders(towers),
        latent_scaling=scale,
        latent_shift=shift,
        spatial_factor=spatial_factor(autoencoder),
        latent_channels=latent_channels(autoencoder),
        context_channels=tokens.shape[-1],
        pooled_channels=pooled.shape[-1],
        max_tokens=max_tokens,
    )
