"""Networks whose predictions are known: exact posteriors of a Gaussian, and one network in the words of another schedule."""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from pangu.config import NoiseSchedule
from pangu.diffusion.training_levels import level_at
from pangu.models.schedulers import sampler
from pangu.pipelines.experts_pipeline import ExpertsPipeline
from pangu.pipelines.pangu_draw import PanGuDrawPipeline

EPSILON = NoiseSchedule()
VELOCITY = NoiseSchedule(prediction_type="v_prediction")
COSINE = NoiseSchedule(beta_schedule="squaredcos_cap_v2")
FLOW = NoiseSchedule(prediction_type="flow_prediction", shift=3.0)
MEAN, SPREAD = 0.5, 0.8


def predicted(kind: str, noisy: Tensor, clean: Tensor, signal: float, sigma: float) -> Tensor:
    """What a network of that kind says where the clean data is known, written out."""
    noise = (noisy - signal * clean) / sigma
    return {"epsilon": noise, "v_prediction": signal * noise - sigma * clean, "flow_prediction": noise - clean}[kind]


class Gaussian(ModelMixin, ConfigMixin):
    """The best network there is for independent values of mean `MEAN` and standard deviation `SPREAD`."""

    @register_to_config
    def __init__(self, schedule: Any = None, channels: int = 16, cross_attention_dim: int = 64) -> None:
        super().__init__()
        self.register_to_config(in_channels=channels, out_channels=channels)
        self.nothing = torch.nn.Parameter(torch.zeros(1))
        self.levels = NoiseSchedule.model_validate(schedule)
        self.asked: list[float] = []

    def forward(self, noisy: Tensor, timestep: Tensor, **_: Any) -> tuple[Tensor]:
        self.asked += timestep.tolist()
        answers = []
        for one, t in zip(noisy, timestep.tolist(), strict=True):
            level = level_at(self.levels, t)
            gain = level.signal * SPREAD**2 / (level.signal**2 * SPREAD**2 + level.sigma**2)
            clean = MEAN + gain * (one - level.signal * MEAN)
            answers.append(predicted(self.levels.prediction_type, one, clean, level.signal, level.sigma))
        return (torch.stack(answers),)


def gaussian(schedule: NoiseSchedule, like: Any) -> Gaussian:
    config = like.config
    return Gaussian(schedule.model_dump(), config.out_channels, config.cross_attention_dim)


def contracts_of(pair: PanGuDrawPipeline, *experts: tuple[NoiseSchedule, int, int]) -> dict[str, dict[str, Any]]:
    """Contracts like those of `pair` for (schedule, low, high) from the noisiest on."""
    roles = ("structure", *("middle", "middle_2")[: len(experts) - 2], "texture")
    usual = dict(pair.config.contracts["structure"])
    return {
        role: usual | {"role": role, "low": low, "high": high, "schedule": schedule.model_dump()}
        for role, (schedule, low, high) in zip(roles, experts, strict=True)
    }


def joined(pair: PanGuDrawPipeline, networks: list[Any], contracts: dict[str, dict[str, Any]], **more: Any) -> Any:
    """A pipeline of these networks around what `pair` shares."""
    parts = {name: part for name, part in pair.components.items() if name not in ("structure", "texture", "scheduler")}
    own = dict(zip(contracts, networks, strict=True))
    kind = PanGuDrawPipeline if len(own) == 2 and not more else ExpertsPipeline
    first = NoiseSchedule.model_validate(contracts["structure"]["schedule"])
    made = kind(**parts, **own, scheduler=sampler(first), contracts=contracts, hidden_layers=[-1, -1], **more)
    made.set_progress_bar_config(disable=True)
    return made
