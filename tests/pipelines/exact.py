"""Networks whose predictions are known: exact posteriors of a Gaussian, and one network in the words of another schedule."""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from pangu.config import NoiseSchedule
from pangu.diffusion.interval import TimeInterval
from pangu.diffusion.noise import NoiseLevel, clean_between
from pangu.diffusion.segments import CLEAN, segment_ends, segment_starts
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


class Ideal(Gaussian):
    """A Gaussian's best student: it leads from anywhere in a segment to where the probability flow leaves it.

    segments: (start, end) of each, falling; the end of the last may be `CLEAN`.
    """

    @register_to_config
    def __init__(
        self, schedule: Any = None, channels: int = 16, cross_attention_dim: int = 64, segments: Any = ()
    ) -> None:
        super().__init__(schedule, channels, cross_attention_dim)
        self.segments = [tuple(segment) for segment in segments]

    def forward(self, noisy: Tensor, timestep: Tensor, **_: Any) -> tuple[Tensor]:
        self.asked += timestep.tolist()
        answers = [self.answer(one, t) for one, t in zip(noisy, timestep.tolist(), strict=True)]
        return (torch.stack(answers),)

    def answer(self, noisy: Tensor, t: float) -> Tensor:
        end = next(end for start, end in reversed(self.segments) if t <= start)
        level, other = level_of(self.levels, t), level_of(self.levels, end)
        clean = clean_between(noisy, flowed(noisy, level, other), level, other)
        return predicted(self.levels.prediction_type, noisy, clean, level.signal, level.sigma)


def level_of(schedule: NoiseSchedule, t: float) -> NoiseLevel[float]:
    return NoiseLevel(1.0, 0.0) if t == CLEAN else level_at(schedule, t)


def flowed(noisy: Tensor, level: NoiseLevel[float], other: NoiseLevel[float]) -> Tensor:
    """Where the Gaussian's probability flow takes a sample from one level to another: by as many standard deviations."""
    spread, ends = ((each.signal**2 * SPREAD**2 + each.sigma**2) ** 0.5 for each in (level, other))
    return other.signal * MEAN + ends / spread * (noisy - level.signal * MEAN)


def segments(interval: TimeInterval[int], steps: int) -> tuple[tuple[int, int], ...]:
    """(start, end) of each segment of a student."""
    return tuple(zip(segment_starts(interval, steps), segment_ends(interval, steps), strict=True))


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
