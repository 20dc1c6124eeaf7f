"""How much the blocks of a transformer add to a picture, by timestep: what MagCache (arXiv 2506.09045) decides by.

Kept in the `config.json` of the half as a curve over timesteps, so that it holds for any number of steps.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from pangu.errors import UserError

RESIDUALS = "residual_magnitudes"
"""In the configuration: [[timestep, magnitude], ...], rising timesteps."""


@dataclass(frozen=True)
class Magnitudes:
    """timesteps: rising. logs: of the mean length, over tokens and pictures, of what all blocks together add there."""

    timesteps: tuple[float, ...]
    logs: tuple[float, ...]

    @classmethod
    def of(cls, network: Any) -> Self:
        """Those that were measured of a network.

        Raises:
            UserError: none were.
        """
        known = network.config.get(RESIDUALS)
        if not known:
            raise UserError(
                f"mag can not be switched on for a {type(network).__name__} that has not been measured; call "
                "measure_magnitudes (pangu.pipelines.measured_magnitudes) first."
            )
        return cls(tuple(t for t, _ in known), tuple(math.log(size) for _, size in known))

    def ratio(self, before: float, now: float) -> float:
        """Magnitude at one timestep by that at an earlier one."""
        return math.exp(self._log(now) - self._log(before))

    def _log(self, timestep: float) -> float:
        """Linear between measured timesteps, and as at the nearest one beyond them."""
        import numpy as np

        return float(np.interp(timestep, self.timesteps, self.logs))


def curve_of(seen: Iterable[tuple[float, float]]) -> list[list[float]]:
    """(timestep, magnitude) of single rows -> the mean at each timestep, rising."""
    by_timestep: dict[float, list[float]] = {}
    for timestep, size in seen:
        by_timestep.setdefault(round(timestep, 3), []).append(max(size, 1e-8))
    return [[timestep, math.fsum(sizes) / len(sizes)] for timestep, sizes in sorted(by_timestep.items())]
