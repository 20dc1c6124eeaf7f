"""What a `callback_on_step_end` sees of a trajectory, and what it may change, in the layout of diffusers' Stable Diffusion.

While guidance is on, `prompt_embeds`, `add_text_embeds` and `add_time_ids` have 2 B rows, those of the negative prompts first.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pangu.config import Role
from pangu.contract import GeneratorContract
from pangu.diffusion.trajectory import Conditioning, Trajectory
from pangu.errors import UserError
from pangu.pipelines import pair_inputs

TENSORS = ("latents", "prompt_embeds", "negative_prompt_embeds", "add_text_embeds", "add_time_ids")
"""`add_time_ids` is the index of the resolution preset, (rows, 1); a callback may drop rows of it, but not change it."""


class StepCallback:
    """After each step: the progress bar moves, and the user's callback may change tensors, guidance, and end the loop.

    pipe: the pipeline, whose `CallState` a callback or another thread may change. contracts: of the roles that take steps.
    """

    def __init__(
        self, pipe: Any, bar: Any, request: pair_inputs.PairInputs, contracts: Mapping[Role, GeneratorContract]
    ) -> None:
        self.pipe, self.bar, self.request, self.contracts = pipe, bar, request, contracts

    def __call__(self, trajectory: Trajectory) -> Trajectory:
        self.bar.update()
        if self.request.callback is not None:
            trajectory = self._called_back(trajectory, self.request.callback)
        scale, rescale = self.pipe.guidance_scale, self.pipe.guidance_rescale
        trajectory = replace(trajectory, guidance_scale=scale, guidance_rescale=rescale)
        # The trajectory of an interrupted call ends here.
        return (
            replace(trajectory, timesteps=trajectory.timesteps[: trajectory.step])
            if self.pipe.interrupt
            else trajectory
        )

    def _called_back(self, trajectory: Trajectory, callback: pair_inputs.Callback) -> Trajectory:
        done = trajectory.step - 1
        timestep = trajectory.timesteps[done]
        owner = next(role for role, contract in self.contracts.items() if float(timestep) in contract.interval)
        preset = trajectory.presets[owner]
        tensors = offered(trajectory, preset)
        answer = callback(self.pipe, done, timestep, {name: tensors[name] for name in self.request.callback_tensors})
        return changed(trajectory, preset, answer or {})


def offered(trajectory: Trajectory, preset: int) -> dict[str, Tensor]:
    """The tensors of `TENSORS` after a step that a network took at the resolution preset of that index."""
    said = embeds(trajectory.conditioning, trajectory.do_classifier_free_guidance, preset)
    return {"latents": trajectory.latents_bchw} | said


def embeds(said: Conditioning, guidance: bool, preset: int) -> dict[str, Tensor]:
    """What the network is told, for B prompts with or without their negative prompts."""
    tokens, negative_tokens, pooled, negative_pooled = said
    if guidance:
        tokens, pooled = torch.cat([negative_tokens, tokens]), torch.cat([negative_pooled, pooled])
    return {
        "prompt_embeds": tokens,
        "negative_prompt_embeds": negative_tokens,
        "add_text_embeds": pooled,
        "add_time_ids": tokens.new_full((len(tokens), 1), float(preset)),
    }


def changed(trajectory: Trajectory, preset: int, answer: Mapping[str, Any]) -> Trajectory:
    """The trajectory with what a callback returned.

    Raises:
        UserError: a tensor of another shape, or a change that can not be followed.
    """
    latents = trajectory.latents_bchw
    if "latents" in answer:
        latents = of_shape("latents", answer["latents"], tuple(latents.shape)).to(latents)
    return replace(trajectory, latents_bchw=latents, conditioning=with_embeds(trajectory.conditioning, preset, answer))


def with_embeds(said: Conditioning, preset: int, answer: Mapping[str, Any]) -> Conditioning:
    """The conditioning with what a callback returned; embeddings of B rows are those of the prompts alone.

    Raises:
        UserError: a tensor of another shape, or a change that can not be followed.
    """
    ids = answer.get("add_time_ids")
    if ids is not None and bool((ids != preset).any()):
        raise UserError("A callback may drop rows of add_time_ids, but not change them; they follow from the size.")
    negative_tokens, tokens = _halves("prompt_embeds", answer, said.negative_tokens_bnc, said.tokens_bnc)
    negative_pooled, pooled = _halves("add_text_embeds", answer, said.negative_pooled_bp, said.pooled_bp)
    given = answer.get("negative_prompt_embeds")
    if given is not None and given is not said.negative_tokens_bnc:
        negative_tokens = of_shape("negative_prompt_embeds", given, tuple(tokens.shape)).to(tokens)
    return replace(
        said,
        tokens_bnc=tokens,
        negative_tokens_bnc=negative_tokens,
        pooled_bp=pooled,
        negative_pooled_bp=negative_pooled,
    )


def _halves(name: str, answer: Mapping[str, Any], negative: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """(negative, positive) as returned: both, the positive alone, or none."""
    given = answer.get(name)
    if given is None:
        return negative, positive
    if given.shape == positive.shape:
        return negative, given.to(positive)
    both = (2 * len(positive), *positive.shape[1:])
    first, second = of_shape(name, given, both).to(positive).chunk(2)
    return first, second


def of_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Raises UserError unless a callback returned a tensor of that shape."""
    if tuple(tensor.shape) != shape:
        raise UserError(f"A callback returned {name} of the shape {tuple(tensor.shape)}, but {shape} is needed.")
    return tensor
