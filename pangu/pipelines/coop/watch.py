"""After each call: the progress bar moves, and the user's callback may replace latents, as in diffusers."""

from collections.abc import Sequence
from typing import Any

from pangu.pipelines import inputs
from pangu.pipelines.coop.walk import Cooperation

OFFERED = ("latents", "partner_latents", "clean_latents")
"""What a callback may ask for; the latents of a partner are None while it has none of its own.

`clean_latents` are z0_hat of the call, in which all have taken part: what would be drawn if the sampler stopped there.
"""


class Watch:
    """One run's `on_call`."""

    def __init__(self, pipe: Any, bar: Any, callback: inputs.Callback | None, names: Sequence[str]) -> None:
        self.pipe, self.bar, self.callback, self.names = pipe, bar, callback, names

    def __call__(self, cooperation: Cooperation) -> None:
        self.bar.update()
        if self.callback is None:
            return
        done = cooperation.sampler.at - 1
        offered = {
            "latents": cooperation.latents_bchw,
            "partner_latents": [guest.latents_bchw for guest in cooperation.guests],
            "clean_latents": cooperation.clean_bchw,
        }
        asked = {name: offered[name] for name in self.names}
        timestep = cooperation.sampler.scheduler.timesteps[done]
        changed = self.callback(self.pipe, done, timestep, asked) or {}
        cooperation.latents_bchw = changed.get("latents", cooperation.latents_bchw)
        for guest, latents in zip(cooperation.guests, changed.get("partner_latents", ()), strict=False):
            guest.latents_bchw = latents
