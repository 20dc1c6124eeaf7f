"""One trajectory through one latent space: its state between two steps, and the step of its scheduler.

Any object with diffusers' scheduler interface serves; this module imports none.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pangu.diffusion.fusion import NoiseLevel, clean_from_prediction
from pangu.errors import UserError
from pangu.sampling.condition import Condition
from pangu.sampling.levels import prediction_of, sample_level
from pangu.sampling.transfer import transferred


@dataclass(frozen=True)
class Trajectory:
    """The state between two steps. Self-contained: it can be handed to another process and continued there.

    latents_bchw: (B, C, H, W) float32 at the noise level of `timesteps[step]`, or clean once step == len(timesteps).
    timesteps:    (N,), on the CPU wherever the latents are: who comes next is decided by them, and no step waits for a device.
    scheduler:    carries its own history, so schedulers of any order survive a hand-off.
    condition:    what the network of the current timestep is asked with.
    generators:   one noise source per image, one for all, or None.
    """

    latents_bchw: Tensor
    timesteps: Tensor
    step: int
    scheduler: Any
    condition: Condition
    generators: tuple[torch.Generator, ...] | None = None

    @property
    def finished(self) -> bool:
        return self.step >= len(self.timesteps)

    @property
    def timestep(self) -> float:
        """The current timestep, in [0, T); schedulers that interpolate noise levels make it fractional."""
        return float(self.timesteps[self.step])

    @property
    def level(self) -> NoiseLevel:
        """Signal and noise in the latents."""
        return sample_level(self.scheduler, self.step)

    def scaled(self) -> Tensor:
        """The latents as the network wants to see them. Some schedulers count their steps here."""
        if not hasattr(self.scheduler, "scale_model_input"):
            return self.latents_bchw
        scaled: Tensor = self.scheduler.scale_model_input(self.latents_bchw, self.timesteps[self.step])
        return scaled

    def stepped(self, prediction_bchw: Tensor) -> "Trajectory":
        """After one step (PanGu-Draw, Algorithm 1, line 5).

        The scheduler moves on in place: the state before can not be stepped again.
        """
        t = self.timesteps[self.step]
        arguments = _step_arguments(self)
        latents = self.scheduler.step(prediction_bchw, t, self.latents_bchw, **arguments, return_dict=False)[0]
        return replace(self, latents_bchw=latents, step=self.step + 1)

    def to(self, device: torch.device | str) -> "Trajectory":
        """The same state on another device, for the expert that lives there; the original can still go on.

        The noise sources stay where they are, so that a seed means the same image on every device.
        """
        return replace(
            self,
            latents_bchw=self.latents_bchw.to(device),
            scheduler=transferred(self.scheduler, device),
            condition=self.condition.to(device),
        )

    def forked(self) -> "Trajectory":
        """The same state with a scheduler and noise sources of its own, so that both can go on."""
        sources = None if self.generators is None else tuple(each.clone_state() for each in self.generators)
        return replace(self.to(self.latents_bchw.device), generators=sources)


@dataclass(frozen=True)
class Step:
    """One step that was taken: the state after it, and what was seen and predicted before it.

    noisy_bchw: the latents before, in the scale of the scheduler's samples. prediction_bchw: guided, and fused where several
    models took part.
    """

    trajectory: Trajectory
    noisy_bchw: Tensor
    prediction_bchw: Tensor

    @property
    def timestep(self) -> float:
        return float(self.trajectory.timesteps[self.trajectory.step - 1])

    @property
    def level(self) -> NoiseLevel:
        """Of `noisy_bchw`."""
        return sample_level(self.trajectory.scheduler, self.trajectory.step - 1)

    @property
    def clean_bchw(self) -> Tensor:
        """z0_hat (PanGu-Draw, Eq. 3, or its form for other predictions): what would be drawn if the sampler stopped there."""
        kind = prediction_of(self.trajectory.scheduler)
        return clean_from_prediction(self.noisy_bchw, self.prediction_bchw, self.level, kind)

    @property
    def noise_bchw(self) -> Tensor:
        """eps_hat."""
        return (self.noisy_bchw - self.level.signal * self.clean_bchw) / self.level.sigma


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
