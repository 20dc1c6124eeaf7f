"""What a training makes small: a function of a prediction that the recipe names, or that a user brings.

A loss takes a `Predicted` and its own options and gives one number for each sample. A package brings one as an entry point of the
group `pangu.losses`; docs/training.md has an example.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pangu.config import NoiseSchedule, Optimization
from pangu.diffusion.noise import NoiseLevel, Prediction
from pangu.diffusion.training_levels import TrainingLevels, training_levels
from pangu.errors import UserError
from pangu.plugins import brought

GROUP = "pangu.losses"


@dataclass(frozen=True)
class Predicted:
    """What a network predicted for a batch, and everything that there is to compare it with.

    predicted_bchw: float32; target_bchw: what it should have been; noisy_bchw = signal clean + sigma noise, what it was shown.
    level: signal and sigma (B,); timestep_b: (B,); prediction: what kind the first two are of.
    """

    predicted_bchw: Tensor
    target_bchw: Tensor
    clean_bchw: Tensor
    noise_bchw: Tensor
    noisy_bchw: Tensor
    level: NoiseLevel[Tensor]
    timestep_b: Tensor
    prediction: Prediction


Target = Callable[[Any, Any, Tensor, NoiseLevel[Tensor]], Tensor]
"""(network, batch, noisy (B, C, H, W), its level) -> what the network should predict, (B, C, H, W)."""

Loss = Callable[[Predicted], Tensor]
"""A prediction to one number (B,) for each sample, of which the weighted mean is minimised."""


def squared_error(predicted: Predicted) -> Tensor:
    """Of the prediction, (B,), averaged over channels and pixels (PanGu-Draw, Eq. 2)."""
    return (predicted.predicted_bchw - predicted.target_bchw).square().flatten(1).mean(1)


def epsilon(predicted: Predicted) -> Tensor:
    """Squared error (B,) of the noise that the prediction implies."""
    return _error_of("epsilon", predicted)


def v_prediction(predicted: Predicted) -> Tensor:
    """Squared error (B,) of the velocity that the prediction implies."""
    return _error_of("v_prediction", predicted)


def flow_prediction(predicted: Predicted) -> Tensor:
    """Squared error (B,) of the flow eps - z0 that the prediction implies."""
    return _error_of("flow_prediction", predicted)


def sample(predicted: Predicted) -> Tensor:
    """Squared error (B,) of the clean data that the prediction implies."""
    return _error_of("sample", predicted)


def min_snr(predicted: Predicted, gamma: float = 5.0) -> Tensor:
    """min(SNR, gamma) times the squared error of the implied clean data, (B,) (arXiv 2303.09556, Section 3.4)."""
    return squared_error(predicted) * min_snr_weight(predicted.level, gamma, predicted.prediction.kind)


def min_snr_weight(level: NoiseLevel[Tensor], gamma: float, kind: str) -> Tensor:
    """(B,) weights in [0, 1] of the squared error of what is predicted.

    min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v, and times sigma^2 for the flow. With s = signal and g = sigma these are
    min(1, gamma g^2 / s^2) and twice min(s^2, gamma g^2), without a quotient that is 0 / 0 at pure noise or inf / inf at none.
    """
    size = _size(kind, level)
    signal = torch.ones_like(size) if kind == "epsilon" else (level.signal / size) ** 2
    return torch.minimum(signal, gamma * (level.sigma / size) ** 2)


def _error_of(kind: str, predicted: Predicted) -> Tensor:
    ratio = _size(kind, predicted.level) / _size(predicted.prediction.kind, predicted.level)
    return squared_error(predicted) * ratio**2


def _size(kind: str, level: NoiseLevel[Tensor]) -> Tensor:
    """How large an error of a prediction is where that of the clean data is `sigma`, (B,)."""
    match kind:
        case "epsilon":
            return level.signal
        case "v_prediction":
            return torch.hypot(level.signal, level.sigma)
        case "flow_prediction":
            return level.signal + level.sigma
    return level.sigma


LOSSES: Mapping[str, Callable[..., Tensor]] = {
    "prediction": squared_error,
    "epsilon": epsilon,
    "v_prediction": v_prediction,
    "flow_prediction": flow_prediction,
    "sample": sample,
    "min_snr": min_snr,
}


def find_loss(name: str, options: Mapping[str, Any]) -> Loss:
    """The loss of that name with its options.

    Raises:
        UserError: no loss is called so, it can not be imported, or it takes other options.
    """
    found = LOSSES.get(name) or brought(GROUP, "loss", name, LOSSES)
    if not options and found is squared_error:
        return squared_error
    try:
        inspect.signature(found).bind(None, **options)
    except TypeError as error:
        raise UserError(f"optimization.loss_options do not fit the loss '{name}': {error}.") from error
    return partial(found, **options)


@dataclass(frozen=True)
class Objective:
    """What a training asks of its network: at which noise levels, which loss, and a target where it is not the batch's own."""

    levels: TrainingLevels
    loss: Loss
    target: Target | None = None


def objective_of(schedule: NoiseSchedule, optimization: Optimization, device: torch.device | None = None) -> Objective:
    """The recipe's objective, its tables on `device`.

    Raises:
        UserError: as `find_loss`.
    """
    levels = training_levels(schedule)
    name, options = optimization.named_loss
    return Objective(levels if device is None else levels.to(device), find_loss(name, options))
