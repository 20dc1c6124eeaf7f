"""What all adapters with an autoencoder share: the way between latents and pixels."""

from typing import Any

import torch
from torch import Tensor

from pangu.errors import UserError
from pangu.models.autoencoders import raw_latents, scaled, spatial_factor, unscaled
from pangu.models.whereabouts import dtype_of
from pangu.pipelines.coop.model_adapter import ModelAdapter, check_parts


class LatentAdapter(ModelAdapter):
    """A model of the latents of an autoencoder."""

    def check(self) -> None:
        if self.vae is None:
            raise UserError(
                f"{self.name} has no autoencoder (vae), so no bridge leads to its latents; load it with one."
            )
        latents = int(self.vae.config.latent_channels)
        if latents != self.channels:
            raise UserError(
                f"{self.name} has a network of {self.channels} channels, but an autoencoder of {latents}; "
                f"a text-to-image network, not one of inpainting or of depth, can cooperate."
            )
        if self.network.config.get("time_cond_proj_dim") is not None:
            raise UserError(
                f"{self.name} has a network that embeds its guidance scale, as LCM does; use one that does not."
            )
        check_parts(self)
        if self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast"):
            self.vae.to(torch.float32)  # SDXL's overflows in half precision

    @property
    def pixels_per_latent(self) -> int:
        return spatial_factor(self.vae)

    @property
    def size_step(self) -> int:
        return self.pixels_per_latent

    @property
    def default_size(self) -> tuple[int, int]:
        side = self.network.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return height * self.pixels_per_latent, width * self.pixels_per_latent

    def to_pixels(self, latents_bchw: Tensor, vae: Any = None) -> Tensor:
        chosen = vae if vae is not None else self.vae
        raw = unscaled(chosen, latents_bchw).to(self.device, dtype_of(chosen))
        return chosen.decode(raw, return_dict=False)[0].float()

    def to_latents(self, pixels_bchw: Tensor, vae: Any = None) -> Tensor:
        chosen = vae if vae is not None else self.vae
        return scaled(chosen, raw_latents(chosen, pixels_bchw.to(self.device, dtype_of(chosen))).float())
