"""From a checked request to a cooperation that can run or be counted: bridges, conditions, masks, calls, first noise."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pangu.errors import UserError
from pangu.models.schedulers import noise_scale
from pangu.pipelines.coop.bridge import Bridge, Side, bridge_between
from pangu.pipelines.coop.coop_inputs import CoopInputs
from pangu.pipelines.coop.model_adapter import ModelAdapter
from pangu.pipelines.coop.partner import Partner, check_masks, check_sum, mask_on, mask_plane, strengths
from pangu.sampling.call_schedule import Action, PartnerSchedule, call_schedule
from pangu.sampling.levels import Sampler, begun_at, learns_variance
from pangu.sampling.noise_sources import unit_noise
from pangu.sampling.sampling_state import PartnerState, SamplingState
from pangu.sampling.trajectory import Trajectory


@dataclass(frozen=True)
class Models:
    """All models of a cooperation, as adapters, in the order of the user's partners."""

    main: ModelAdapter
    partners: tuple[ModelAdapter, ...]
    main_vae: Any = None


def main_side(models: Models, request: CoopInputs) -> Side:
    return Side(models.main, request.height, request.width, models.main_vae)


def bridges(models: Models, request: CoopInputs) -> list[Bridge]:
    """One bridge to each partner.

    Raises:
        UserError: a size that does not fit.
    """
    main = main_side(models, request)
    sides = [
        Side(adapter, partner.height or request.height, partner.width or request.width, partner.bridge_vae)
        for adapter, partner in zip(models.partners, request.partners, strict=True)
    ]
    return [bridge_between(main, side, partner.upsample) for side, partner in zip(sides, request.partners, strict=True)]


def partner_schedules(request: CoopInputs, names: Sequence[str], found: Sequence[Bridge]) -> list[PartnerSchedule]:
    """What the schedule of calls needs of each partner.

    Raises:
        UserError: strengths out of their range.
    """
    steps = request.num_inference_steps
    values = [strengths(partner, name, steps) for partner, name in zip(request.partners, names, strict=True)]
    masked = [partner.mask is not None for partner in request.partners]
    check_sum(values, masked)
    return [
        PartnerSchedule(tuple(row), has_mask, not bridge.shared, partner.every)
        for row, has_mask, bridge, partner in zip(values, masked, found, request.partners, strict=True)
    ]


def cooperation(
    models: Models, request: CoopInputs, sampler: Sampler, first: int, latents: Tensor | None
) -> SamplingState:
    """Everybody at the call `first`, with z as given, or as noise where a trajectory begins.

    Raises:
        UserError: a partner can not be asked that way; the sentence names it.
    """
    found = bridges(models, request)
    names = [adapter.name for adapter in models.partners]
    schedules = partner_schedules(request, names, found)
    steps = [sampler.step_of(call) for call in range(sampler.calls)]
    calls = call_schedule(steps, schedules, first, main_always=learns_variance(sampler.scheduler))
    models.main.check_extra(request.extra)
    condition = replace(models.main.condition(request.of_main()), guidance_rescale=request.guidance_rescale)
    partners = [
        _partner_state(adapter, partner, bridge, request)
        for adapter, partner, bridge in zip(models.partners, request.partners, found, strict=True)
    ]
    _check_weights(partners, schedules)
    noise = None
    if latents is None:
        noise = _first_noise(main_side(models, request), request)
        latents = noise * noise_scale(sampler.scheduler)
    pristine = copy.deepcopy(sampler.scheduler) if partners else None
    scheduler = begun_at(sampler.scheduler, first)
    trajectory = Trajectory(latents, scheduler.timesteps, first, scheduler, condition, request.generators)
    state = SamplingState(models.main, trajectory, partners, calls, first, pristine)
    if noise is not None:
        _begin_partners(state, found, request, noise)
    return state


def _partner_state(adapter: ModelAdapter, partner: Partner, bridge: Bridge, request: CoopInputs) -> PartnerState:
    adapter.check_extra(partner.extra)
    side = bridge.partner
    asked = request.of_partner(partner, adapter.name, side.height, side.width)
    condition = replace(adapter.condition(asked), guidance_rescale=request.guidance_rescale)
    state = PartnerState(adapter, condition, bridge)
    if partner.mask is not None:
        main = bridge.main
        grids = [shape[2:] for shape in (main.shape(1), side.shape(1))]
        here, there = mask_on(mask_plane(partner.mask, adapter.name), main.size, grids, adapter.name)
        state.mask_here, state.mask_there = here.to(main.adapter.device), there.to(adapter.device)
    return state


def _check_weights(partner_states: Sequence[PartnerState], schedules: Sequence[PartnerSchedule]) -> None:
    if not any(schedule.masked for schedule in schedules):
        return
    for values in zip(*(schedule.strengths for schedule in schedules), strict=True):
        check_masks(
            [
                value if partner_state.mask_here is None else value * partner_state.mask_here
                for value, partner_state in zip(values, partner_states, strict=True)
            ]
        )


def _first_noise(side: Side, request: CoopInputs) -> Tensor:
    """Unit Gaussian noise in the main's latents, drawn or given.

    Raises:
        UserError: given noise of another shape.
    """
    shape, given = side.shape(request.images), request.latents
    if given is None:
        return unit_noise(shape, request.generators, side.adapter.device)
    if tuple(given.shape) != shape:
        raise UserError(f"latents have the shape {tuple(given.shape)}, but {side.adapter.name} needs {shape}.")
    return given.to(side.adapter.device).float()


def _begin_partners(state: SamplingState, found: Sequence[Bridge], request: CoopInputs, noise: Tensor) -> None:
    """z'_T = z_T where the shapes agree (PanGu-Draw, Algorithm 1), else noise of its own."""
    sigma = noise_scale(state.pristine)
    for index, (bridge, partner) in enumerate(zip(found, request.partners, strict=True)):
        if bridge.shared or state.calls[0].partner_calls[index].action is Action.OFF:
            continue
        shape, own = bridge.partner.shape(request.images), partner.latents
        if own is not None and tuple(own.shape) != shape:
            raise UserError(
                f"{bridge.partner.adapter.name}: latents have the shape {tuple(own.shape)}, but {shape} fits."
            )
        if own is None:
            own = noise if tuple(noise.shape) == shape else unit_noise(shape, request.generators, noise.device)
        state.begin_partner(state.partners[index], own.to(noise.device).float() * sigma)
