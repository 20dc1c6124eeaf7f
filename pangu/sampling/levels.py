"""Noise levels of diffusers: what a network was trained with, and where a sampler stands.

A `TrainedLevels` maps a network's continuous timestep to a noise level and back, through the logarithm of the signal-to-noise
ratio. Between two indices the ratio is that of the training's own levels, as schedulers interpolate it.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch

from pangu.diffusion.fusion import NoiseLevel, Prediction, PredictionKind
from pangu.diffusion.training_levels import ContinuousLevels, DiscreteLevels
from pangu.errors import UserError

PURE_NOISE = (0.0, 2.0**-24)
"""The last alpha_bar of zero terminal SNR; diffusers' schedulers of sigmas keep it at the second, to have a logarithm."""


class TrainedLevels(Protocol):
    """The noise levels that a network was trained with."""

    @property
    def prediction(self) -> Prediction: ...

    def timestep(self, log_snr: float) -> float:
        """The timestep of that log-SNR, between indices where need be, or the nearest one that the network knows."""
        ...

    def level(self, timestep: float) -> NoiseLevel:
        """Signal and noise in the network's input at that timestep."""
        ...


@dataclass(frozen=True)
class TableLevels:
    """A variance-preserving model with T discrete steps, such as Stable Diffusion's."""

    prediction: Prediction
    alpha_bars: tuple[float, ...]

    @cached_property
    def _levels(self) -> DiscreteLevels:
        return DiscreteLevels(self.prediction, torch.tensor(self.alpha_bars))

    def timestep(self, log_snr: float) -> float:
        return self._levels.timestep(log_snr)

    def level(self, timestep: float) -> NoiseLevel:
        found = self._levels.level(torch.tensor([timestep], dtype=torch.float64))
        return NoiseLevel(float(found.signal), float(found.sigma))


@dataclass(frozen=True)
class EdmLevels:
    """EDM: sigma in [sigma_min, sigma_max], told to the network as ln(sigma) / 4 (arXiv 2206.00364, Table 1)."""

    prediction: Prediction
    sigma_min: float
    sigma_max: float

    def timestep(self, log_snr: float) -> float:
        lowest, highest = math.log(self.sigma_min), math.log(self.sigma_max)
        return 0.25 * min(max(-log_snr / 2, lowest), highest)

    def level(self, timestep: float) -> NoiseLevel:
        sigma = math.exp(4 * timestep)
        signal = 1 / math.hypot(sigma, self.prediction.sigma_data)
        return NoiseLevel(signal, signal * sigma)


def trained_levels(scheduler: Any, who: str = "The model") -> TrainedLevels:
    """The noise levels of a network, read from the scheduler that its pipeline carries.

    Raises:
        UserError: the scheduler belongs to no kind of model that can cooperate.
    """
    prediction = prediction_of(scheduler, who)
    if prediction.kind == "flow_prediction":
        return ContinuousLevels(prediction, scheduler.config.num_train_timesteps, least=1.0)
    if prediction.kind.startswith("edm"):
        return EdmLevels(prediction, scheduler.config.sigma_min, scheduler.config.sigma_max)
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None:
        raise UserError(
            f"{who} has a {type(scheduler).__name__}, which has no table of noise levels to meet others at."
        )
    if prediction.kind == "epsilon" and float(table[-1]) in PURE_NOISE:
        raise UserError(
            f"{who} has a {type(scheduler).__name__} whose last noise level is pure noise, where predicted epsilon says nothing "
            f"of the image; take v_prediction, or a scheduler without rescale_betas_zero_snr."
        )
    return TableLevels(prediction, tuple(table.tolist()))


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler samples models that predict flows."""
    return type(scheduler).__name__.startswith("FlowMatch")


def learns_variance(scheduler: Any) -> bool:
    """Whether a scheduler takes a variance from the network's further channels."""
    return scheduler.config.get("variance_type") in ("learned", "learned_range")


def prediction_of(scheduler: Any, who: str = "The model") -> Prediction:
    """What a scheduler takes for the output of its network.

    Raises:
        UserError: a kind of prediction that is not known here.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if is_flow(scheduler):
        return Prediction("flow_prediction")
    kind = config.get("prediction_type", "epsilon")
    if hasattr(scheduler, "precondition_outputs"):
        edm: dict[str, PredictionKind] = {"epsilon": "edm_epsilon", "v_prediction": "edm_v_prediction"}
        if kind in edm:
            return Prediction(edm[kind], float(config.sigma_data))
    elif kind in ("epsilon", "v_prediction", "sample", "flow_prediction"):
        return Prediction(kind)
    raise UserError(
        f"{who} has a {name} with prediction_type = {kind}; epsilon, v_prediction, sample and flows cooperate."
    )


def sample_level(scheduler: Any, call: int) -> NoiseLevel:
    """Signal and noise in the sample that a scheduler takes at call number `call`.

    Raises:
        UserError: its noise levels can not be read.
    """
    if not hasattr(scheduler, "sigmas"):
        if not hasattr(scheduler, "alphas_cumprod"):
            raise UserError(f"{type(scheduler).__name__} has noise levels that can not be read.")
        alpha_bar = float(scheduler.alphas_cumprod[int(scheduler.timesteps[call])])
        return NoiseLevel(math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar))
    sigma = float(scheduler.sigmas[call])
    if is_flow(scheduler):
        return NoiseLevel(1 - sigma, sigma)
    if hasattr(scheduler, "sigmas_interpol") or hasattr(scheduler, "_second_order_timesteps"):
        # Every second call is at a level between two of the table; only its timestep says which.
        trained = trained_levels(scheduler).level(float(scheduler.timesteps[call]))
        return NoiseLevel(1.0, trained.sigma / trained.signal)
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        signal, sigma_t = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[call].double())
        return NoiseLevel(float(signal), float(sigma_t))
    return NoiseLevel(1.0, sigma)


def first_stage(scheduler: Any, call: int) -> int:
    """That call, or the next one that begins a step of a second-order scheduler."""
    return call if getattr(scheduler, "order", 1) == 1 else call + call % 2


def begun_at(scheduler: Any, call: int) -> Any:
    """The scheduler, which starts in the middle, without history, at a call that `first_stage` gave."""
    if call and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(call)
    return scheduler


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler whose timesteps are set for one trajectory.

    A second-order scheduler is called twice a step; a call is what the network is asked for, a step what the user counts.

    Raises:
        UserError: its noise levels can not be read.
    """

    scheduler: Any
    num_inference_steps: int
    who: str

    def __post_init__(self) -> None:
        # Read once, because the network of the main model is asked in the sampler's own timesteps.
        scheduler = self.scheduler
        vp_table = hasattr(scheduler, "alphas_cumprod") and not hasattr(scheduler, "sigmas")
        between = hasattr(scheduler, "sigmas_interpol")
        if not vp_table and not between and len(getattr(scheduler, "sigmas", ())) != self.calls + 1:
            raise UserError(f"{self.who} samples with {type(scheduler).__name__}, whose noise levels can not be read.")

    @property
    def calls(self) -> int:
        return len(self.scheduler.timesteps)

    def step_of(self, call: int) -> int:
        """Which of the user's steps a call belongs to."""
        return call * self.num_inference_steps // self.calls
