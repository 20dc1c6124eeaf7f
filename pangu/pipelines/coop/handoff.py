"""The gap of resolutions (PanGu-Draw, Algorithm 1, part 2): a low-resolution model begins, the high-resolution one finishes.

Owns when the one stops and the other begins, and what is carried across.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import Tensor

from pangu.diffusion.fusion import renoised
from pangu.errors import UserError
from pangu.pipelines.coop.bridge import Bridge
from pangu.sampling.levels import Sampler, first_stage, sample_level
from pangu.sampling.noise_sources import Generators, unit_noise


@dataclass(frozen=True)
class Handoff:
    """A low-resolution beginning.

    low:      a diffusers pipeline, a folder or hub id of one, or a CoopPipeline with partners of its own.
    t_low:    T_low in timesteps of the main model: it runs its steps at or below. The low model runs until its own log-SNR is
              that of the main's first step, whatever its schedule.
    upsample: how its clean pixels become larger.
    height, width: of its pictures, px; None means its own size.
    num_inference_steps: of its whole trajectory; None means the main's number.
    prompt, negative_prompt, guidance_scale, image, conditioning_scale, extra: as those of a partner; None means the main's.
    """

    low: Any
    t_low: float = 500
    upsample: str = "lanczos"
    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    prompt: str | list[str] | None = None
    negative_prompt: str | list[str] | None = None
    guidance_scale: float | None = None
    image: Any = None
    conditioning_scale: float | list[float] = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def changed(self, values: Mapping[str, Any]) -> "Handoff":
        """The same hand-off with other values for one call.

        Raises:
            UserError: a name that is no field, or the model itself.
        """
        free = [entry.name for entry in fields(self) if entry.name != "low"]
        unknown = [name for name in values if name not in free]
        if unknown:
            raise UserError(f"handoff of one call may change {', '.join(free)}, not '{unknown[0]}'.")
        return replace(self, **values)


def first_call(high: Sampler, t_low: float) -> int:
    """The main's first call at or below T_low that begins a step.

    Raises:
        UserError: no step is left to either model.
    """
    timesteps = [float(t) for t in high.scheduler.timesteps]
    below = [call for call, t in enumerate(timesteps) if t <= t_low]
    call = first_stage(high.scheduler, below[0]) if below else len(timesteps)
    if call == 0 or call >= len(timesteps):
        raise UserError(
            f"t_low = {t_low:g} leaves {'everything' if call == 0 else 'nothing'} to the high-resolution model, whose timesteps "
            f"are {timesteps[0]:g} ... {timesteps[-1]:g}; choose one in between."
        )
    return call


def last_call(low: Sampler, log_snr: float) -> int:
    """The low model's call at which it predicts once more: the first that is no noisier than the main's first, or its end."""
    for call in range(low.calls):
        # Levels come from float32 tables: equal ones may differ in the last digits.
        if sample_level(low.scheduler, call).log_snr >= log_snr - 1e-4:
            return first_stage(low.scheduler, call)
    return low.calls


def carried_over(clean_bchw: Tensor, bridge: Bridge, high: Sampler, call: int, generators: Generators) -> Tensor:
    """z_{T_low} = signal E(upsampled D'(z0'_hat)) + sigma eps with fresh noise, (B, C, H, W) of the main.

    Fresh, because noise that was resized with the sample is correlated between neighbours, which no model was trained on.
    """
    clean = bridge.to_main(clean_bchw)
    bridge.check()
    return renoised(clean, unit_noise(tuple(clean.shape), generators, clean.device), sample_level(high.scheduler, call))
