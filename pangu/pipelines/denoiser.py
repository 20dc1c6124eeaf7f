"""A generator as the sampling engine asks it: within its own timesteps, at one resolution preset."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pangu.config import Role
from pangu.contract import GeneratorContract
from pangu.diffusion.expert_turns import TOLERANCE
from pangu.diffusion.translation import Translation
from pangu.models.captured import Graphs
from pangu.models.deep_features import GivesFeatures, TakesFeatures, feature_channels
from pangu.models.denoisers import denoise, family_of
from pangu.models.step_caches import StepCache
from pangu.models.whereabouts import dtype_of
from pangu.pipelines import pair_inputs
from pangu.pipelines.reused_steps import Way
from pangu.sampling.question import Denoiser


def checked_denoiser(
    unet: Any,
    contract: GeneratorContract,
    role: Role,
    preset: int,
    lower_bchw: Tensor | None = None,
    cross_attention_kwargs: Mapping[str, Any] | None = None,
    graphs: Graphs | None = None,
    translated: Translation | None = None,
    way: Way | None = None,
) -> Denoiser:
    """The network of `role`, conditioned on `lower_bchw` where given; it raises UserError for timesteps that are not its own.

    The timesteps are looked at where they are: on the CPU, so that nothing waits for the network's device.
    graphs: replay the network from these, unless there are `cross_attention_kwargs`.
    translated: it is told timesteps, and answers for samples, of other levels or another kind of prediction than its own.
    way: how it reuses steps. One that gives deep features answers with them on further channels; one that takes them, or
        remembers rows, has one input more.
    """
    dtype = dtype_of(unet)
    height, width = pair_inputs.presets_of(contract)[preset]
    size = height // contract.spatial_factor, width // contract.spatial_factor

    deep = feature_channels(unet) if way == "gives" else 0

    def ask(noisy: Tensor, timestep: Tensor, tokens: Tensor, pooled: Tensor, *further: Tensor) -> Tensor:
        network = GivesFeatures(unet) if way == "gives" else TakesFeatures(unet, *further) if way == "takes" else unet
        return denoise(
            network,
            noisy.to(dtype),
            timestep,
            tokens.to(dtype),
            pooled.to(dtype),
            preset,
            lower_bchw=further[0] if further and way is None else None,
            native_size=size,
            cross_attention_kwargs=cross_attention_kwargs,
        ).float()

    cache = StepCache.of(unet)
    replayed = None if graphs is None or cross_attention_kwargs or cache else graphs.of(role, unet, (preset, way), ask)
    sees_pooled = family_of(unet).sees_pooled(unet.config)
    if cache is not None:
        ask = cache.around(ask) if way == "remembers" else cache.forgetful(ask)

    rounded = 0.0 if translated is None or translated.same_levels else TOLERANCE

    def predict(noisy: Tensor, timestep: Tensor, tokens: Tensor, pooled: Tensor, *further: Tensor) -> Tensor:
        for outermost in timestep.aminmax():
            contract.interval.check(float(outermost), role, rounded)
        if lower_bchw is not None:
            further = (lower_bchw.repeat(len(noisy) // len(lower_bchw), 1, 1, 1),)
        if replayed is None:
            return ask(noisy, timestep.to(noisy.device, non_blocking=True), tokens, pooled, *further)
        # One recording for all: timesteps and text of any dtype, pooled text of any width where it is not read.
        there = timestep.float().to(noisy.device, non_blocking=True)
        texts = tokens.to(dtype), (pooled if sees_pooled else pooled[:, :0]).to(dtype)
        return replayed(noisy, there, *texts, *further)

    if translated is None:
        return predict

    def translate(noisy: Tensor, timestep: Tensor, tokens: Tensor, pooled: Tensor, *further: Tensor) -> Tensor:
        own = translated.timesteps(timestep)
        predicted = predict(translated.noisy(noisy, timestep), own, tokens, pooled, *further)
        # Further channels, such as a learned variance, say nothing to a scheduler of other levels.
        answer = translated.prediction(noisy, predicted[:, : noisy.shape[1]], timestep)
        return torch.cat([answer, predicted[:, -deep:]], dim=1) if deep else answer

    return translate
