"""The generators of a pipeline and the trajectory that they walk.

Which generators there are, and in which order they run, is each subclass's own.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Self, TypeAlias

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    AutoencoderTiny,
    DiffusionPipeline,
)
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from pangu.config import Reuse, Role
from pangu.contract import GeneratorContract, owned
from pangu.diffusion.interval import TimeInterval
from pangu.diffusion.presets import Size
from pangu.diffusion.translation import Translation, translation
from pangu.errors import UserError
from pangu.models.autoencoders import spatial_factor
from pangu.models.captured import Graphs, Record
from pangu.models.deep_features import feature_channels
from pangu.models.denoisers import FAMILIES
from pangu.models.lora import has_lora, set_lora_scale
from pangu.models.residence import Residence
from pangu.models.schedulers import check_schedule, copied, noise_scale
from pangu.models.step_caches import StepCache
from pangu.models.whereabouts import device_of, networks_of
from pangu.pipelines import pair_inputs, pair_settings, step_callback
from pangu.pipelines.acting_adapters import ActingAdapters
from pangu.pipelines.call_state import CallState
from pangu.pipelines.denoiser import checked_denoiser
from pangu.pipelines.distilled import built_in, set_own_timesteps
from pangu.pipelines.generator_model import GeneratorModel
from pangu.pipelines.reused_steps import ReusedSteps, Way
from pangu.pipelines.schedules import check_own_schedule, set_timesteps
from pangu.pipelines.switches import Switches
from pangu.sampling.condition import Condition
from pangu.sampling.noise_sources import unit_noise
from pangu.sampling.question import Denoiser
from pangu.sampling.sampling_state import SamplingState
from pangu.sampling.sampling_step import walk
from pangu.sampling.trajectory import Trajectory

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderDC | AutoencoderTiny | AutoencoderKLWan | AutoencoderKLQwenImage
"""Named one by one: diffusers' `from_pipe` compares the classes of components with the annotations of constructors."""

OnStep = Callable[[SamplingState], None]


class GeneratorPipeline(CallState, Switches, DiffusionPipeline):
    """Generators with their contracts, and the scheduler that they share."""

    _callback_tensor_inputs = list(step_callback.TENSORS)  # noqa: RUF012 (diffusers reads this name from the class)

    _contracts: dict[Role, GeneratorContract]
    _owned: dict[Role, TimeInterval]
    _translations: dict[Role, Translation | None]
    graphs: Graphs | None = None
    """Recordings that the generators are replayed from; None asks the networks themselves."""

    reuse: Mapping[Role, Reuse] = MappingProxyType({})
    """Generators that draw some steps from what they computed before; see `set_reuse`."""

    def set_reuse(self, halves: Mapping[Role, Reuse]) -> None:
        """Let these generators reuse steps from now on, and all others compute each. Cooperations always compute each.

        Raises:
            UserError: a generator is not there, or not of a class that can.
        """
        networks: dict[Role, Any] = {role: self.generator(role) if role in self._contracts else None for role in halves}
        if lacking := [role for role, network in networks.items() if network is None]:
            raise UserError(f"This pipeline has no {lacking[0]} generator that could reuse steps.")
        for role, reuse in halves.items():
            if reuse.kind == "deep_features":
                feature_channels(networks[role])
        for network in self._denoisers:
            if cache := StepCache.of(network):
                cache.remove()
        self.reuse = MappingProxyType({})
        for role, reuse in halves.items():
            if reuse.kind != "deep_features" and StepCache.of(networks[role]) is None:
                StepCache(networks[role], reuse)
        self.reuse = MappingProxyType(dict(halves))

    residence: Residence | None = None
    """The one place on a device that the generators share; see `offload_idle`."""

    def offload_idle(self, device: torch.device | str | Residence | None = None) -> None:
        """Let the weights of generators wait on the host while another one is asked, so that the device holds one at a time.

        device: where they compute, which is where the pipeline is if nothing is said; or a place that is shared with others. All
        other components stay where they are. `keep_all` ends it.

        Raises:
            UserError: hooks of diffusers move weights already, or recordings of CUDA graphs read them where they are.
        """
        if self.graphs is not None:
            raise UserError(
                "Captured generators stay where their graphs read them; leave capture() before offload_idle()."
            )
        self.keep_all()
        place = device if isinstance(device, Residence) else Residence(self.device if device is None else device)
        for network in self._denoisers:
            place.add(network)
        self.residence = place

    def keep_all(self) -> None:
        """Every generator on the device from now on."""
        place, self.residence = self.residence, None
        if place is None:
            return
        for network in self._denoisers:
            place.give_back(network)
            network.to(place.device)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        if self.residence is not None:
            return self.residence.device
        found = device_of(networks_of(self))
        return super().device if found is None else found

    @property
    def _execution_device(self) -> Any:
        """As diffusers has it: where hooks put the weights, if there are any."""
        if self.residence is None and (found := device_of(networks_of(self))) is not None:
            return found
        return super()._execution_device

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """As diffusers has it.

        Raises:
            UserError: idle generators wait on the host.
        """
        if self.residence is not None:
            raise UserError("Idle generators of this pipeline wait on the host; call keep_all() before to().")
        return super().to(*args, **kwargs)

    @contextmanager
    def capture(self, record: Record | None = None) -> Iterator[Self]:
        """Within it, the first step of each shape and batch is recorded as a CUDA graph, and all others are replays of it.

        Weights may be changed in place and adapters set between two calls. record: the way of recording, where it is another.
        """
        before, self.graphs = self.graphs, Graphs(record)
        try:
            yield self
        finally:
            self.graphs = before

    @classmethod
    def _get_signature_types(cls) -> dict[str, tuple[Any, ...]]:
        """What diffusers checks components by when it loads them or takes them over: a network of any family for a UNet."""
        networks = tuple(family.network_type for family in FAMILIES.values())
        found: dict[str, tuple[Any, ...]] = super()._get_signature_types()
        return {name: (*types, *networks) if networks[0] in types else types for name, types in found.items()}

    def contract(self, role: Role) -> GeneratorContract:
        """What the generator of `role` was trained for."""
        return self._contracts[role]

    @property
    def roles(self) -> tuple[Role, ...]:
        """Of the generators, in the order of their turns."""
        return tuple(self._contracts)

    def interval(self, role: Role) -> TimeInterval:
        """What the generator of `role` owns of a trajectory, in the timesteps of the scheduler."""
        return self._owned[role]

    @property
    def lows(self) -> dict[Role, float]:
        """Generator -> where its interval begins, in the timesteps of the scheduler, in the order of their turns."""
        return {role: interval.low for role, interval in self._owned.items()}

    def generator(self, role: Role) -> Any:
        """The network of `role`; None where this process does not hold it."""
        raise NotImplementedError

    @property
    def reference(self) -> GeneratorContract:
        """The contract that decides the size of the images and whose noise levels a trajectory runs in."""
        raise NotImplementedError

    @property
    def resolution(self) -> int:
        """Base resolution of the images, px."""
        return self.reference.resolution

    @property
    def sizes(self) -> tuple[Size, ...]:
        """(height, width) in px of every picture that can be asked for."""
        return pair_inputs.presets_of(self.reference)

    @property
    def adapted_styles(self) -> tuple[str, ...]:
        """Styles that are adapters of the generators."""
        return ()

    def style_adapters(self, role: Role, scales: Mapping[str, float]) -> ActingAdapters | None:
        """What acts on the rows of a request for these styles; None where no request to this generator could ask for any."""
        return None

    def preset_for(self, role: Role, height: int, width: int) -> int:
        """The preset index that the generator of `role` is conditioned on, from the list of its own resolution.

        Raises:
            UserError: the size is no preset of the images.
        """
        pair_inputs.check_size(height, width, self.reference)
        return pair_inputs.matching_preset(height, width, self.reference, self.contract(role))

    @property
    def _any_generator(self) -> Any:
        """A network that this process holds; those of one pipeline have one latent space."""
        if not self._denoisers:
            raise UserError("This pipeline was loaded without its generators.")
        return self._denoisers[0]

    @property
    def _denoisers(self) -> list[Any]:
        networks = (self.generator(role) for role in self._contracts)
        return [network for network in networks if network is not None]

    @property
    def _autoencoders(self) -> list[Any]:
        return [self.vae] if self.vae is not None else []

    @classmethod
    def _settings(cls, networks: Sequence[Any], **given: Any) -> dict[str, Any]:
        """The arguments of a constructor that are no components; without contracts, what is left out is as these networks had it.

        Raises:
            UserError: they had it in several ways.
        """
        known = None if given["contracts"] is not None else pair_settings.recalled(networks, cls)
        defaults = inspect.signature(cls).parameters
        own = {name: value for name, value in given.items() if value and value != defaults[name].default}
        return given if known is None else known | own

    def _set_up(self, contracts: dict[Role, GeneratorContract]) -> None:
        """Keep checked contracts, once the components are registered.

        Raises:
            UserError: the scheduler or the autoencoder disagrees with them.
        """
        self._contracts, self._owned = contracts, owned(contracts)
        ours = self.reference.schedule
        self._translations = {role: translation(ours, each.schedule) for role, each in contracts.items()}
        names = (name for name in self.config if name not in self.components and not name.startswith("_"))
        pair_settings.remember(self._denoisers, type(self), {name: self.config[name] for name in names})
        contract = self.reference
        check_schedule(self.scheduler, contract.schedule)
        if self.vae is not None:
            pair_inputs.check_scaling(self.vae, contract)
        self.image_processor = VaeImageProcessor(
            vae_scale_factor=spatial_factor(self.vae) if self.vae is not None else 1
        )

    def _begin(
        self, condition: Condition, request: pair_inputs.PairInputs, presets: Mapping[Role, int], channels: int
    ) -> Trajectory:
        """Pure noise of `channels` at the first timestep.

        Raises:
            UserError: the scheduler no longer fits the contracts, or a scale is for an adapter that is not there.
        """
        chosen = self.scheduler if request.scheduler is None else request.scheduler
        device = self._execution_device  # asked once: diffusers looks through every module for it
        check_schedule(chosen, self.reference.schedule)
        self._check_lora_scales(request.lora_scales)
        scheduler = copied(chosen)
        factor = self.reference.spatial_factor
        size = request.height // factor, request.width // factor
        shifted = self.timestep_arguments(*size)
        set_timesteps(scheduler, request.num_inference_steps, "cpu", request.timesteps, request.sigmas, shifted)
        if not request.own_schedule:
            set_own_timesteps(scheduler, self._contracts, self._owned)
        else:
            check_own_schedule(scheduler.timesteps, self._contracts)
        shape = (len(condition.prompt["tokens"]), channels, *size)
        noise = request.latents if request.latents is not None else unit_noise(shape, request.generators, device)
        told = replace(
            condition.to(device),
            guidance_scale=request.guidance_scale,
            guidance_rescale=request.guidance_rescale,
            scales={str(role): scale for role, scale in request.guidance_scales.items()} | built_in(self._contracts),
            intervals={str(role): interval for role, interval in request.guidance_intervals.items()},
            facts={"presets": presets, "lora_scales": request.lora_scales},
        )
        return Trajectory(
            latents_bchw=noise.to(device, torch.float32) * noise_scale(scheduler),
            timesteps=scheduler.timesteps,
            step=0,
            scheduler=scheduler,
            condition=told,
            generators=request.generators,
        )

    @torch.inference_mode()
    def _walk(
        self,
        trajectory: Trajectory,
        role: Role | None = None,
        on_step: OnStep | None = None,
        lower_bchw: Tensor | None = None,
        attention: Mapping[str, Any] | None = None,
    ) -> Trajectory:
        """Run every next step whose current timestep belongs to `role`, or to anybody, conditioned on `lower_bchw` where given.

        Raises:
            UserError: this process holds no generator of that role.
        """
        mine = [self.interval(each) for each in (self._contracts if role is None else [role])]
        state = SamplingState(GeneratorModel(self, role, lower_bchw, attention, ReusedSteps()), trajectory)
        walk(state, lambda state: any(state.trajectory.timestep in interval for interval in mine), on_step)
        return state.trajectory

    def timestep_arguments(self, height: int, width: int) -> dict[str, float]:
        """What `set_timesteps` takes beside the number of steps: the shift of a flow for latents of that size."""
        schedule = self.reference.schedule
        return {"mu": math.log(schedule.shift_at(height, width))} if schedule.use_dynamic_shifting else {}

    def expert_at(self, timestep: float) -> Role:
        """Whose interval a timestep lies in.

        Raises:
            UserError: nobody's.
        """
        for role, interval in self._owned.items():
            if timestep in interval:
                return role
        raise UserError(f"No generator here owns t = {timestep:g}.")

    def denoiser(
        self,
        role: Role,
        preset: int,
        lora_scale: float = 1.0,
        lower_bchw: Tensor | None = None,
        attention: Mapping[str, Any] | None = None,
        way: Way | None = None,
    ) -> Denoiser:
        """The network of `role` for pictures of one preset, refusing timesteps that are not its own.

        attention: diffusers' `cross_attention_kwargs`. way: how it reuses steps.

        Raises:
            UserError: this process holds no generator of that role.
        """
        unet = self.generator(role)
        if unet is None:
            raise UserError(f"This pipeline was loaded without its {role} generator.")
        if has_lora(unet):
            set_lora_scale(unet, lora_scale)
        contract, translated = self.contract(role), self._translations[role]
        ask = checked_denoiser(unet, contract, role, preset, lower_bchw, attention, self.graphs, translated, way)
        return ask if self.residence is None else self.residence.around(unet, ask)

    def _check_lora_scales(self, scales: Mapping[Role, float]) -> None:
        for role in scales:
            if role not in self._contracts:
                raise UserError(f"lora_scales may name {', '.join(self._contracts)}, not '{role}'.")
            # The half that another process holds is checked there.
            if self.generator(role) is not None and not has_lora(self.generator(role)):
                raise UserError(f"lora_scales gives {role} a scale, but it has no adapter; call load_lora first.")

    @contextmanager
    def _watched(
        self, trajectory: Trajectory, request: pair_inputs.PairInputs, role: Role | None = None
    ) -> Iterator[OnStep]:
        """A progress bar, and the function that moves it and calls the user's callback; `role` where one takes all steps."""
        self._num_timesteps = sum(request.role_steps.values()) or len(trajectory.timesteps)
        self._guidance_scale = request.guidance_scale
        with self.progress_bar(total=self._num_timesteps) as bar:
            yield step_callback.StepCallback(
                self, bar, request, self._owned if role is None else {role: self.interval(role)}
            )
