"""A network asked in the place of another one: at the level of equal log-SNR, in its own scale, answering in the other's kind.

Pure. The other network's timesteps are those of whoever asks; whether the two differ in noise levels, in what they predict, or in
both, makes no difference to the asker.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pangu.config import NoiseSchedule
from pangu.diffusion.expert_turns import same_levels
from pangu.diffusion.noise import NoiseLevel, clean_from_prediction, clean_here, prediction_from_clean, rescaled
from pangu.diffusion.training_levels import TrainingLevels, training_levels


@dataclass(frozen=True)
class Translation:
    """asker: the levels and the kind of prediction of who asks. network: those of who answers.

    same_levels: a timestep of one is the same timestep of the other, so that the prediction alone is another one.
    """

    asker: TrainingLevels
    network: TrainingLevels
    same_levels: bool

    def timesteps(self, timestep_b: Tensor) -> Tensor:
        """Timesteps (B,) of the asker in those of the network, (B,) float32; both on the CPU."""
        if self.same_levels:
            return timestep_b
        log_snrs = self.asker.level(timestep_b.double()).log_snr.tolist()
        known = {log_snr: self.network.timestep(log_snr) for log_snr in set(log_snrs)}
        return torch.tensor([known[log_snr] for log_snr in log_snrs], dtype=torch.float32)

    def noisy(self, noisy_bchw: Tensor, timestep_b: Tensor) -> Tensor:
        """(B, C, H, W) in the asker's scale at its timesteps (B,), in the scale of the network."""
        return noisy_bchw if self.same_levels else rescaled(noisy_bchw, *self._levels(timestep_b))

    def prediction(self, noisy_bchw: Tensor, predicted_bchw: Tensor, timestep_b: Tensor) -> Tensor:
        """What the network predicted of `noisy(noisy_bchw)`, in the asker's kind and at its levels."""
        here, there = self._levels(timestep_b)
        clean = clean_from_prediction(
            self.noisy(noisy_bchw, timestep_b), predicted_bchw, there, self.network.prediction
        )
        return prediction_from_clean(
            noisy_bchw, clean_here(noisy_bchw, clean, here, there), here, self.asker.prediction
        )

    def _levels(self, timestep_b: Tensor) -> tuple[NoiseLevel[Tensor], NoiseLevel[Tensor]]:
        """Of the asker and of the network, float64 on the CPU."""
        return self.asker.level(timestep_b.double()), self.network.level(self.timesteps(timestep_b).double())


def translation(asker: NoiseSchedule, network: NoiseSchedule) -> Translation | None:
    """How a network of one schedule is asked by those of another; None where there is nothing to translate."""
    same = same_levels(asker, network)
    if same and asker.prediction_type == network.prediction_type:
        return None
    return Translation(training_levels(asker), training_levels(network), same)
