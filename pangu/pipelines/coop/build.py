"""From a checked request to a cooperation that can run or be counted: bridges, conditions, masks, timetable, first noise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pangu.errors import UserError
from pangu.pipelines.coop.bridge import Bridge, Side, bridge_between
from pangu.pipelines.coop.family import Family
from pangu.pipelines.coop.levels import Sampler
from pangu.pipelines.coop.partner import Partner, check_masks, check_sum, mask_on, mask_plane, strengths
from pangu.pipelines.coop.request import Request
from pangu.pipelines.coop.timetable import Part, Seat, timetable
from pangu.pipelines.coop.walk import Cooperation, Guest, draw_noise


@dataclass(frozen=True)
class Models:
    """All models of a cooperation, as adapters, in the order of the user's partners."""

    main: Family
    partners: tuple[Family, ...]
    main_vae: Any = None


def main_side(models: Models, request: Request) -> Side:
    return Side(models.main, request.height, request.width, models.main_vae)


def bridges(models: Models, request: Request) -> list[Bridge]:
    """One bridge to each partner.

    Raises:
        UserError: a size that does not fit.
    """
    main = main_side(models, request)
    sides = [
        Side(family, partner.height or request.height, partner.width or request.width, partner.bridge_vae)
        for family, partner in zip(models.partners, request.partners, strict=True)
    ]
    return [bridge_between(main, side, partner.upsample) for side, partner in zip(sides, request.partners, strict=True)]


def seats(request: Request, names: Sequence[str], found: Sequence[Bridge]) -> list[Seat]:
    """What the timetable needs of each partner.

    Raises:
        UserError: strengths out of their range.
    """
    steps = request.num_inference_steps
    values = [strengths(partner, name, steps) for partner, name in zip(request.partners, names, strict=True)]
    masked = [partner.mask is not None for partner in request.partners]
    check_sum(values, masked)
    return [
        Seat(tuple(row), has_mask, not bridge.shared, partner.every)
        for row, has_mask, bridge, partner in zip(values, masked, found, request.partners, strict=True)
    ]


def cooperation(models: Models, request: Request, sampler: Sampler, first: int, latents: Tensor | None) -> Cooperation:
    """Everybody at the call `first`, with z as given, or as noise where a trajectory begins.

    Raises:
        UserError: a partner can not be asked that way; the sentence names it.
    """
    found = bridges(models, request)
    names = [family.name for family in models.partners]
    seated = seats(request, names, found)
    learned = sampler.scheduler.config.get("variance_type") in ("learned", "learned_range")
    calls = timetable([sampler.step_of(call) for call in range(sampler.calls)], seated, first, main_always=learned)
    models.main.check_extra(request.extra)
    condition = replace(models.main.condition(request.of_main()), guidance_rescale=request.guidance_rescale)
    guests = [
        _guest(family, partner, bridge, request)
        for family, partner, bridge in zip(models.partners, request.partners, found, strict=True)
    ]
    _check_weights(guests, seated)
    noise = None
    if latents is None:
        noise = _first_noise(main_side(models, request), request)
        latents = noise * getattr(sampler.scheduler, "init_noise_sigma", 1.0)
    result = Cooperation(
        main_side(models, request), condition, sampler, guests, calls, latents, request.generators, first
    )
    if noise is not None:
        _begin_guests(result, request, noise)
    return result


def _guest(family: Family, partner: Partner, bridge: Bridge, request: Request) -> Guest:
    family.check_extra(partner.extra)
    side = bridge.partner
    asked = request.of_partner(partner, family.name, side.height, side.width)
    condition = replace(family.condition(asked), guidance_rescale=request.guidance_rescale)
    guest = Guest(family, condition, bridge)
    if partner.mask is not None:
        main = bridge.main
        grids = [shape[2:] for shape in (main.shape(1), side.shape(1))]
        here, there = mask_on(mask_plane(partner.mask, family.name), main.size, grids, family.name)
        guest.mask_here, guest.mask_there = here.to(main.family.device), there.to(family.device)
    return guest


def _check_weights(guests: Sequence[Guest], seated: Sequence[Seat]) -> None:
    if not any(seat.masked for seat in seated):
        return
    for values in zip(*(seat.strengths for seat in seated), strict=True):
        check_masks(
            [
                value if guest.mask_here is None else value * guest.mask_here
                for value, guest in zip(values, guests, strict=True)
            ]
        )


def _first_noise(side: Side, request: Request) -> Tensor:
    """Unit Gaussian noise in the main's latents, drawn or given.

    Raises:
        UserError: given noise of another shape.
    """
    shape, given = side.shape(request.images), request.latents
    if given is None:
        return draw_noise(shape, request.generators, side.family.device)
    if tuple(given.shape) != shape:
        raise UserError(f"latents have the shape {tuple(given.shape)}, but {side.family.name} needs {shape}.")
    return given.to(side.family.device).float()


def _begin_guests(result: Cooperation, request: Request, noise: Tensor) -> None:
    """z'_T = z_T where the shapes agree (PanGu-Draw, Algorithm 1), else noise of its own."""
    for index, (guest, partner) in enumerate(zip(result.guests, request.partners, strict=True)):
        if guest.bridge.shared or result.calls[0].turns[index].part is Part.OFF:
            continue
        shape = guest.bridge.partner.shape(request.images)
        own = partner.latents
        if own is not None and tuple(own.shape) != shape:
            raise UserError(f"{guest.family.name}: latents have the shape {tuple(own.shape)}, but {shape} fits.")
        if own is None:
            own = noise if tuple(noise.shape) == shape else result.noise(shape, noise)
        result.begin_guest(guest, own.to(noise.device).float())
