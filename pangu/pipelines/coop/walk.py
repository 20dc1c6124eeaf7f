"""Coop-Diffusion over a gap of latent spaces (PanGu-Draw, Algorithm 1, part 1): one denoising process, walked by all.

The main's sampler drives. Each bridged partner has latents of its own, kept in the scale of that sampler and advanced by a copy
of it, so that both are always at one noise level; to be asked, they are rescaled to the partner's training at the same log-SNR.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from pangu.diffusion.fusion import (
    NoiseLevel,
    Weight,
    clean_from_prediction,
    fuse,
    prediction_from_clean,
    renoised,
    rescaled,
    without,
)
from pangu.pipelines.coop.bridge import Bridge, Side
from pangu.pipelines.coop.family import Condition, Family
from pangu.pipelines.coop.levels import Sampler
from pangu.pipelines.coop.timetable import Call, Part, Turn

Generators = tuple[torch.Generator, ...] | None


@dataclass
class Guest:
    """A partner on the way.

    mask_here, mask_there: its mask on the main's and on its own latents, (1, 1, h, w).
    latents_bchw:  z' in the scale of the main's sampler; None while the main's latents are its own, or while it is off.
    clean_bchw:    its last clean estimate z0'_hat. crossed_bchw: the same in the main's space, z0_tilde.
    carried_bchw:  what the others last estimated, in its own space.
    """

    family: Family
    condition: Condition
    bridge: Bridge
    mask_here: Tensor | None = None
    mask_there: Tensor | None = None
    latents_bchw: Tensor | None = None
    sampler: Sampler | None = None
    clean_bchw: Tensor | None = None
    crossed_bchw: Tensor | None = None
    carried_bchw: Tensor | None = None

    def weight_here(self, turn: Turn) -> Weight:
        return turn.strength if self.mask_here is None or turn.strength == 0 else turn.strength * self.mask_here

    def weight_there(self, turn: Turn) -> Weight:
        return turn.strength if self.mask_there is None or turn.strength == 0 else turn.strength * self.mask_there

    def rest(self) -> None:
        """Forget everything: the partner is off."""
        self.latents_bchw = self.sampler = self.clean_bchw = self.crossed_bchw = self.carried_bchw = None


@dataclass
class Cooperation:
    """One trajectory of the main model and its guests, between two calls.

    side:         the main model and the size of its pictures.
    latents_bchw: z, (B, C, h, w) float32 in the scale of the main's sampler.
    calls:        the timetable; entry 0 is the call `first`.
    generators:   one noise source per image, one for all, or None.
    on_call:      called after each call; may replace the latents, or set `stopped`, after which no call follows.
    """

    side: Side
    condition: Condition
    sampler: Sampler
    guests: Sequence[Guest]
    calls: Sequence[Call]
    latents_bchw: Tensor
    generators: Generators = None
    first: int = 0
    on_call: Callable[["Cooperation"], None] | None = None
    stopped: bool = False
    pristine: Any = field(init=False)
    """The scheduler before its first step, from which a guest's copy is made."""
    clean_bchw: Tensor | None = field(init=False, default=None)
    """The fused clean estimate of the last call."""

    @property
    def family(self) -> Family:
        return self.side.family

    def __post_init__(self) -> None:
        self.pristine = copy.deepcopy(self.sampler.scheduler)
        self.sampler.begin_at(self.first)

    def begin_guest(self, guest: Guest, noise_bchw: Tensor) -> None:
        """z'_T from unit Gaussian noise, for a partner that takes part from the first call on."""
        guest.sampler = self._copied_sampler(self.first)
        guest.latents_bchw = noise_bchw * getattr(self.pristine, "init_noise_sigma", 1.0)

    def run(self, until: int | None = None) -> Tensor:
        """Walk on to the call `until`, or to the end, and return z there. No call waits for the device that it runs on.

        Raises:
            NotFinite: what crossed a bridge on the way was not finite.
        """
        until = self.sampler.calls if until is None else until
        for _ in range(self.sampler.at, until):
            if self.stopped:
                break
            self._advance()
            if self.on_call is not None:
                self.on_call(self)
        self._check_crossings()
        return self.latents_bchw

    def estimate(self) -> Tensor:
        """The fused clean estimate z0_hat here, by one more prediction of everybody (Algorithm 1, part 2); z where it is done."""
        if self.sampler.at >= self.sampler.calls:
            return self.latents_bchw
        level = self.sampler.level()
        fused, _ = self._fused(self._call(), level)
        self._check_crossings()
        return clean_from_prediction(self.latents_bchw, fused, level, self.sampler.prediction)

    def _check_crossings(self) -> None:
        for guest in self.guests:
            guest.bridge.check()

    def _call(self) -> Call:
        return self.calls[self.sampler.at - self.first]

    def _advance(self) -> None:
        call, level, noisy = self._call(), self.sampler.level(), self.latents_bchw
        fused, tail = self._fused(call, level)
        for guest, turn in zip(self.guests, call.turns, strict=True):
            if turn.returns:
                self._carry_back(guest, turn, fused, level)
        self.clean_bchw = clean_from_prediction(noisy, fused, level, self.sampler.prediction)
        full = fused if tail is None else torch.cat([fused, tail], dim=1)
        self.latents_bchw = self.sampler.step(full, noisy, self._step_arguments(self.sampler.scheduler))
        for guest, turn in zip(self.guests, call.turns, strict=True):
            self._advance_guest(guest, turn, level)

    def _fused(self, call: Call, level: NoiseLevel) -> tuple[Tensor, Tensor | None]:
        """Lines 1 to 4: (the fused prediction, the channels of the main's answer that predict no noise)."""
        own, tail = torch.zeros_like(self.latents_bchw), None
        noisy = self.sampler.scale(self.latents_bchw)  # also where nobody looks: some schedulers count their steps here
        if call.main:
            with self.family.at_work():
                answer = self.family.predict(noisy, self.sampler.timestep, self.condition)
            channels = self.latents_bchw.shape[1]
            own, tail = answer[:, :channels], self._tail(answer[:, channels:])
        others, weights = [], []
        for guest, turn in zip(self.guests, call.turns, strict=True):
            if turn.part is Part.OFF:
                continue
            if turn.enters:
                self._enter(guest, own, level)
            if turn.part is Part.ASK:
                self._ask(guest, level)
            assert guest.crossed_bchw is not None
            others.append(prediction_from_clean(self.latents_bchw, guest.crossed_bchw, level, self.sampler.prediction))
            weights.append(guest.weight_here(turn))
        return fuse(own, others, weights), tail

    def _tail(self, further: Tensor) -> Tensor | None:
        learned = self.sampler.scheduler.config.get("variance_type") in ("learned", "learned_range")
        return further if learned and further.shape[1] else None

    def _ask(self, guest: Guest, level: NoiseLevel) -> None:
        """Lines 1 and 2: z0'_hat at the timestep of the same log-SNR, and z0_tilde in the main's space."""
        noisy = self.latents_bchw if guest.latents_bchw is None else guest.latents_bchw
        levels = guest.family.levels
        alike = levels == self.family.levels
        timestep = float(self.sampler.timestep) if alike else levels.timestep(level.log_snr)
        there = levels.level(timestep)
        scaled = rescaled(noisy, level, there)
        with guest.family.at_work():
            # Tables of timesteps are float32, as are those that networks know.
            asked = torch.tensor(timestep, dtype=torch.float32)
            answer = guest.family.predict(scaled, asked, guest.condition)[:, : scaled.shape[1]].to(scaled.device)
        guest.clean_bchw = clean_from_prediction(scaled, answer, there, levels.prediction)
        guest.crossed_bchw = guest.bridge.to_main(guest.clean_bchw).to(self.latents_bchw.device)

    def _enter(self, guest: Guest, own: Tensor, level: NoiseLevel) -> None:
        """A state for a partner that joins under way: the main's clean estimate under fresh noise."""
        clean = clean_from_prediction(self.latents_bchw, own, level, self.sampler.prediction)
        carried = guest.bridge.to_partner(clean)
        guest.latents_bchw = renoised(carried, self.noise(tuple(carried.shape), carried), level)
        guest.sampler = self._copied_sampler(self.sampler.at)

    def _carry_back(self, guest: Guest, turn: Turn, fused: Tensor, level: NoiseLevel) -> None:
        """Line 6: what the others estimate, in the partner's space. Its own estimate stays there and never crosses twice."""
        assert guest.crossed_bchw is not None
        clean = clean_from_prediction(self.latents_bchw, fused, level, self.sampler.prediction)
        guest.carried_bchw = guest.bridge.to_partner(without(clean, guest.crossed_bchw, guest.weight_here(turn)))

    def _advance_guest(self, guest: Guest, turn: Turn, level: NoiseLevel) -> None:
        """Line 6: z'_{t-1} = S(z'_t, t, eps'_fuse)."""
        following = self.sampler.at - self.first
        if following >= len(self.calls) or turn.part is Part.OFF or not self._goes_on(guest, following):
            guest.rest()
            return
        if guest.latents_bchw is None or guest.sampler is None:
            return
        assert guest.clean_bchw is not None
        fused = guest.clean_bchw
        if guest.carried_bchw is not None:
            weight = guest.weight_there(turn)
            fused = fuse(guest.carried_bchw, [guest.clean_bchw], [weight])
        predicted = prediction_from_clean(guest.latents_bchw, fused, level, self.sampler.prediction)
        arguments = self._step_arguments(guest.sampler.scheduler)
        guest.sampler.scale(guest.latents_bchw)
        guest.latents_bchw = guest.sampler.step(predicted, guest.latents_bchw, arguments)

    def _goes_on(self, guest: Guest, index: int) -> bool:
        position = next(place for place, other in enumerate(self.guests) if other is guest)
        return self.calls[index].turns[position].part is not Part.OFF

    def _copied_sampler(self, call: int) -> Sampler:
        scheduler = copy.deepcopy(self.pristine)
        # What bounds the main's samples, or was learned for them, says nothing about another space.
        other: dict[str, Any] = {"clip_sample": False, "thresholding": False}
        if scheduler.config.get("variance_type") in ("learned", "learned_range"):
            other["variance_type"] = "fixed_small"
        scheduler.register_to_config(**{name: value for name, value in other.items() if name in scheduler.config})
        sampler = Sampler(scheduler, self.sampler.num_inference_steps, self.sampler.who)
        sampler.begin_at(call)
        return sampler

    def noise(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Unit Gaussian noise from each image's own source, so that batching changes no image."""
        return draw_noise(shape, self.generators, like.device)

    def _step_arguments(self, scheduler: Any) -> dict[str, Any]:
        if self.generators is None or "generator" not in inspect.signature(scheduler.step).parameters:
            return {}
        return {"generator": list(self.generators) if len(self.generators) > 1 else self.generators[0]}


def draw_noise(shape: tuple[int, ...], generators: Generators, device: torch.device) -> Tensor:
    """Unit Gaussian noise (B, C, h, w), float32."""
    source = None if generators is None else list(generators) if len(generators) > 1 else generators[0]
    return randn_tensor(shape, generator=source, device=device, dtype=torch.float32)
