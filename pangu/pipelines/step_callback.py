"""What a `callback_on_step_end` sees of a trajectory, and what it may change, in the layout of diffusers' Stable Diffusion.

While guidance is on, `prompt_embeds`, `add_text_embeds` and `add_time_ids` have 2 B rows, those of the negative prompts first.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pangu.config import Role
from pangu.diffusion.interval import TimeInterval
from pangu.errors import UserError
from pangu.pipelines import pair_inputs
from pangu.sampling.condition import Condition
from pangu.sampling.sampling_state import SamplingState
from pangu.sampling.trajectory import Trajectory

TENSORS = ("latents", "prompt_embeds", "negative_prompt_embeds", "add_text_embeds", "add_time_ids")
"""`add_time_ids` is the index of the resolution preset, (rows, 1); a callback may drop rows of it, but not change it."""
EMBEDS = {"prompt_embeds": "tokens", "add_text_embeds": "pooled", "add_time_ids": "numbers"}
"""What callbacks call the tensors of a condition."""


class StepCallback:
    """After each step: the progress bar moves, and the user's callback may change tensors, guidance, and end the loop.

    pipe: the pipeline, whose `CallState` a callback or another thread may change. owned: by the roles that take steps.
    """

    def __init__(
        self, pipe: Any, bar: Any, request: pair_inputs.PairInputs, owned: Mapping[Role, TimeInterval]
    ) -> None:
        self.pipe, self.bar, self.request, self.owned = pipe, bar, request, owned

    def __call__(self, state: SamplingState) -> None:
        self.bar.update()
        trajectory = state.trajectory
        if self.request.callback is not None:
            trajectory = self._called_back(trajectory, self.request.callback)
        scale, rescale = self.pipe.guidance_scale, self.pipe.guidance_rescale
        own = replace(trajectory.condition, guidance_scale=scale, guidance_rescale=rescale)
        if scale != self.request.guidance_scale:
            own = replace(own, scales={})  # a callback's scale is that of all
        # The trajectory of an interrupted call ends here.
        end = trajectory.step if self.pipe.interrupt else len(trajectory.timesteps)
        state.trajectory = replace(trajectory, condition=own, timesteps=trajectory.timesteps[:end])

    def _called_back(self, trajectory: Trajectory, callback: pair_inputs.Callback) -> Trajectory:
        done = trajectory.step - 1
        timestep = trajectory.timesteps[done]
        owner = next(role for role, interval in self.owned.items() if float(timestep) in interval)
        preset = trajectory.condition.facts["presets"][owner]
        tensors = offered(trajectory, preset)
        answer = callback(self.pipe, done, timestep, {name: tensors[name] for name in self.request.callback_tensors})
        return changed(trajectory, preset, answer or {})


def offered(trajectory: Trajectory, preset: int) -> dict[str, Tensor]:
    """The tensors of `TENSORS` after a step that a network took at the resolution preset of that index."""
    return {"latents": trajectory.latents_bchw} | embeds(trajectory.condition, preset)


def embeds(condition: Condition, preset: int | None = None) -> dict[str, Tensor]:
    """What the network is told beside the latents, for B prompts with or without their negative prompts."""
    told = {}
    for name, key in EMBEDS.items():
        if key in condition.prompt:
            parts = [part[key] for part in condition.parts[: 2 if condition.guided else 1]]
            told[name] = torch.cat(parts)
    if condition.negative is not None and "tokens" in condition.negative:
        told["negative_prompt_embeds"] = condition.negative["tokens"]
    if preset is not None:
        tokens = told["prompt_embeds"]
        told["add_time_ids"] = tokens.new_full((len(tokens), 1), float(preset))
    return told


def changed(trajectory: Trajectory, preset: int, answer: Mapping[str, Any]) -> Trajectory:
    """The trajectory with what a callback returned.

    Raises:
        UserError: a tensor of another shape, or a change that can not be followed.
    """
    latents = trajectory.latents_bchw
    if "latents" in answer:
        latents = of_shape("latents", answer["latents"], tuple(latents.shape)).to(latents)
    return replace(trajectory, latents_bchw=latents, condition=with_embeds(trajectory.condition, answer, preset))


def with_embeds(condition: Condition, answer: Mapping[str, Any], preset: int | None = None) -> Condition:
    """The condition with what a callback returned; embeddings of B rows are those of the prompts alone.

    Raises:
        UserError: a tensor of another shape, or a change that can not be followed.
    """
    ids = answer.get("add_time_ids")
    if preset is not None and ids is not None and bool((ids != preset).any()):
        raise UserError("A callback may drop rows of add_time_ids, but not change them; they follow from the size.")
    prompt, negative = dict(condition.prompt), None if condition.negative is None else dict(condition.negative)
    for name, key in EMBEDS.items():
        if name not in answer or key not in prompt:
            continue
        given, own = answer[name], prompt[key]
        if given.shape == own.shape or negative is None:
            prompt[key] = of_shape(name, given, tuple(own.shape)).to(own)
            continue
        both = of_shape(name, given, (2 * len(own), *own.shape[1:])).to(own)
        negative[key], prompt[key] = both.chunk(2)
    given = answer.get("negative_prompt_embeds")
    if given is not None and negative is not None and given is not negative.get("tokens"):
        own = prompt["tokens"]
        negative["tokens"] = of_shape("negative_prompt_embeds", given, tuple(own.shape)).to(own)
    return replace(condition, prompt=prompt, negative=negative)


def of_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Raises UserError unless a callback returned a tensor of that shape."""
    if tuple(tensor.shape) != shape:
        raise UserError(f"A callback returned {name} of the shape {tuple(tensor.shape)}, but {shape} is needed.")
    return tensor
