"""What a student of few steps should predict (phased consistency distillation, arXiv 2405.18407, Section 3).

The interval of a half is cut into segments. From everywhere in a segment the student's prediction leads to the segment's end in
one step; it should end there as it ends from a point a little further down the teacher's guided trajectory. Whatever is
predicted, that is again a target for the prediction, so the losses of a recipe are as they were.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pangu.config import Distillation, NoiseSchedule
from pangu.data.captions import EMPTY, Caption
from pangu.data.rows.training_rows import Rows
from pangu.diffusion.guidance import classifier_free_guidance
from pangu.diffusion.interval import TimeInterval
from pangu.diffusion.noise import NoiseLevel, carried, clean_between, prediction_from_clean
from pangu.diffusion.segments import CLEAN, segment_ends, segment_starts
from pangu.diffusion.training_levels import TrainingLevels, training_levels
from pangu.models.denoisers import denoise
from pangu.train.randomness import Batch


@dataclass(frozen=True)
class Teacher:
    """The network that is to be followed, frozen, and the text that its guidance leads away from.

    empty_tokens_sc (S, C), empty_pooled_p (P,): the empty caption.
    """

    network: Any
    empty_tokens_sc: Tensor
    empty_pooled_p: Tensor

    def guided(self, noisy: Tensor, timestep_b: Tensor, batch: Batch, scale: float) -> Tensor:
        """Its guided prediction (B, C, H, W)."""
        count = len(noisy)
        tokens = torch.cat([self.empty_tokens_sc.expand_as(batch.tokens_bsc), batch.tokens_bsc])
        pooled = torch.cat([self.empty_pooled_p.expand_as(batch.pooled_bp), batch.pooled_bp])
        both = denoise(
            self.network, noisy.repeat(2, 1, 1, 1), timestep_b.repeat(2), tokens, pooled, batch.preset
        ).float()
        return classifier_free_guidance(both[:count], both[count:], scale)


class SegmentTarget:
    """The target of a student on one interval; `losses.Target`. Tables and teacher are on `device`."""

    def __init__(
        self,
        teacher: Teacher,
        interval: TimeInterval[int],
        levels: TrainingLevels,
        settings: Distillation,
        device: torch.device,
    ) -> None:
        self.teacher, self.levels, self.settings = teacher, levels, settings
        self.starts_k = torch.tensor(segment_starts(interval, settings.steps), device=device)
        self.ends_k = torch.tensor(segment_ends(interval, settings.steps), device=device)
        self.lowest = interval.low

    @torch.no_grad()
    def __call__(self, student: Any, batch: Batch, noisy: Tensor, level: NoiseLevel[Tensor]) -> Tensor:
        """What the student should predict at (noisy, level), (B, C, H, W)."""
        t, prediction = batch.timestep_b, self.levels.prediction
        segment_b = ((self.starts_k >= t[:, None]).sum(1) - 1).clamp(min=0)
        end_b = self.ends_k[segment_b].to(t.dtype)
        next_b = torch.maximum(t - self.settings.stride, end_b)
        guided = self.teacher.guided(noisy, t, batch, self.settings.guidance_scale)
        landed, end_level = carried(noisy, guided, level, self._level(next_b), prediction), self._level(end_b)
        # At the end of a segment the teacher is there itself: nobody is asked beyond the interval.
        asked_b = next_b.clamp(min=self.lowest)
        network = getattr(student, "module", student)
        own = denoise(network, landed, asked_b, batch.tokens_bsc, batch.pooled_bp, batch.preset).float()
        ended = carried(landed, own, self._level(asked_b), end_level, prediction)
        implied = prediction_from_clean(noisy, clean_between(noisy, ended, level, end_level), level, prediction)
        return torch.where((next_b <= end_b)[:, None, None, None], guided, implied)

    def _level(self, timestep_b: Tensor) -> NoiseLevel[Tensor]:
        """(B,) each; of `CLEAN` signal alone."""
        found, clean = self.levels.level(timestep_b.clamp(min=0)), timestep_b <= CLEAN
        return NoiseLevel(found.signal.masked_fill(clean, 1.0), found.sigma.masked_fill(clean, 0.0))


def segment_target(
    settings: Distillation,
    schedule: NoiseSchedule,
    interval: TimeInterval[int],
    rows: Rows,
    teacher: Any,
    device: torch.device,
) -> SegmentTarget:
    """The target of a job on `interval`. teacher: a network on any device, which is frozen here and moved."""
    tokens, pooled = (part[0].float().to(device) for part in rows.captions([0], [Caption(EMPTY)]))
    network = teacher.to(device).eval().requires_grad_(False)
    closed = schedule.is_flow and interval.high == schedule.num_train_timesteps
    levels = training_levels(schedule).to(device)
    return SegmentTarget(Teacher(network, tokens, pooled), replace(interval, closed=closed), levels, settings, device)
