"""Roles, strategies, and the node that every part of the tree is."""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Role = Literal[
    "structure", "texture", "boost_low", "boost_high", "cascade_base", "cascade_middle", "cascade_final", "single", "control",
    "middle", "middle_2", "middle_3", "middle_4", "middle_5", "middle_6", "middle_7", "middle_8",
]  # fmt: skip
ROLES: tuple[Role, Role] = ("structure", "texture")
"""The roles of a pair."""
MIDDLE_ROLES: tuple[Role, ...] = (
    "middle", "middle_2", "middle_3", "middle_4", "middle_5", "middle_6", "middle_7", "middle_8",
)  # fmt: skip
"""Those between the two, from the noisiest on, where more than two experts take turns."""

Strategy = Literal["time_decoupling", "resolution_boost", "cascaded", "single", "control"]
STRATEGY_ROLES: dict[Strategy, tuple[Role, ...]] = {
    "time_decoupling": ROLES,
    "resolution_boost": ("boost_low", "boost_high"),
    "cascaded": ("cascade_base", "cascade_middle", "cascade_final"),
    "single": ("single",),
    "control": ("control",),
}
"""What each strategy trains (PanGu-Draw, Section 3.2); the two of a pair are independent, those of a baseline go in turn.

`single` is one generator for all timesteps, such as a partner of Coop-Diffusion; `control` a ControlNet on a given generator.
"""


class Frozen(BaseModel):
    """An immutable node of the tree that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON: equal trees, equal digests."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


Resolution = Annotated[int, Field(ge=8, description="Pixels per side of the square preset")]
