"""DDIM whose every step ends at the next timestep of its own list.

diffusers' classes aim at t - T // steps instead (huggingface/diffusers#9261), which is that timestep only where the number of
steps divides T or the spacing is leading. These are made for one trajectory; pipelines and folders keep diffusers' own.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import diffusers
import torch


class OwnTimesteps:
    """Put before a DDIM class of diffusers; everything but the aim of its steps stays as it is, to the bit."""

    config: Any
    num_inference_steps: Any
    timesteps: torch.Tensor

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, timesteps: Sequence[int] | None = None
    ) -> None:
        """Timesteps of the configured spacing, or falling ones of the caller's choice.

        Raises:
            ValueError: they do not fall, or diffusers does not take that number of steps.
        """
        if timesteps is None:
            super().set_timesteps(num_inference_steps, device=device)  # type: ignore[misc]
        else:
            self.num_inference_steps = len(timesteps)
            self.timesteps = torch.tensor(list(timesteps), dtype=torch.int64, device=device)
        own, total = self.timesteps.tolist(), int(self.config.num_train_timesteps)
        following = [*own[1:], -1]
        if any(t <= after for t, after in zip(own, following, strict=True)):
            raise ValueError(f"timesteps must fall from one to the next and end at 0 or above, not run {own}")
        self._steps_alike = {t: Fraction(total, t - after) for t, after in zip(own, following, strict=True)}

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **arguments: Any) -> Any:
        """As diffusers' step, from `timestep` to the next of the list; from the last one to the clean sample."""
        t, steps = int(timestep), self.num_inference_steps
        # diffusers divides T by the number of steps to know how far to go: so many steps as long as this one.
        self.num_inference_steps = self._steps_alike[t]
        try:
            return super().step(model_output, t, sample, **arguments)  # type: ignore[misc]
        finally:
            self.num_inference_steps = steps


class DDIMScheduler(OwnTimesteps, diffusers.DDIMScheduler):
    """`diffusers.DDIMScheduler` (arXiv 2010.02502) for any number of steps and any spacing."""


class DDIMParallelScheduler(OwnTimesteps, diffusers.DDIMParallelScheduler):
    """`diffusers.DDIMParallelScheduler`, whose `step` is that of DDIM."""


EXACT: dict[type, type] = {
    diffusers.DDIMScheduler: DDIMScheduler,
    diffusers.DDIMParallelScheduler: DDIMParallelScheduler,
}
"""diffusers' class -> the one to walk with in its place."""
