"""One denoising process: a trajectory, the model that draws along it, and partners that help (PanGu-Draw, Algorithm 1, part 1).

The trajectory's scheduler drives. A pair is the case of a model whose network changes with the timestep, without partners.
Each bridged partner has latents of its own, kept in the scale of that scheduler and advanced by a copy of it, so that all are
always at one noise level; to be asked, they are rescaled to the partner's training at the same log-SNR.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from pangu.diffusion.fusion import (
    NoiseLevel,
    Prediction,
    Weight,
    clean_from_prediction,
    fuse,
    prediction_from_clean,
    renoised,
    rescaled,
    without,
)
from pangu.sampling.call_schedule import Action, Call, PartnerCall
from pangu.sampling.condition import Condition
from pangu.sampling.levels import TrainedLevels, begun_at, prediction_of
from pangu.sampling.noise_sources import unit_noise
from pangu.sampling.question import Asking, Model, Networks, answered, ask
from pangu.sampling.trajectory import Step, Trajectory

ALONE = Call(True, ())


class PartnerModel(Model, Protocol):
    """A model that meets others at one log-SNR."""

    levels: TrainedLevels


class Bridge(Protocol):
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
    bridge: Bridge
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

    def snapshot(self) -> "Snapshot":
        """What `restore` needs to go on from here, without conditions; this state can still go on."""
        return Snapshot(
            _untold(self.trajectory),
            tuple(
                PartnerSnapshot(
                    partner.trajectory and _untold(partner.trajectory),
                    partner.clean_bchw,
                    partner.crossed_bchw,
                    partner.carried_bchw,
                )
                for partner in self.partners
            ),
        )

    def restore(self, snapshot: "Snapshot") -> None:
        """Go on from where the snapshot was taken, under the conditions of this state; the snapshot can be used again."""
        self.trajectory = replace(snapshot.trajectory.forked(), condition=self.trajectory.condition)
        for partner, kept in zip(self.partners, snapshot.partners, strict=True):
            partner.trajectory = kept.trajectory and kept.trajectory.forked()
            partner.clean_bchw, partner.crossed_bchw, partner.carried_bchw = (
                kept.clean_bchw, kept.crossed_bchw, kept.carried_bchw,
            )  # fmt: skip


@dataclass(frozen=True)
class PartnerSnapshot:
    """What is kept of a `PartnerState`."""

    trajectory: Trajectory | None
    clean_bchw: Tensor | None
    crossed_bchw: Tensor | None
    carried_bchw: Tensor | None


@dataclass(frozen=True)
class Snapshot:
    """A `SamplingState` without its models and conditions."""

    trajectory: Trajectory
    partners: tuple[PartnerSnapshot, ...] = ()


def _untold(trajectory: Trajectory) -> Trajectory:
    return replace(trajectory.forked(), condition=Condition())


def partner_scheduler(pristine: Any, call: int) -> Any:
    """A copy of the main scheduler that walks a partner's latents from a call on."""
    scheduler = copy.deepcopy(pristine)
    # What bounds the main's samples, or was learned for them, says nothing about another space.
    other: dict[str, Any] = {"clip_sample": False, "thresholding": False}
    if scheduler.config.get("variance_type") in ("learned", "learned_range"):
        other["variance_type"] = "fixed_small"
    scheduler.register_to_config(**{name: value for name, value in other.items() if name in scheduler.config})
    return begun_at(scheduler, call)


def sampling_step(state: SamplingState) -> Asking[Step]:
    """One call of the scheduler; `state` is after it when this returns, and as it was while questions are open."""
    call, before, following = state.call(), state.trajectory, state.call(1)
    assert call is not None, "a step after the last"
    fused, further = yield from _fused(state, call)
    for partner, own_call in zip(state.partners, call.partner_calls, strict=True):
        if own_call.returns:
            _carry_back(state, partner, own_call, fused)
    state.trajectory = before.stepped(fused if further is None else torch.cat([fused, further], dim=1))
    for place, (partner, own_call) in enumerate(zip(state.partners, call.partner_calls, strict=True)):
        if own_call.action is Action.OFF or following is None or following.partner_calls[place].action is Action.OFF:
            partner.rest()
        else:
            _advance_partner(partner, own_call, before)
    state.last = Step(state.trajectory, before.latents_bchw, fused)
    return state.last


def clean_estimate(state: SamplingState) -> Asking[Tensor]:
    """z0_hat here, by one more prediction of everybody (Algorithm 1, part 2); the latents themselves at the end."""
    call, here = state.call(), state.trajectory
    if here.finished or call is None:
        return here.latents_bchw
    fused, _ = yield from _fused(state, call)
    state.check_crossings()
    return clean_from_prediction(here.latents_bchw, fused, here.level, _kind(state))


def walk(
    state: SamplingState,
    goes_on: Callable[[SamplingState], bool] = lambda state: True,
    on_step: Callable[[SamplingState], None] | None = None,
) -> SamplingState:
    """Step by step to the end, or until it does not go on. No step waits for the device that it runs on.

    goes_on: asked before each step. on_step: called after each; may change the state.

    Raises:
        NotFinite: what crossed a bridge on the way was not finite.
    """
    networks = Networks()
    while not state.finished and goes_on(state):
        answered(sampling_step(state), networks)
        if on_step is not None:
            on_step(state)
    state.check_crossings()
    return state


def _kind(state: SamplingState) -> Prediction:
    return prediction_of(state.trajectory.scheduler)


def _fused(state: SamplingState, call: Call) -> Asking[tuple[Tensor, Tensor | None]]:
    """Lines 1 to 4: (the fused prediction, the channels of the main's answer that predict no noise)."""
    here = state.trajectory
    noisy = here.scaled()
    own, further = None, None
    if call.main:
        answer = yield from ask(state.model, noisy, here.timesteps[here.step], here.condition)
        own, further = _split(answer, here)
    if not state.partners:
        assert own is not None
        return own, further
    level, kind = here.level, _kind(state)
    own = torch.zeros_like(here.latents_bchw) if own is None else own
    others, weights = [], []
    for partner, own_call in zip(state.partners, call.partner_calls, strict=True):
        if own_call.action is Action.OFF:
            continue
        if own_call.enters:
            _enter(state, partner, own)
        if own_call.action is Action.ASK:
            yield from _ask_partner(state, partner, level)
        assert partner.crossed_bchw is not None
        others.append(prediction_from_clean(here.latents_bchw, partner.crossed_bchw, level, kind))
        weights.append(partner.weight_here(own_call))
    return fuse(own, others, weights), further


def _split(answer: Tensor, here: Trajectory) -> tuple[Tensor, Tensor | None]:
    """(the prediction, a learned variance where the scheduler takes one)."""
    channels = here.latents_bchw.shape[1]
    if answer.shape[1] == channels:
        return answer, None
    learned = here.scheduler.config.get("variance_type") in ("learned", "learned_range")
    return answer[:, :channels], answer[:, channels:] if learned else None


def _ask_partner(state: SamplingState, partner: PartnerState, level: NoiseLevel) -> Asking[None]:
    """Lines 1 and 2: z0'_hat at the timestep of the same log-SNR, and z0_tilde in the main's space."""
    here = state.trajectory
    noisy = here.latents_bchw if partner.latents_bchw is None else partner.latents_bchw
    levels = partner.model.levels
    # Read from the main's own table where both have one, so that equal models are asked alike to the bit.
    alike = levels == getattr(state.model, "levels", None)
    timestep = here.timestep if alike else levels.timestep(level.log_snr)
    there = levels.level(timestep)
    scaled = rescaled(noisy, level, there)
    answer = yield from ask(partner.model, scaled, torch.tensor(timestep), partner.condition)
    predicted = answer[:, : scaled.shape[1]].to(scaled.device)
    partner.clean_bchw = clean_from_prediction(scaled, predicted, there, levels.prediction)
    partner.crossed_bchw = partner.bridge.to_main(partner.clean_bchw).to(here.latents_bchw.device)


def _enter(state: SamplingState, partner: PartnerState, own: Tensor) -> None:
    """A state for a partner that joins under way: the main's clean estimate under fresh noise."""
    here = state.trajectory
    clean = clean_from_prediction(here.latents_bchw, own, here.level, _kind(state))
    carried = partner.bridge.to_partner(clean)
    noise = unit_noise(tuple(carried.shape), here.generators, carried.device)
    state.begin_partner(partner, renoised(carried, noise, here.level))


def _carry_back(state: SamplingState, partner: PartnerState, own_call: PartnerCall, fused: Tensor) -> None:
    """Line 6: what the others estimate, in the partner's space. Its own estimate stays there and never crosses twice."""
    assert partner.crossed_bchw is not None
    here = state.trajectory
    clean = clean_from_prediction(here.latents_bchw, fused, here.level, _kind(state))
    partner.carried_bchw = partner.bridge.to_partner(
        without(clean, partner.crossed_bchw, partner.weight_here(own_call))
    )


def _advance_partner(partner: PartnerState, own_call: PartnerCall, before: Trajectory) -> None:
    """Line 6: z'_{t-1} = S(z'_t, t, eps'_fuse), for a partner with latents of its own. before: the main's state at t."""
    if partner.trajectory is None:
        return
    assert partner.clean_bchw is not None
    fused = partner.clean_bchw
    if partner.carried_bchw is not None:
        fused = fuse(partner.carried_bchw, [partner.clean_bchw], [partner.weight_there(own_call)])
    there, kind = partner.trajectory, prediction_of(before.scheduler)
    predicted = prediction_from_clean(there.latents_bchw, fused, before.level, kind)
    there.scaled()
    partner.trajectory = there.stepped(predicted)
