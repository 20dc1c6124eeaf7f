"""How often a training draws each noise level: densities over u in [0, 1], seen after a shift as timesteps. Pure.

Everything is said by cumulative shares: a part of a density, such as an expert's interval or the levels that a row may train, is
a part of [0, 1], on which draws are uniform.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

TimestepSampling = Literal["uniform", "logit_normal", "mode"]
LEAST_SHARE = 1e-4
"""Of a density, in an interval that is to be trained."""


@dataclass(frozen=True)
class TimestepDensity:
    """A density over timesteps t in [0, T]: t = T shift u / (1 + (shift - 1) u), with u in [0, 1] from `sampling`.

    uniform; logit_normal: logit(u) ~ N(mean, std^2) (arXiv 2403.03206, Eq. 19); mode: u = 1 - x - s (cos^2(pi x / 2) - 1 + x)
    with uniform x and s = `mode_scale` in [-1, 1.75] (its Eq. 20).
    """

    total: int
    sampling: TimestepSampling = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    shift: float = 1.0

    def share_below(self, timestep: float) -> float:
        """The share of draws below a timestep in [0, T]: rises from 0 to 1."""
        shifted = min(max(timestep / self.total, 0.0), 1.0)
        u = shifted / (self.shift - (self.shift - 1) * shifted)
        if not 0 < u < 1 or self.sampling == "uniform":
            return u
        if self.sampling == "logit_normal":
            return NormalDist(self.logit_mean, self.logit_std).cdf(math.log(u / (1 - u)))
        low, high = 0.0, 1.0
        for _ in range(60):  # _mode rises, and has no inverse in closed form
            middle = (low + high) / 2
            low, high = (middle, high) if self._mode(middle) <= u else (low, middle)
        return low

    def timestep(self, share: float) -> float:
        """The timestep in [0, T] below which that share of draws lies; the inverse of `share_below`."""
        u = min(max(share, 0.0), 1.0)
        if 0 < u < 1 and self.sampling == "logit_normal":
            logit = NormalDist(self.logit_mean, self.logit_std).inv_cdf(u)
            u = 1 / (1 + math.exp(min(max(-logit, -700.0), 700.0)))
        elif self.sampling == "mode":
            u = self._mode(u)
        return self.total * self.shift * u / (1 + (self.shift - 1) * u)

    def trouble(self, low: float, high: float) -> str:
        """Why low <= t < high cannot be trained, in one sentence without its full stop, or "": hardly any draw lies there."""
        share = self.share_below(high) - self.share_below(low)
        if share >= LEAST_SHARE:
            return ""
        return (
            f"only {share:.2g} of the timesteps that {self.sampling} draws with a shift of {self.shift:.3g} lie in [{low:g}, "
            f"{high:g}); move the boundary, or change schedule.shift or optimization.timestep_sampling"
        )

    def _mode(self, x: float) -> float:
        return x - self.mode_scale * (math.sin(math.pi / 2 * x) ** 2 - x)
