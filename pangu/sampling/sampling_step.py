"""One step of everybody (PanGu-Draw, Algorithm 1, part 1), and the walk step by step. Lines are those of the algorithm.

To be asked, a partner's sample is rescaled to its training at the same log-SNR.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pangu.diffusion.fusion import (
    NoiseLevel,
    Prediction,
    clean_from_prediction,
    clean_here,
    fuse,
    prediction_from_clean,
    renoised,
    rescaled,
    without,
)
from pangu.sampling.call_schedule import Action, Call, PartnerCall
from pangu.sampling.levels import learns_variance, prediction_of
from pangu.sampling.noise_sources import unit_noise
from pangu.sampling.question import Asking, Networks, answered, ask
from pangu.sampling.sampling_state import PartnerState, SamplingState
from pangu.sampling.trajectory import Step, Trajectory


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
    return answer[:, :channels], answer[:, channels:] if learns_variance(here.scheduler) else None


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
    clean = clean_from_prediction(scaled, predicted, there, levels.prediction)
    partner.clean_bchw = clean_here(noisy, clean, level, there)
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
