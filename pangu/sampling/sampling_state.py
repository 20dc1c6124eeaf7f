"""Everybody in one denoising process between two steps: the trajectory, the model that draws along it, and partners that help.

The trajectory's scheduler drives. A pair is the case of a model whose network changes with the timestep, without partners.
Each bridged partner has latents of its own, kept in the scale of that scheduler and advanced by a copy of it, so that all are
always at one noise level (PanGu-Draw, Algorithm 1, part 1).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor

from pangu.diffusion.fusion import Weight
from pangu.sampling.call_schedule import Call, PartnerCall
from pangu.sampling.condition import Condition
from pangu.sampling.levels import TrainedLevels, begun_at, learns_variance
from pangu.sampling.question import Model
from pangu.sampling.trajectory import Step, Trajectory

ALONE = Call(True, ())


class PartnerModel(Model, Protocol):
    """A model that meets others at one log-SNR."""

    levels: TrainedLevels


class LatentBridge(Protocol):
    """The way between the clean latents of the trajectory and those of a partner. shared: they are the same."""

    @property
    def shared(self) -> bool: ...

    def to_main(self, clean_bchw: Tensor) -> Tensor: ...

    def to_partner(self, clean_bchw: Tensor) -> Tensor: ...

    def check(self) -> None:
        """Raises NotFinite if what crossed since the last check was not finite. Waits for the device."""


@dataclass
class PartnerState:
    """A partner on the way.

    mask_here, mask_there: its mask on the trajectory's and on its own latents, (1, 1, h, w).
    trajectory:    z' in the scale of the main scheduler; None while the main latents are its own, or while it is off.
    clean_bchw:    its last clean estimate z0'_hat. crossed_bchw: the same in the main's space, z0_tilde.
    carried_bchw:  what the others last estimated, in its own space.
    """

    model: PartnerModel
    condition: Condition
    bridge: LatentBridge
    mask_here: Tensor | None = None
    mask_there: Tensor | None = None
    trajectory: Trajectory | None = None
    clean_bchw: Tensor | None = None
    crossed_bchw: Tensor | None = None
    carried_bchw: Tensor | None = None

    @property
    def latents_bchw(self) -> Tensor | None:
        return None if self.trajectory is None else self.trajectory.latents_bchw

    def weight_here(self, own_call: PartnerCall) -> Weight:
        return _weight(own_call.strength, self.mask_here)

    def weight_there(self, own_call: PartnerCall) -> Weight:
        return _weight(own_call.strength, self.mask_there)

    def rest(self) -> None:
        """Forget everything: the partner is off."""
        self.trajectory = self.clean_bchw = self.crossed_bchw = self.carried_bchw = None


def _weight(strength: float, mask: Tensor | None) -> Weight:
    return strength if mask is None or strength == 0 else strength * mask


@dataclass
class SamplingState:
    """Everybody between two calls of the scheduler.

    calls:    who takes part in each from call `first` on; none where there are no partners.
    pristine: the scheduler before its first step, from which that of a partner is made.
    last:     the step that was taken last.
    """

    model: Model
    trajectory: Trajectory
    partners: Sequence[PartnerState] = ()
    calls: Sequence[Call] = ()
    first: int = 0
    pristine: Any = None
    last: Step | None = field(default=None)

    @property
    def finished(self) -> bool:
        return self.trajectory.finished

    def call(self, later: int = 0) -> Call | None:
        """Who takes part in the current call, or in one after it; None where there is no such call."""
        place = self.trajectory.step + later - self.first
        if self.partners:
            return self.calls[place] if place < len(self.calls) else None
        return ALONE

    def begin_partner(self, partner: PartnerState, latents_bchw: Tensor) -> None:
        """Latents of its own for a partner, at the noise level of the current call."""
        partner.trajectory = Trajectory(
            latents_bchw,
            self.trajectory.timesteps,
            self.trajectory.step,
            partner_scheduler(self.pristine, self.trajectory.step),
            partner.condition,
            self.trajectory.generators,
        )

    def check_crossings(self) -> None:
        """Raises NotFinite if what crossed a bridge was not finite."""
        for partner in self.partners:
            partner.bridge.check()

    def saved(self) -> "SavedState":
        """What `restore` needs to go on from here, without conditions; this state can still go on."""
        return SavedState(
            _untold(self.trajectory),
            tuple(
                SavedPartner(
                    partner.trajectory and _untold(partner.trajectory),
                    partner.clean_bchw,
                    partner.crossed_bchw,
                    partner.carried_bchw,
                )
                for partner in self.partners
            ),
        )

    def restore(self, saved: "SavedState") -> None:
        """Go on from where it was taken, under the conditions of this state; it can be used again."""
        self.trajectory = replace(saved.trajectory.forked(), condition=self.trajectory.condition)
        for partner, kept in zip(self.partners, saved.partners, strict=True):
            partner.trajectory = kept.trajectory and kept.trajectory.forked()
            partner.clean_bchw, partner.crossed_bchw, partner.carried_bchw = (
                kept.clean_bchw, kept.crossed_bchw, kept.carried_bchw,
            )  # fmt: skip


@dataclass(frozen=True)
class SavedPartner:
    """What is kept of a `PartnerState`."""

    trajectory: Trajectory | None
    clean_bchw: Tensor | None
    crossed_bchw: Tensor | None
    carried_bchw: Tensor | None


@dataclass(frozen=True)
class SavedState:
    """A `SamplingState` without its models and conditions."""

    trajectory: Trajectory
    partners: tuple[SavedPartner, ...] = ()


def _untold(trajectory: Trajectory) -> Trajectory:
    return replace(trajectory.forked(), condition=Condition())


def partner_scheduler(pristine: Any, call: int) -> Any:
    """A copy of the main scheduler that walks a partner's latents from a call on."""
    scheduler = copy.deepcopy(pristine)
    # What bounds the main's samples, or was learned for them, says nothing about another space.
    other: dict[str, Any] = {"clip_sample": False, "thresholding": False}
    if learns_variance(scheduler):
        other["variance_type"] = "fixed_small"
    scheduler.register_to_config(**{name: value for name, value in other.items() if name in scheduler.config})
    return begun_at(scheduler, call)
