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
from pangu.pipelines.coop.levels import Sampler
from pangu.pipelines.coop.model_adapter import Condition, ModelAdapter
from pangu.pipelines.coop.partner_schedule import Action, Call, PartnerCall

Generators = tuple[torch.Generator, ...] | None


@dataclass
class PartnerState:
    """A partner on the way.

    mask_here, mask_there: its mask on the main's and on its own latents, (1, 1, h, w).
    latents_bchw:  z' in the scale of the main's sampler; None while the main's latents are its own, or while it is off.
    clean_bchw:    its last clean estimate z0'_hat. crossed_bchw: the same in the main's space, z0_tilde.
    carried_bchw:  what the others last estimated, in its own space.
    """

    adapter: ModelAdapter
    condition: Condition
    bridge: Bridge
    mask_here: Tensor | None = None
    mask_there: Tensor | None = None
    latents_bchw: Tensor | None = None
    sampler: Sampler | None = None
    clean_bchw: Tensor | None = None
    crossed_bchw: Tensor | None = None
    carried_bchw: Tensor | None = None

    def weight_here(self, own_call: PartnerCall) -> Weight:
        return (
            own_call.strength
            if self.mask_here is None or own_call.strength == 0
            else own_call.strength * self.mask_here
        )

    def weight_there(self, own_call: PartnerCall) -> Weight:
        return (
            own_call.strength
            if self.mask_there is None or own_call.strength == 0
            else own_call.strength * self.mask_there
        )

    def rest(self) -> None:
        """Forget everything: the partner is off."""
        self.latents_bchw = self.sampler = self.clean_bchw = self.crossed_bchw = self.carried_bchw = None


@dataclass
class Cooperation:
    """One trajectory of the main model and its partners, between two calls.

    side:         the main model and the size of its pictures.
    latents_bchw: z, (B, C, h, w) float32 in the scale of the main's sampler.
    calls:        their schedule; entry 0 is the call `first`.
    generators:   one noise source per image, one for all, or None.
    on_call:      called after each call; may replace the latents, or set `stopped`, after which no call follows.
    """

    side: Side
    condition: Condition
    sampler: Sampler
    partner_states: Sequence[PartnerState]
    calls: Sequence[Call]
    latents_bchw: Tensor
    generators: Generators = None
    first: int = 0
    on_call: Callable[["Cooperation"], None] | None = None
    stopped: bool = False
    pristine: Any = field(init=False)
    """The scheduler before its first step, from which a partner's copy is made."""
    clean_bchw: Tensor | None = field(init=False, default=None)
    """The fused clean estimate of the last call."""

    @property
    def adapter(self) -> ModelAdapter:
        return self.side.adapter

    def __post_init__(self) -> None:
        self.pristine = copy.deepcopy(self.sampler.scheduler)
        self.sampler.begin_at(self.first)

    def begin_partner(self, partner: PartnerState, noise_bchw: Tensor) -> None:
        """z'_T from unit Gaussian noise, for a partner that takes part from the first call on."""
        partner.sampler = self._copied_sampler(self.first)
        partner.latents_bchw = noise_bchw * getattr(self.pristine, "init_noise_sigma", 1.0)

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
        for partner in self.partner_states:
            partner.bridge.check()

    def _call(self) -> Call:
        return self.calls[self.sampler.at - self.first]

    def _advance(self) -> None:
        call, level, noisy = self._call(), self.sampler.level(), self.latents_bchw
        fused, tail = self._fused(call, level)
        for partner, own_call in zip(self.partner_states, call.partner_calls, strict=True):
            if own_call.returns:
                self._carry_back(partner, own_call, fused, level)
        self.clean_bchw = clean_from_prediction(noisy, fused, level, self.sampler.prediction)
        full = fused if tail is None else torch.cat([fused, tail], dim=1)
        self.latents_bchw = self.sampler.step(full, noisy, self._step_arguments(self.sampler.scheduler))
        for partner, own_call in zip(self.partner_states, call.partner_calls, strict=True):
            self._advance_partner(partner, own_call, level)

    def _fused(self, call: Call, level: NoiseLevel) -> tuple[Tensor, Tensor | None]:
        """Lines 1 to 4: (the fused prediction, the channels of the main's answer that predict no noise)."""
        own, tail = torch.zeros_like(self.latents_bchw), None
        noisy = self.sampler.scale(self.latents_bchw)  # also where nobody looks: some schedulers count their steps here
        if call.main:
            with self.adapter.at_work():
                answer = self.adapter.predict(noisy, self.sampler.timestep, self.condition)
            channels = self.latents_bchw.shape[1]
            own, tail = answer[:, :channels], self._tail(answer[:, channels:])
        others, weights = [], []
        for partner, own_call in zip(self.partner_states, call.partner_calls, strict=True):
            if own_call.action is Action.OFF:
                continue
            if own_call.enters:
                self._enter(partner, own, level)
            if own_call.action is Action.ASK:
                self._ask(partner, level)
            assert partner.crossed_bchw is not None
            others.append(
                prediction_from_clean(self.latents_bchw, partner.crossed_bchw, level, self.sampler.prediction)
            )
            weights.append(partner.weight_here(own_call))
        return fuse(own, others, weights), tail

    def _tail(self, further: Tensor) -> Tensor | None:
        learned = self.sampler.scheduler.config.get("variance_type") in ("learned", "learned_range")
        return further if learned and further.shape[1] else None

    def _ask(self, partner: PartnerState, level: NoiseLevel) -> None:
        """Lines 1 and 2: z0'_hat at the timestep of the same log-SNR, and z0_tilde in the main's space."""
        noisy = self.latents_bchw if partner.latents_bchw is None else partner.latents_bchw
        levels = partner.adapter.levels
        alike = levels == self.adapter.levels
        timestep = float(self.sampler.timestep) if alike else levels.timestep(level.log_snr)
        there = levels.level(timestep)
        scaled = rescaled(noisy, level, there)
        with partner.adapter.at_work():
            # Tables of timesteps are float32, as are those that networks know.
            asked = torch.tensor(timestep, dtype=torch.float32)
            answer = partner.adapter.predict(scaled, asked, partner.condition)[:, : scaled.shape[1]].to(scaled.device)
        partner.clean_bchw = clean_from_prediction(scaled, answer, there, levels.prediction)
        partner.crossed_bchw = partner.bridge.to_main(partner.clean_bchw).to(self.latents_bchw.device)

    def _enter(self, partner: PartnerState, own: Tensor, level: NoiseLevel) -> None:
        """A state for a partner that joins under way: the main's clean estimate under fresh noise."""
        clean = clean_from_prediction(self.latents_bchw, own, level, self.sampler.prediction)
        carried = partner.bridge.to_partner(clean)
        partner.latents_bchw = renoised(carried, self.noise(tuple(carried.shape), carried), level)
        partner.sampler = self._copied_sampler(self.sampler.at)

    def _carry_back(self, partner: PartnerState, own_call: PartnerCall, fused: Tensor, level: NoiseLevel) -> None:
        """Line 6: what the others estimate, in the partner's space. Its own estimate stays there and never crosses twice."""
        assert partner.crossed_bchw is not None
        clean = clean_from_prediction(self.latents_bchw, fused, level, self.sampler.prediction)
        partner.carried_bchw = partner.bridge.to_partner(
            without(clean, partner.crossed_bchw, partner.weight_here(own_call))
        )

    def _advance_partner(self, partner: PartnerState, own_call: PartnerCall, level: NoiseLevel) -> None:
        """Line 6: z'_{t-1} = S(z'_t, t, eps'_fuse)."""
        following = self.sampler.at - self.first
        if following >= len(self.calls) or own_call.action is Action.OFF or not self._goes_on(partner, following):
            partner.rest()
            return
        if partner.latents_bchw is None or partner.sampler is None:
            return
        assert partner.clean_bchw is not None
        fused = partner.clean_bchw
        if partner.carried_bchw is not None:
            weight = partner.weight_there(own_call)
            fused = fuse(partner.carried_bchw, [partner.clean_bchw], [weight])
        predicted = prediction_from_clean(partner.latents_bchw, fused, level, self.sampler.prediction)
        arguments = self._step_arguments(partner.sampler.scheduler)
        partner.sampler.scale(partner.latents_bchw)
        partner.latents_bchw = partner.sampler.step(predicted, partner.latents_bchw, arguments)

    def _goes_on(self, partner: PartnerState, index: int) -> bool:
        position = next(place for place, other in enumerate(self.partner_states) if other is partner)
        return self.calls[index].partner_calls[position].action is not Action.OFF

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
