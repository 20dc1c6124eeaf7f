"""A UNet in two parts: the levels below full resolution, and the one at full resolution that reads what comes up from there.

What comes up changes little from step to step, so some steps take it from the step before (DeepCache, arXiv 2312.00858, Section
3.2, with the cut below the first level). Which steps, others decide.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pangu.errors import UserError


def feature_channels(network: Any) -> int:
    """Channels of what comes up to the last block, at the resolution of the latents.

    Raises:
        UserError: the network is no UNet of two levels or more, so nothing comes up.
    """
    widths: tuple[int, ...] = tuple(network.config.get("block_out_channels") or ())
    if type(network).__name__ != "UNet2DConditionModel" or len(widths) < 2:
        raise UserError(
            f"A {type(network).__name__} has no deep features to draw on; deep_features needs a UNet of two levels or more."
        )
    return int(widths[1])


class GivesFeatures:
    """A UNet that answers with its prediction and, on further channels, with what came up to its last block."""

    def __init__(self, network: Any) -> None:
        self.network, self.config = network, network.config

    def __call__(self, *inputs: Any, **named: Any) -> tuple[Tensor]:
        came_up: list[Tensor] = []

        def see(_: Any, given: tuple[Any, ...], told: Mapping[str, Any]) -> None:
            came_up.append(told["hidden_states"] if "hidden_states" in told else given[0])

        hook = self.network.up_blocks[-1].register_forward_pre_hook(see, with_kwargs=True)
        try:
            predicted = self.network(*inputs, **named)[0]
        finally:
            hook.remove()
        return (torch.cat([predicted, came_up[0].to(predicted.dtype)], dim=1),)


class TakesFeatures:
    """The level of full resolution alone, given what came up in an earlier step: (B, `feature_channels`, H, W)."""

    def __init__(self, network: Any, features_bchw: Tensor) -> None:
        self.network, self.config, self._features = network, network.config, features_bchw

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: Mapping[str, Any] | None = None,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        network, told = self.network, {"encoder_hidden_states": encoder_hidden_states}
        added = {} if added_cond_kwargs is None else dict(added_cond_kwargs)
        if self.config.center_input_sample:
            sample = 2 * sample - 1.0
        embedded = network.time_embedding(network.get_time_embed(sample=sample, timestep=timestep), None)
        further = network.get_aug_embed(emb=embedded, added_cond_kwargs=added, **told)
        embedded = embedded if further is None else embedded + further
        if network.time_embed_act is not None:
            embedded = network.time_embed_act(embedded)
        text = network.process_encoder_hidden_states(added_cond_kwargs=added, **told)
        attends: dict[str, Any] = {"encoder_hidden_states": text}
        if encoder_attention_mask is not None:
            bias = (1 - encoder_attention_mask.to(sample.dtype)) * -10000.0
            attends["encoder_attention_mask"] = bias.unsqueeze(1)
        first, last = network.down_blocks[0], network.up_blocks[-1]
        sample = network.conv_in(sample)
        _, skipped = first(hidden_states=sample, temb=embedded, **(attends if _attends(first) else {}))
        sample = last(
            hidden_states=self._features.to(sample.dtype),
            temb=embedded,
            res_hidden_states_tuple=(sample, *skipped)[: len(last.resnets)],
            **(attends if _attends(last) else {}),
        )
        if network.conv_norm_out is not None:
            sample = network.conv_act(network.conv_norm_out(sample))
        return (network.conv_out(sample),)


def _attends(block: Any) -> bool:
    return bool(getattr(block, "has_cross_attention", False))
