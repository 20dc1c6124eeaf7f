"""The learning rate as a function of the step. Pure."""

import math

from pangu.config import Optimization


def learning_rate(step: int, total_steps: int, optimization: Optimization) -> float:
    """Linear warm-up to lr_peak, a plateau, then down to lr_final at the last step over the last `lr_decay_share` of steps."""
    if step < optimization.warmup_steps:
        return optimization.lr_peak * (step + 1) / optimization.warmup_steps
    if optimization.lr_schedule == "constant":
        return optimization.lr_peak
    begin = max(optimization.warmup_steps, round((1 - optimization.lr_decay_share) * total_steps))
    part = min(1.0, max(0, step - begin) / max(1, total_steps - 1 - begin))
    left = 0.5 * (1 + math.cos(math.pi * part)) if optimization.lr_schedule == "cosine" else 1 - part
    return optimization.lr_final + (optimization.lr_peak - optimization.lr_final) * left
