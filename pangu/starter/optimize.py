"""The loop that trains the embedded text encoders: AdamW for a time of one core."""

import math
import time
from collections.abc import Callable

from torch import Tensor, nn
from torch.optim import AdamW

from pangu.progress import Progress, Reporter


def optimize(
    parameters: list[nn.Parameter],
    loss_of: Callable[[], Tensor],
    peak: float,
    minutes: float,
    stage: str,
    report: Reporter,
) -> float:
    """AdamW on a cosine over so many core-minutes; returns the last loss."""
    optimizer = AdamW(parameters, peak, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    began, step, last = time.thread_time(), 0, 0.0
    while (part := (time.thread_time() - began) / (60 * minutes)) < 1:
        cosine = 0.5 * (1 + math.cos(math.pi * part))
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1, (step + 1) / 100) * (0.02 + 0.98 * cosine)
        loss = loss_of()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step, last = step + 1, float(loss.detach())
        if step % 100 == 0:
            facts = {"steps": step, "loss": round(last, 4)}
            report(Progress(stage=stage, done=int(100 * part), total=100, unit="%", facts=facts))
    return last
