"""One denoising trajectory that two experts walk in turn: its state, and the rule that picks the expert.

Pure over its arguments: the network, the scheduler, the noise source and the condition go in, a new state comes out.
Any object with diffusers' scheduler interface serves; this module imports none.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from pangu.config import Role
from pangu.diffusion.guidance import classifier_free_guidance, rescaled_guidance, style_guidance
from pangu.diffusion.interval import TimeInterval, expert_at
from pangu.diffusion.transfer import transferred
from pangu.errors import UserError


@dataclass(frozen=True)
class StyleConditioning:
    """What the text encoders said of the same B prompts under a style's prefix, and how strongly it pulls.

    tokens_bnc (B, N, C), pooled_bp (B, P); scale is a share of the guidance (see `guided`).
    """

    tokens_bnc: Tensor
    pooled_bp: Tensor
    scale: float


@dataclass(frozen=True)
class Conditioning:
    """What the text encoders said of B prompts and their negative prompts.

    tokens_bnc (B, N, C) and pooled_bp (B, P); the two `negative_` tensors and those of each style have the same shapes.
    Unpacks as the answer of diffusers' `encode_prompt`: prompt, negative prompt, pooled prompt, pooled negative prompt.
    """

    tokens_bnc: Tensor
    pooled_bp: Tensor
    negative_tokens_bnc: Tensor
    negative_pooled_bp: Tensor
    styles: tuple[StyleConditioning, ...] = ()

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.tokens_bnc, self.negative_tokens_bnc, self.pooled_bp, self.negative_pooled_bp))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        """The same conditioning with `change` applied to each tensor."""
        return Conditioning(
            change(self.tokens_bnc),
            change(self.pooled_bp),
            change(self.negative_tokens_bnc),
            change(self.negative_pooled_bp),
            tuple(StyleConditioning(change(s.tokens_bnc), change(s.pooled_bp), s.scale) for s in self.styles),
        )

    def to(self, *args: Any, **kwargs: Any) -> "Conditioning":
        """The same conditioning on another device or in another dtype."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def repeat(self, times: int) -> "Conditioning":
        """Each prompt `times` times in a row: B becomes B * times."""
        return self.map(lambda tensor: tensor.repeat_interleave(times, 0))


@dataclass(frozen=True)
class Trajectory:
    """The state between two steps. Self-contained: it can be handed to another process and continued there.

    latents_bchw: (B, C, H, W) float32 at the noise level of `timesteps[step]`, or clean once step == len(timesteps).
    timesteps:    (N,), on the CPU wherever the latents are: who comes next is decided by them, and no step waits for a device.
    scheduler:    carries its own history, so schedulers of any order survive a hand-off.
    generators:   one noise source per image, or None where the scheduler adds no noise.
    presets:      per role, the index in that generator's OWN list of resolution presets, which conditions its denoiser.
    lora_scales:  per role, the weight of its adapter; 1 where none is given.
    guidance_scale: at most 1 means the caption alone, as in diffusers. guidance_rescale: phi of `rescaled_guidance`.
    """

    latents_bchw: Tensor
    timesteps: Tensor
    step: int
    scheduler: Any
    conditioning: Conditioning
    guidance_scale: float
    presets: Mapping[Role, int]
    generators: tuple[torch.Generator, ...] | None = None
    lora_scales: Mapping[Role, float] = field(default_factory=dict)
    guidance_rescale: float = 0.0

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the network is asked for the negative prompt too."""
        return self.guidance_scale > 1

    @property
    def finished(self) -> bool:
        return self.step >= len(self.timesteps)

    @property
    def timestep(self) -> float:
        """The current timestep, in [0, T); schedulers that interpolate noise levels make it fractional."""
        return float(self.timesteps[self.step])

    def to(self, device: torch.device | str) -> "Trajectory":
        """The same state on another device, for the expert that lives there; the original can still go on.

        The noise sources stay where they are, so that a seed means the same image on every device.
        """
        return replace(
            self,
            latents_bchw=self.latents_bchw.to(device),
            scheduler=transferred(self.scheduler, device),
            conditioning=self.conditioning.to(device),
        )


Denoiser = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(noisy_bchw, timestep_b, tokens_bnc, pooled_bp) -> prediction_bchw; the timesteps are on the CPU, all else on one device."""

OnStep = Callable[[Trajectory], Trajectory]


@dataclass(frozen=True)
class ModelInput:
    """What a `Denoiser` is asked at one step of one trajectory: null, caption and styles of its B images, as one batch."""

    noisy_bchw: Tensor
    timestep_b: Tensor
    tokens_bnc: Tensor
    pooled_bp: Tensor


@dataclass(frozen=True)
class Step:
    """One step that was taken: the state after it, and what was seen and predicted at `timestep` before it.

    noisy_bchw is in the scale that the network was trained with; prediction_bchw is guided.
    """

    trajectory: Trajectory
    timestep: float
    noisy_bchw: Tensor
    prediction_bchw: Tensor


def question(noisy_bchw: Tensor, trajectory: Trajectory) -> ModelInput:
    """All parts of the guidance at the current timestep; without guidance (scale 1 or less) the null part is spared."""
    condition = trajectory.conditioning
    texts = [(condition.tokens_bnc, condition.pooled_bp)]
    texts += [(style.tokens_bnc, style.pooled_bp) for style in condition.styles]
    if trajectory.do_classifier_free_guidance:
        texts.insert(0, (condition.negative_tokens_bnc, condition.negative_pooled_bp))
    return ModelInput(
        torch.cat([noisy_bchw] * len(texts)),
        trajectory.timesteps[trajectory.step].expand(len(noisy_bchw) * len(texts)),
        torch.cat([tokens for tokens, _ in texts]),
        torch.cat([pooled for _, pooled in texts]),
    )


def apply_guidance(answer_bchw: Tensor, trajectory: Trajectory) -> Tensor:
    """The prediction (B, C, H, W) that the answers to all parts of a `question` make.

    The scale of a style is a share of the guidance: 1 leads to its caption as strongly as guidance to the caption without it,
    which then has no part in the sum. The paper's scale is this one times that of the guidance.
    """
    guidance, styles = trajectory.do_classifier_free_guidance, trajectory.conditioning.styles
    parts = answer_bchw.chunk(len(styles) + (2 if guidance else 1))
    first = 1 if guidance else 0
    conditional = parts[first]
    base = conditional
    if guidance:
        base = classifier_free_guidance(parts[0], conditional, trajectory.guidance_scale)
        base = rescaled_guidance(base, conditional, trajectory.guidance_rescale)
    strength = trajectory.guidance_scale if guidance else 1.0
    return style_guidance(base, conditional, parts[first + 1 :], [strength * style.scale for style in styles])


def predict(denoiser: Denoiser, noisy_bchw: Tensor, trajectory: Trajectory) -> Tensor:
    """The guided prediction at the current timestep; all parts of the guidance run as one batch: null, caption, styles."""
    asked = question(noisy_bchw, trajectory)
    answer = denoiser(asked.noisy_bchw, asked.timestep_b, asked.tokens_bnc, asked.pooled_bp)
    return apply_guidance(answer, trajectory)


def predict_together(trajectories: Sequence[Trajectory], denoiser: Denoiser) -> list[tuple[Tensor, Tensor]]:
    """(scaled latents, guided prediction) of each trajectory by one call of the network, whatever their timesteps, guidance and
    schedulers; none of them moves.

    Their latents and text tokens must have one shape, and none may be finished. A trajectory alone is computed as `predict` does;
    with others the network rounds differently, as for any batch of another size.
    """
    noisy = [each.scheduler.scale_model_input(each.latents_bchw, each.timesteps[each.step]) for each in trajectories]
    asked = [question(scaled, each) for scaled, each in zip(noisy, trajectories, strict=True)]
    answers = denoiser(
        torch.cat([each.noisy_bchw for each in asked]),
        torch.cat([each.timestep_b for each in asked]),
        torch.cat([each.tokens_bnc for each in asked]),
        torch.cat([each.pooled_bp for each in asked]),
    ).split([len(each.noisy_bchw) for each in asked])
    return [
        (scaled, apply_guidance(answer, each))
        for each, scaled, answer in zip(trajectories, noisy, answers, strict=True)
    ]


def take_step(trajectory: Trajectory, noisy_bchw: Tensor, prediction_bchw: Tensor) -> Step:
    """One step of the scheduler, which moves on in place: the state before it can not be stepped again."""
    t = trajectory.timesteps[trajectory.step]
    latents = trajectory.scheduler.step(
        prediction_bchw, t, trajectory.latents_bchw, **_step_arguments(trajectory), return_dict=False
    )[0]
    after = replace(trajectory, latents_bchw=latents, step=trajectory.step + 1)
    return Step(after, float(t), noisy_bchw, prediction_bchw)


def advance(
    trajectory: Trajectory, denoiser: Denoiser, interval: TimeInterval, on_step: OnStep | None = None
) -> Trajectory:
    """Walk on while the CURRENT timestep lies in `interval` (PanGu-Draw, Section 3.2).

    Choosing the expert by the next timestep instead would let one expert run a step of the other's interval.
    """
    for _ in range(trajectory.step, len(trajectory.timesteps)):
        if trajectory.finished or trajectory.timestep not in interval:
            break
        trajectory = take_step(trajectory, *predict_together([trajectory], denoiser)[0]).trajectory
        if on_step is not None:
            trajectory = on_step(trajectory)
    return trajectory


def turns(trajectory: Trajectory, boundary: int) -> list[Role]:
    """Whose turn it is until a pair's trajectory ends, each half as often as it begins anew.

    Two turns as a rule; some schedulers dither around the boundary.
    """
    left = trajectory.timesteps[trajectory.step :].tolist()
    return [role for role, _ in groupby(expert_at(t, boundary) for t in left)]


def clean_latents(trajectory: Trajectory) -> Tensor:
    """The latents (B, C, H, W) of a trajectory at its end.

    Raises:
        UserError: it stopped before, at a timestep that nobody owns.
    """
    if not trajectory.finished:
        raise UserError(
            f"{type(trajectory.scheduler).__name__} stopped after step {trajectory.step} of {len(trajectory.timesteps)}: no "
            f"generator here owns t = {trajectory.timestep:g}."
        )
    return trajectory.latents_bchw


def _step_arguments(trajectory: Trajectory) -> dict[str, Any]:
    """Only schedulers that add noise take generators; each image keeps its own, so batching changes no image."""
    if trajectory.generators is None or not _takes_generator(type(trajectory.scheduler).step):
        return {}
    generators = list(trajectory.generators)
    return {"generator": generators if len(generators) > 1 else generators[0]}


@cache
def _takes_generator(step: Callable[..., Any]) -> bool:
    return "generator" in inspect.signature(step).parameters
