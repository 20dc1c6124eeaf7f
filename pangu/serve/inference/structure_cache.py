"""What a pool need not compute twice: states at the boundary, and what the text towers said of a prompt.

A request whose structure half was drawn before continues from the boundary, at the cost of its texture half. What is drawn
does not depend on whether a cache had it.
"""

from collections.abc import Hashable
from typing import Any

from torch import Tensor

from pangu.bounded_cache import BoundedCache
from pangu.sampling.condition import Condition
from pangu.sampling.sampling_state import SamplingState, SavedPartner, SavedState
from pangu.sampling.trajectory import Trajectory


class StructureCache:
    """Holds at most `most_bytes` of latents, estimates and scheduler history; 0 holds nothing."""

    def __init__(self, most_bytes: int) -> None:
        self._kept: BoundedCache[Hashable, SavedState] = BoundedCache(most_bytes, bytes_of)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def used_bytes(self) -> int:
        return int(self._kept.used)

    def restore(self, key: Hashable, state: SamplingState) -> bool:
        """Bring a state to where the one that was kept under `key` stood; False, and unchanged, where there is none."""
        kept = self._kept.get(key)
        if kept is not None:
            state.restore(kept)
        return kept is not None

    def keep(self, key: Hashable, state: SamplingState) -> None:
        """Remember where it stands under `key`, dropping others where there is no room."""
        self._kept.keep(key, state.saved())


def text_cache(most_bytes: int) -> BoundedCache[Hashable, Condition]:
    """What the text towers said of single prompts; nobody changes a tensor of a condition, so it is handed out as it is."""
    return BoundedCache(most_bytes, bytes_of_text)


def bytes_of_text(condition: Condition) -> int:
    """Of all its tensors."""
    return _bytes_in([condition.prompt, condition.negative, [style.prompt for style in condition.styles]])


def bytes_of(saved: SavedState) -> int:
    """Of all tensors of its trajectories and their schedulers."""
    return _bytes_in([saved.trajectory, *saved.partners])


def _bytes_in(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, (Trajectory, SavedPartner)):
        value = vars(value)
    if hasattr(value, "set_timesteps"):
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_bytes_in, value)) if isinstance(value, (list, tuple)) else 0
