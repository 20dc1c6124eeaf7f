"""A generator as the trajectory asks it: within its own timesteps, at one resolution preset."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pangu.config import Role
from pangu.contract import GeneratorContract
from pangu.diffusion.trajectory import Denoiser
from pangu.models.denoisers import denoise
from pangu.pipelines import inputs


def checked_denoiser(
    unet: Any,
    contract: GeneratorContract,
    role: Role,
    preset: int,
    lower_bchw: Tensor | None = None,
    cross_attention_kwargs: Mapping[str, Any] | None = None,
) -> Denoiser:
    """The network of `role`, conditioned on `lower_bchw` where given; it raises UserError for timesteps that are not its own.

    The timesteps are looked at where they are: on the CPU, so that nothing waits for the network's device.
    """
    dtype = unet.dtype
    height, width = inputs.presets_of(contract)[preset]
    size = height // contract.spatial_factor, width // contract.spatial_factor

    def predict(noisy: Tensor, timestep: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
        for outermost in timestep.aminmax():
            contract.interval.check(float(outermost), role)
        lower = None if lower_bchw is None else lower_bchw.repeat(len(noisy) // len(lower_bchw), 1, 1, 1)
        texts = tokens.to(dtype), pooled.to(dtype)
        return denoise(
            unet,
            noisy.to(dtype),
            timestep.to(noisy.device, non_blocking=True),
            *texts,
            preset,
            lower_bchw=lower,
            native_size=size,
            cross_attention_kwargs=cross_attention_kwargs,
        ).float()

    return predict
