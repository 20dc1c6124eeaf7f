"""The loss on rows that no step trains on, by timestep: the same rows, captions, noise and timesteps at every measurement.

Draws nothing from the global random generators, so training does not notice.
"""

from typing import Any

import torch
from torch import Tensor

from pangu.config import Recipe, Role
from pangu.data.captions import LANGUAGES, Caption
from pangu.data.rows.mixed_rows import in_turn
from pangu.data.rows.training_rows import Rows
from pangu.diffusion.interval import TimeInterval
from pangu.errors import UserError
from pangu.evaluate.timestep_loss import CleanLatents, loss_by_bucket, mean_loss
from pangu.models.denoisers import denoise
from pangu.train.randomness import Windows
from pangu.train.training_metrics import parts_of


class HeldOutLoss:
    """Measures a denoiser on the held-out rows of the commonest shape, of each dataset in turn; of windows the middle one.

    Only rows without a lowest timestep in the interval: others are no truth about all of it. Captions as listed, English and
    Chinese in turn.

    Raises:
        UserError: there is none.
    """

    def __init__(self, role: Role, recipe: Recipe, rows: Rows, interval: TimeInterval, windows: Windows | None) -> None:
        whole = rows.min_timestep_n <= interval.low
        if not bool(whole.any()):
            raise UserError(
                f"No held-out row may train all of {interval}, which watching.held_out_every is to measure on."
            )
        self._preset = int(rows.preset_n[whole].mode().values)
        usable = (whole & (rows.preset_n == self._preset)).nonzero().flatten().tolist()
        chosen = in_turn(rows, usable)[: recipe.watching.held_out_rows]
        latents = rows.latents(chosen).float().cpu()
        height, width = (windows or {}).get(self._preset, tuple(latents.shape[2:]))
        top, left = (latents.shape[2] - height) // 2, (latents.shape[3] - width) // 2
        captions = [Caption(number % len(LANGUAGES)) for number in range(len(chosen))]
        tokens, pooled = rows.captions(chosen, captions)
        self._sample = CleanLatents(
            latents[:, :, top : top + height, left : left + width], tokens.float().cpu(), pooled.float().cpu()
        )
        self._parts = parts_of(interval, recipe.watching.timestep_buckets)
        self._schedule, self._seed = recipe.schedule, recipe.seed
        self._bf16 = recipe.execution_of(role).precision == "bf16"

    def __call__(self, denoiser: Any) -> dict[str, float]:
        """`held_out_loss` over the interval, and one for each part of it, e.g. `held_out_loss/t500-624`."""
        device = next(denoiser.parameters()).device

        def predict(noisy: Tensor, timestep: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
            text = tokens.to(device), pooled.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
                found = denoise(denoiser, noisy.to(device), timestep.to(device), *text, self._preset)
            return found.float().cpu()

        found = loss_by_bucket(predict, self._sample, self._parts, self._schedule, self._seed)
        named = {f"held_out_loss/t{part.low}-{part.high - 1}": part.loss for part in found}
        return {"held_out_loss": mean_loss(found)} | named
