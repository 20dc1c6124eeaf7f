"""Checks and small conversions of a pipeline's arguments."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from pangu.config import Role
from pangu.contract import GeneratorContract
from pangu.diffusion.presets import Size, nearest_of, paired_presets, preset_index, presets_for
from pangu.errors import UserError
from pangu.models.autoencoders import scaling

Value = TypeVar("Value", int, float)

Callback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None]
"""(pipeline, step, timestep, tensors) -> tensors to replace, as diffusers defines `callback_on_step_end`."""

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass(frozen=True)
class PairInputs:
    """Checked arguments of one call, beside the text.

    latents: unit Gaussian noise (images, C, H, W) in the place of drawn noise; lora_scales: weights of the adapters by role;
    guidance_scales: those of single roles, where they differ;
    guidance_intervals: timesteps at which single roles are guided, where it is not all of them;
    role_steps: steps of each expert, in the place of those of a whole;
    scheduler: another one than the pipeline's, over the same noise levels; timesteps, sigmas: a schedule of the caller's own;
    callback: called after each step with the tensors `callback_tensors`.
    """

    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    generators: tuple[torch.Generator, ...] | None = None
    latents: Tensor | None = None
    lora_scales: Mapping[Role, float] = field(default_factory=dict)
    guidance_scales: Mapping[Role, float] = field(default_factory=dict)
    guidance_intervals: Mapping[Role, tuple[float, float]] = field(default_factory=dict)
    role_steps: Mapping[Role, int] = field(default_factory=dict)
    scheduler: Any = None
    guidance_rescale: float = 0.0
    timesteps: Sequence[float] | None = None
    sigmas: Sequence[float] | None = None
    cross_attention_kwargs: Mapping[str, Any] | None = None
    callback: Callback | None = None
    callback_tensors: tuple[str, ...] = ()

    @property
    def own_schedule(self) -> bool:
        """Whether the caller says which timesteps or noise levels are walked."""
        return self.timesteps is not None or self.sigmas is not None


@dataclass(frozen=True)
class Embeds:
    """Text embeddings in the place of text, as diffusers' `prompt_embeds` and its companions; those left out are None.

    prompt, negative: (B, N, C); pooled, negative_pooled: (B, P).
    """

    prompt: Tensor | None = None
    negative: Tensor | None = None
    pooled: Tensor | None = None
    negative_pooled: Tensor | None = None


def check_embeds(prompt: Any, negative_prompt: Any, embeds: Embeds, channels: int) -> None:
    """Raises UserError unless there is either text or a whole set of embeddings, `channels` = C wide and alike in shape."""
    if prompt is not None and embeds.prompt is not None:
        raise UserError("prompt and prompt_embeds say the same twice; give one of the two.")
    if prompt is None and embeds.prompt is None:
        raise UserError("There is nothing to draw; give prompt or prompt_embeds.")
    if negative_prompt is not None and embeds.negative is not None:
        raise UserError("negative_prompt and negative_prompt_embeds say the same twice; give one of the two.")
    for name, one, pooled in (
        ("prompt_embeds", embeds.prompt, embeds.pooled),
        ("negative_prompt_embeds", embeds.negative, embeds.negative_pooled),
    ):
        if (one is None) != (pooled is None):
            both = f"{name} and {name.replace('prompt', 'pooled_prompt')}"
            raise UserError(f"{both} belong together, as encode_prompt returns them; one of them is missing.")
        if one is not None and (one.ndim != 3 or one.shape[-1] != channels):
            raise UserError(f"{name} have the shape {tuple(one.shape)}, but (prompts, tokens, {channels}) is needed.")
        if pooled is not None and one is not None and (pooled.ndim != 2 or len(pooled) != len(one)):
            shape = f"({len(one)}, channels)"
            raise UserError(f"The pooled {name} have the shape {tuple(pooled.shape)}, but {shape} is needed.")
    for name, one, other in (
        ("negative_prompt_embeds", embeds.prompt, embeds.negative),
        ("negative_pooled_prompt_embeds", embeds.pooled, embeds.negative_pooled),
    ):
        if one is not None and other is not None and one.shape != other.shape:
            raise UserError(f"{name} have the shape {tuple(other.shape)}, but those of the prompt {tuple(one.shape)}.")


def check(
    prompt: str | list[str] | None,
    negative_prompt: str | list[str] | None,
    num_inference_steps: int,
    guidance_scale: float,
    num_images_per_prompt: int,
    output_type: str,
    guidance_rescale: float = 0.0,
    prompt_embeds: Tensor | None = None,
) -> tuple[list[str], list[str] | None]:
    """The prompts and negative prompts as lists of one length; embeddings count as so many empty prompts.

    Raises:
        UserError: an argument is out of its range.
    """
    prompts = as_list("" if prompt is None else prompt) if prompt_embeds is None else [""] * len(prompt_embeds)
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise UserError("prompt must be a string or a list of at least one string.")
    if not 1 <= num_inference_steps <= 1000:
        raise UserError(f"num_inference_steps must lie in 1 ... 1000, not {num_inference_steps}.")
    if not 0 <= guidance_scale <= 50:
        raise UserError(f"guidance_scale must lie in 0 ... 50, not {guidance_scale}.")
    if not 0 <= guidance_rescale <= 1:
        raise UserError(f"guidance_rescale must lie in 0 ... 1, not {guidance_rescale}.")
    if num_images_per_prompt < 1:
        raise UserError(f"num_images_per_prompt must be at least 1, not {num_images_per_prompt}.")
    if output_type not in OUTPUT_TYPES:
        raise UserError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, not '{output_type}'.")
    if negative_prompt is None:
        return prompts, None
    negatives = spread(negative_prompt, len(prompts))
    check_negatives(prompts, negatives)
    return prompts, negatives


def check_scales(scales: Mapping[Role, float], roles: Iterable[Role]) -> None:
    """Raises UserError if a scale of guidance is given to nobody, or out of its range."""
    for role, scale in scales.items():
        if role not in (known := list(roles)):
            raise UserError(f"guidance_scales may name {', '.join(known)}, not '{role}'.")
        if not 0 <= scale <= 50:
            raise UserError(f"guidance_scales must lie in 0 ... 50, not {scale} as that of {role}.")


def by_role(name: str, given: Value | Mapping[Role, Value], roles: Iterable[Role]) -> tuple[Value, dict[Role, Value]]:
    """An argument that is one value for all roles, or a mapping with one for each: (the first role's, those of all, or none).

    Raises:
        UserError: a mapping leaves a role out, or names another one.
    """
    if not isinstance(given, Mapping):
        return given, {}
    known = list(roles)
    if set(given) != set(known):
        raise UserError(
            f"{name} needs one value for each of {', '.join(known)}, not for {', '.join(map(str, given)) or 'none'}."
        )
    return given[known[0]], {role: given[role] for role in known}


def prompts_of(given: Mapping[Role, str | Sequence[str]], count: int, roles: Iterable[Role]) -> dict[Role, list[str]]:
    """What single roles are told, one text for each of `count` pictures.

    Raises:
        UserError: a role that is not there, or another number of texts.
    """
    known = list(roles)
    for role, texts in given.items():
        if role not in known:
            raise UserError(f"prompts may name {', '.join(known)}, not '{role}'.")
        if len(spread(texts, count)) != count:
            raise UserError(f"prompts has {len(texts)} texts for {role}, but {count} prompts are drawn; give one each.")
    return {role: spread(texts, count) for role, texts in given.items()}


Interval = tuple[float, float]
"""The lowest and the highest timestep at which there is guidance."""


def intervals_of(given: Interval | Mapping[Role, Interval] | None, roles: Iterable[Role]) -> dict[Role, Interval]:
    """The timesteps at which each role is guided, where not at all of them. given: one interval for all roles, or some of them.

    Raises:
        UserError: a role that is not there, or an interval that is none.
    """
    if given is None:
        return {}
    known = list(roles)
    found = dict(given) if isinstance(given, Mapping) else dict.fromkeys(known, given)
    for role, interval in found.items():
        if role not in known:
            raise UserError(f"guidance_interval may name {', '.join(known)}, not '{role}'.")
        if len(interval) != 2 or not 0 <= interval[0] <= interval[1]:
            raise UserError(
                f"guidance_interval needs 0 <= lowest <= highest timestep, not {tuple(interval)} for {role}."
            )
    return {role: (float(low), float(high)) for role, (low, high) in found.items()}


def check_texts(texts: Sequence[str]) -> None:
    """Raises UserError for a text that no tokenizer takes: half of a surrogate pair is no character."""
    for text in texts:
        if any(0xD800 <= ord(sign) <= 0xDFFF for sign in text):
            raise UserError(f"{text[:80]!a} holds half of a surrogate pair, so it is no valid text.")


def check_negatives(prompts: Sequence[str], negatives: Sequence[str]) -> None:
    """Raises UserError unless there is one negative prompt for each prompt."""
    if len(negatives) != len(prompts):
        raise UserError(f"{len(prompts)} prompts came with {len(negatives)} negative prompts; give one each or none.")


def as_list(texts: str | Sequence[str]) -> list[str]:
    """One text, or several, as a list; a bare string is one text, not its letters."""
    return [texts] if isinstance(texts, str) else list(texts)


def spread(texts: str | Sequence[str], count: int) -> list[str]:
    """One text for all of `count` prompts, or one for each."""
    return [texts] * count if isinstance(texts, str) else list(texts)


def callback_tensors(callback: Any, asked: Sequence[str], offered: Sequence[str]) -> tuple[str, ...]:
    """The tensors that a callback is given: its own `tensor_inputs` where it is one of diffusers' `PipelineCallback`s.

    Raises:
        UserError: a tensor that the loop does not hand out.
    """
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        asked = callback.tensor_inputs
    unknown = [name for name in asked if name not in offered]
    if unknown:
        raise UserError(f"callback_on_step_end_tensor_inputs may name {list(offered)}, not {unknown}.")
    return tuple(dict.fromkeys(asked))


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


def check_styles(asked: Iterable[str], known: Collection[str]) -> None:
    """Raises UserError if a style is none of those that the pair knows."""
    unknown = [name for name in asked if name not in known]
    if unknown:
        names = ", ".join(known) if known else "none; train it with a recipe that has styles"
        raise UserError(f"Unknown style '{unknown[0]}'; this pair knows {names}.")


def check_scaling(autoencoder: Any, contract: GeneratorContract) -> None:
    """Raises UserError if an autoencoder scales its latents otherwise than the one of the training."""
    trained = contract.latent_scaling, contract.latent_shift
    if scaling(autoencoder) != trained:
        raise UserError(
            f"The autoencoder scales latents by {scaling(autoencoder)}, but the generators were trained with {trained}."
        )


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
