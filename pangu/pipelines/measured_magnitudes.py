"""Measuring how much the blocks of a half add by timestep, once for any number of steps, so that MagCache can leave them out."""

from collections.abc import Sequence
from typing import Any

import torch

from pangu.config import Reuse, Role
from pangu.models.magnitudes import RESIDUALS, curve_of
from pangu.models.step_caches import StepCache
from pangu.pipelines.pangu_draw import PanGuDrawPipeline


def measure_magnitudes(
    pair: PanGuDrawPipeline,
    role: Role,
    prompts: Sequence[str],
    num_inference_steps: int = 40,
    seed: int = 0,
    **call: Any,
) -> list[list[float]]:
    """Draw these prompts as a whole and keep [[timestep, magnitude], ...] in the configuration of a half.

    It is saved with the half from then on. call: further arguments of the pipeline, as it will be asked (`guidance_scale`).

    Raises:
        UserError: the half is no transformer whose blocks diffusers' hook knows.
    """
    network, before, reuse = pair.generator(role), pair.generator(role).config.get(RESIDUALS), dict(pair.reuse)
    network.register_to_config(**{RESIDUALS: [[0.0, 1.0]]})  # so that it can be switched on
    found = before
    try:
        pair.set_reuse({role: Reuse(kind="mag")})
        cache = StepCache.of(network)
        assert cache is not None
        seen = cache.measure()
        noise = [torch.Generator().manual_seed(seed + place) for place in range(len(prompts))]
        pair(list(prompts), generator=noise, num_inference_steps=num_inference_steps, output_type="latent", **call)
        found = curve_of(seen)
    finally:
        network.register_to_config(**{RESIDUALS: found})
        pair.set_reuse(reuse)
    return found or []
