"""After each call: the progress bar moves, and the user's callback may replace tensors and guidance, as in diffusers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pangu.errors import UserError
from pangu.pipelines import pair_inputs, step_callback
from pangu.pipelines.coop.model_adapter import ModelAdapter
from pangu.sampling.sampling_state import SamplingState

OFFERED = (*step_callback.TENSORS, "partner_latents", "clean_latents")
"""What a callback may ask for; embeddings are the main model's, where it has any, and follow `pangu.pipelines.step_callback`.

The latents of a partner are None while it has none of its own. `clean_latents` are z0_hat of the call, in which all have taken
part: what would be drawn if the sampler stopped there.
"""


class CoopCallback:
    """What one run calls after each step. adapter: of the main model."""

    def __init__(
        self, pipe: Any, adapter: ModelAdapter, bar: Any, callback: pair_inputs.Callback | None, names: Sequence[str]
    ) -> None:
        self.pipe, self.adapter, self.bar, self.callback, self.names = pipe, adapter, bar, callback, names
        self.scale = pipe.guidance_scale

    def __call__(self, state: SamplingState) -> None:
        self.bar.update()
        if self.callback is not None:
            self._call_back(state, self.callback)
        if self.pipe.guidance_scale != self.scale:
            self.scale = self.pipe.guidance_scale
            told = self.adapter.reguided(state.trajectory.condition, self.scale)
            state.trajectory = replace(state.trajectory, condition=told)

    def _call_back(self, state: SamplingState, callback: pair_inputs.Callback) -> None:
        trajectory, last = state.trajectory, state.last
        assert last is not None, "called after a step"
        offered = {
            "latents": trajectory.latents_bchw,
            "partner_latents": [partner.latents_bchw for partner in state.partners],
        } | self.adapter.embeds(trajectory.condition)
        if "clean_latents" in self.names:
            offered["clean_latents"] = last.clean_bchw
        lacking = [name for name in self.names if name not in offered]
        if lacking:
            raise UserError(f"{self.adapter.name} is told no {lacking[0]}; a callback can not ask for it.")
        done = trajectory.step - 1
        asked = {name: offered[name] for name in self.names}
        answer = callback(self.pipe, done, trajectory.timesteps[done], asked) or {}
        for partner, latents in zip(state.partners, answer.get("partner_latents", ()), strict=False):
            if partner.trajectory is not None and latents is not None:
                partner.trajectory = replace(partner.trajectory, latents_bchw=latents)
        told = self.adapter.with_embeds(trajectory.condition, answer)
        latents = answer.get("latents", trajectory.latents_bchw)
        state.trajectory = replace(trajectory, latents_bchw=latents, condition=told)
