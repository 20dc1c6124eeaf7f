"""What one model is asked with for B pictures: prompts, negative prompts and styles as tensors, and how strongly they guide."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pangu.diffusion.guidance import classifier_free_guidance, rescaled_guidance, style_guidance

Tensors = dict[str, Any]
"""Tensors, or lists and dictionaries of them, whose first dimension is the batch."""


@dataclass(frozen=True)
class Style:
    """The same B prompts under a style's prefix, and how strongly it pulls: a share of the guidance (see `guided_prediction`)."""

    prompt: Tensors
    scale: float


@dataclass(frozen=True)
class ExpertText:
    """Prompts, negative prompts and styles of B pictures, as the text encoders of one expert see them.

    adapters: scales of the styles that are adapters of the expert's own network.
    """

    prompt: Tensors
    negative: Tensors | None = None
    styles: tuple[Style, ...] = ()
    adapters: Mapping[str, float] = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor]) -> "ExpertText":
        """The same with `change` applied to each tensor."""
        return ExpertText(
            tree_map(change, self.prompt),
            None if self.negative is None else tree_map(change, self.negative),
            tuple(Style(tree_map(change, style.prompt), style.scale) for style in self.styles),
            self.adapters,
        )


@dataclass(frozen=True)
class Condition:
    """What a network is given beside the noisy latents.

    prompt, negative: of B pictures each; no `negative` means that guidance can not be switched on.
    styles: those that are prefixes of the prompt. adapters: scales of those that are adapters of the model's networks.
    guidance_scale: at most 1 means the prompt alone, as in diffusers. guidance_rescale: phi of `rescaled_guidance`.
    batched: all parts of the guidance in one call of the network; otherwise one after the other, in less memory.
    facts: what else the model's own code needs, the same for all B.
    guidance_interval: lowest and highest timestep at which there is guidance, both included (arXiv 2404.07724); None: at all.
    texts, scales, intervals: what single experts of a model are told, and how strongly and where they are guided, where they
        differ.

    Unpacks as the answer of diffusers' `encode_prompt`: tokens, negative tokens, pooled text, negative pooled text.
    """

    prompt: Tensors = field(default_factory=dict)
    negative: Tensors | None = None
    styles: tuple[Style, ...] = ()
    adapters: Mapping[str, float] = field(default_factory=dict)
    guidance_scale: float = 1.0
    guidance_rescale: float = 0.0
    batched: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, "ExpertText"] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    guidance_interval: tuple[float, float] | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Tensor]:
        negative = self.negative or {}
        return iter((self.prompt["tokens"], negative["tokens"], self.prompt["pooled"], negative["pooled"]))

    @property
    def guided(self) -> bool:
        """Whether the network is asked for the negative prompt too."""
        return self.negative is not None and self.guidance_scale > 1

    @property
    def parts(self) -> list[Tensors]:
        """What a prediction is made of, in the order of the batch: negative prompt, prompt, styles."""
        beside = [self.negative] if self.guided and self.negative is not None else []
        return [*beside, self.prompt, *(style.prompt for style in self.styles)]

    @property
    def calls(self) -> int:
        """Calls of the network for one prediction."""
        return 1 if self.batched else len(self.parts)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Condition":
        """The same with `change` applied to each tensor."""
        return replace(
            self,
            **vars(self.text.map(change)),
            texts={name: text.map(change) for name, text in self.texts.items()},
        )

    @property
    def text(self) -> "ExpertText":
        """What all experts are told that have no text of their own."""
        return ExpertText(self.prompt, self.negative, self.styles, self.adapters)

    @property
    def is_one(self) -> bool:
        """Whether all experts are asked with the same."""
        return not (self.texts or self.scales or self.intervals)

    def of(self, expert: str) -> "Condition":
        """What one expert is asked with."""
        own = self.texts.get(expert, self.text)
        return replace(
            self,
            **vars(own),
            guidance_scale=self.scales.get(expert, self.guidance_scale),
            guidance_interval=self.intervals.get(expert, self.guidance_interval),
            texts={},
            scales={},
            intervals={},
        )

    def at(self, timestep: float) -> "Condition":
        """What is asked at one timestep: outside the interval of the guidance the prompt and its styles alone."""
        if self.guidance_interval is None or self.guidance_interval[0] <= timestep <= self.guidance_interval[1]:
            return self
        return replace(self, guidance_scale=1.0)

    def to(self, *args: Any, **kwargs: Any) -> "Condition":
        """The same on another device or in another dtype."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def repeat(self, times: int) -> "Condition":
        """Each picture `times` times in a row: B becomes B * times."""
        return self.map(lambda tensor: tensor.repeat_interleave(times, 0))


def text_condition(
    tokens_bnc: Tensor, pooled_bp: Tensor, negative_tokens_bnc: Tensor, negative_pooled_bp: Tensor,
    styles: Sequence[Style] = (), **scales: Any,
) -> Condition:  # fmt: skip
    """Text tokens (B, N, C) and pooled text (B, P) of prompts and negative prompts. scales: further fields of `Condition`."""
    return Condition(
        text(tokens_bnc, pooled_bp), text(negative_tokens_bnc, negative_pooled_bp), tuple(styles), **scales
    )


def text(tokens_bnc: Tensor, pooled_bp: Tensor) -> Tensors:
    return {"tokens": tokens_bnc, "pooled": pooled_bp}


def joined(parts: Sequence[Tensors]) -> Tensors:
    """The parts as one batch."""
    first: Tensors = parts[0] if len(parts) == 1 else tree_map(lambda *each: torch.cat(each), *parts)
    return first


def guided_prediction(answers: Sequence[Tensor], condition: Condition, channels: int) -> Tensor:
    """The prediction that the answers to `condition.parts` make, each (B, `channels` or more, H, W).

    Further channels, such as a learned variance, are those of the prompt's answer. The scale of a style is a share of the
    guidance: 1 leads to its caption as strongly as guidance to the caption without it, which then has no part in the sum. The
    paper's scale (PanGu-Draw, Section 3.3) is this one times that of the guidance.
    """
    kept = [answer[:, :channels] for answer in answers]
    first = 1 if condition.guided else 0
    conditional = kept[first]
    base, strength = conditional, 1.0
    if condition.guided:
        strength = condition.guidance_scale
        base = classifier_free_guidance(kept[0], conditional, strength)
        base = rescaled_guidance(base, conditional, condition.guidance_rescale)
    scales = [strength * style.scale for style in condition.styles]
    predicted = style_guidance(base, conditional, kept[first + 1 :], scales)
    further = answers[first][:, channels:]
    return torch.cat([predicted, further], dim=1) if further.shape[1] else predicted
