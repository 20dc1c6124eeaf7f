"""A ControlNet on a frozen UNet (arXiv 2302.05543), as one network: what is trained, saved, and asked.

Made of diffusers' own `ControlNetModel`, so what is saved serves wherever theirs do.
"""

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from pangu.config import Role
from pangu.errors import UserError

EMBEDDING_WIDTHS = (16, 32, 96, 256)
"""Channels at which diffusers' ControlNets look at the control image; each level halves its sides."""


def sees_control(role: Role) -> bool:
    """Whether what that role trains is a ControlNet on a given generator."""
    return role == "control"


class ControlledUNet(nn.Module):
    """A UNet with what a ControlNet adds to it; called like the UNet, with the control image beside.

    Only the ControlNet is trained and saved.
    """

    def __init__(self, unet: UNet2DConditionModel, controlnet: ControlNetModel) -> None:
        super().__init__()
        self.unet, self.controlnet = unet, controlnet

    @property
    def config(self) -> Any:
        """The UNet's, which says how it is conditioned."""
        return self.unet.config

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        return_dict: bool = False,
        control_bchw: Tensor | None = None,
        conditioning_scale: float = 1.0,
    ) -> tuple[Tensor]:
        """One prediction (B, C, H, W) in a tuple; control_bchw (B, 3, H, W) in [0, 1] is in pixels of the whole picture."""
        assert control_bchw is not None, "a controlled UNet is asked with a control image"
        given = {"encoder_hidden_states": encoder_hidden_states, "added_cond_kwargs": added_cond_kwargs}
        down, middle = self.controlnet(
            sample,
            timestep,
            controlnet_cond=control_bchw.to(sample.dtype),
            conditioning_scale=conditioning_scale,
            return_dict=False,
            **given,
        )
        return self.unet(
            sample,
            timestep,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=return_dict,
            **given,
        )

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations of both networks in the backward pass."""
        self.unet.enable_gradient_checkpointing()
        self.controlnet.enable_gradient_checkpointing()

    def save_pretrained(self, folder: Path, **arguments: Any) -> None:
        """The ControlNet alone, as diffusers writes it."""
        self.controlnet.save_pretrained(folder, **arguments)


def add_control(unet: UNet2DConditionModel, spatial_factor: int, seed: int) -> ControlledUNet:
    """Freeze the UNet and put a fresh ControlNet on it: a copy of its encoder, which changes no prediction yet.

    spatial_factor: pixels per latent along one side. What is new in the ControlNet is drawn from `seed` alone.

    Raises:
        UserError: control images cannot be brought to the size of such latents.
    """
    levels = math.log2(spatial_factor) + 1
    if not levels.is_integer() or not 1 <= levels <= len(EMBEDDING_WIDTHS):
        most = 2 ** (len(EMBEDDING_WIDTHS) - 1)
        raise UserError(
            f"A ControlNet brings its image to latents of 1, 2, 4 ... {most} pixels per latent, not of {spatial_factor}."
        )
    unet.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        controlnet = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=EMBEDDING_WIDTHS[: int(levels)]
        )
    return ControlledUNet(unet, controlnet.requires_grad_(True))
