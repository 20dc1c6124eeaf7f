"""Checks and small conversions of a pipeline's arguments."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pangu.config import Role
from pangu.contract import GeneratorContract
from pangu.diffusion.presets import Size, nearest_of, paired_presets, preset_index, presets_for
from pangu.errors import UserError

Callback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None]
"""(pipeline, step, timestep, tensors) -> tensors to replace, as diffusers defines `callback_on_step_end`."""

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass(frozen=True)
class Request:
    """Checked arguments of one call, beside the text.

    latents: unit Gaussian noise (images, C, H, W) in the place of drawn noise; lora_scales: weights of the adapters by role;
    scheduler: another one than the pipeline's, over the same noise levels.
    """

    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    generators: tuple[torch.Generator, ...] | None = None
    latents: Tensor | None = None
    lora_scales: Mapping[Role, float] = field(default_factory=dict)
    scheduler: Any = None


def check(
    prompt: str | list[str],
    negative_prompt: str | list[str] | None,
    num_inference_steps: int,
    guidance_scale: float,
    num_images_per_prompt: int,
    output_type: str,
) -> tuple[list[str], list[str] | None]:
    """The prompts and negative prompts as lists of one length.

    Raises:
        UserError: an argument is out of its range.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise UserError("prompt must be a string or a list of at least one string.")
    if not 1 <= num_inference_steps <= 1000:
        raise UserError(f"num_inference_steps must lie in 1 ... 1000, not {num_inference_steps}.")
    if not 0 <= guidance_scale <= 50:
        raise UserError(f"guidance_scale must lie in 0 ... 50, not {guidance_scale}.")
    if num_images_per_prompt < 1:
        raise UserError(f"num_images_per_prompt must be at least 1, not {num_images_per_prompt}.")
    if output_type not in OUTPUT_TYPES:
        raise UserError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, not '{output_type}'.")
    if negative_prompt is None:
        return prompts, None
    negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(negative_prompt)
    check_negatives(prompts, negatives)
    return prompts, negatives


def check_negatives(prompts: Sequence[str], negatives: Sequence[str]) -> None:
    """Raises UserError unless there is one negative prompt for each prompt."""
    if len(negatives) != len(prompts):
        raise UserError(f"{len(prompts)} prompts came with {len(negatives)} negative prompts; give one each or none.")


def check_callback_tensors(asked: Sequence[str], offered: Sequence[str]) -> None:
    """Raises UserError if a callback asks for a tensor that the loop does not hand out."""
    unknown = [name for name in asked if name not in offered]
    if unknown:
        raise UserError(f"callback_on_step_end_tensor_inputs may name {list(offered)}, not {unknown}.")


def generators(
    generator: torch.Generator | list[torch.Generator] | None, images: int
) -> tuple[torch.Generator, ...] | None:
    """One generator for all images, or one for each.

    Raises:
        UserError: a list of the wrong length.
    """
    if generator is None:
        return None
    if isinstance(generator, torch.Generator):
        return (generator,)
    if len(generator) != images:
        raise UserError(f"generator is a list of {len(generator)}, but {images} images are asked for.")
    return tuple(generator)


def check_styles(asked: Iterable[str], known: Mapping[str, str]) -> None:
    """Raises UserError if a style has no prefix in the pair."""
    unknown = [name for name in asked if name not in known]
    if unknown:
        names = ", ".join(known) if known else "none; train it with a recipe that has styles"
        raise UserError(f"Unknown style '{unknown[0]}'; this pair knows {names}.")


def check_size(height: int, width: int, contract: GeneratorContract) -> None:
    """Raises UserError if the generator of `contract` has no preset of exactly that size."""
    preset_index(height, width, contract.resolution, contract.presets, contract.spatial_factor)


def presets_of(contract: GeneratorContract) -> tuple[Size, ...]:
    """(height, width) in px of the presets that a generator was trained at; the index conditions it."""
    return presets_for(contract.resolution, contract.presets, contract.spatial_factor)


def matching_preset(height: int, width: int, drawn: GeneratorContract, asked: GeneratorContract) -> int:
    """The index that `asked` has in its own list for a picture that is a preset of `drawn`, by the nearest aspect ratio.

    Texture is trained on another list than structure (PanGu-Draw, Section 3.3). Pictures of different shapes get different
    indices, as in training, where windows are paired with the images that they are cut out of; only a list that is too short
    for that is searched for the nearest shape.
    """
    shapes, own = presets_of(drawn), presets_of(asked)
    if len(own) < len(shapes):
        return nearest_of(height, width, own)
    return paired_presets(shapes, own)[shapes.index((height, width))]
