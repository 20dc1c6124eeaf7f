"""After each call: the progress bar moves, and the user's callback may replace tensors and guidance, as in diffusers."""

from collections.abc import Sequence
from typing import Any

from pangu.errors import UserError
from pangu.pipelines import pair_inputs, step_callback
from pangu.pipelines.coop.sampling_run import Cooperation

OFFERED = (*step_callback.TENSORS, "partner_latents", "clean_latents")
"""What a callback may ask for; embeddings are the main model's, where it has any, and follow `pangu.pipelines.step_callback`.

The latents of a partner are None while it has none of its own. `clean_latents` are z0_hat of the call, in which all have taken
part: what would be drawn if the sampler stopped there.
"""


class CoopCallback:
    """One run's `on_call`."""

    def __init__(self, pipe: Any, bar: Any, callback: pair_inputs.Callback | None, names: Sequence[str]) -> None:
        self.pipe, self.bar, self.callback, self.names = pipe, bar, callback, names
        self.scale = pipe.guidance_scale

    def __call__(self, cooperation: Cooperation) -> None:
        self.bar.update()
        if self.callback is not None:
            self._call_back(cooperation, self.callback)
        if self.pipe.guidance_scale != self.scale:
            self.scale = self.pipe.guidance_scale
            cooperation.condition = cooperation.adapter.reguided(cooperation.condition, self.scale)
        cooperation.stopped = self.pipe.interrupt

    def _call_back(self, cooperation: Cooperation, callback: pair_inputs.Callback) -> None:
        done = cooperation.sampler.at - 1
        offered = {
            "latents": cooperation.latents_bchw,
            "partner_latents": [partner.latents_bchw for partner in cooperation.partner_states],
            "clean_latents": cooperation.clean_bchw,
        } | cooperation.adapter.embeds(cooperation.condition)
        lacking = [name for name in self.names if name not in offered]
        if lacking:
            raise UserError(f"{cooperation.adapter.name} is told no {lacking[0]}; a callback can not ask for it.")
        asked = {name: offered[name] for name in self.names}
        answer = callback(self.pipe, done, cooperation.sampler.scheduler.timesteps[done], asked) or {}
        cooperation.latents_bchw = answer.get("latents", cooperation.latents_bchw)
        for partner, latents in zip(cooperation.partner_states, answer.get("partner_latents", ()), strict=False):
            partner.latents_bchw = latents
        cooperation.condition = cooperation.adapter.with_embeds(cooperation.condition, answer)
