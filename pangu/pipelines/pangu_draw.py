"""PanGu-Draw's sampler as a diffusers pipeline: two generators, one scheduler, one trajectory.

Owns the order of things (encode text, start from noise, structure, texture, decode). The rule that picks the expert lives in
`pangu.pipelines.generator_model`; training and serving live elsewhere.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin, UNet2DConditionModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pangu.config import ROLES, Role
from pangu.contract import GeneratorContract, check_turns
from pangu.diffusion.interval import steps_per_role
from pangu.errors import UserError
from pangu.models.denoisers import latent_channels
from pangu.models.half_steps import retimed, wholes_of
from pangu.models.lora import ADAPTER, check_lora, fitted, put_adapter, unload_lora
from pangu.models.lora_files import find_weights
from pangu.models.schedulers import check_halves, fresh_scheduler
from pangu.models.style_adapters import StyleAdapters
from pangu.pipelines import pair_inputs
from pangu.pipelines.acting_adapters import ActingAdapters
from pangu.pipelines.adapted_styles import AdaptedStyles, component_of, with_style
from pangu.pipelines.adapters import AdaptedPipeline
from pangu.pipelines.encode_prompts import Reader
from pangu.pipelines.generator_model import GeneratorModel
from pangu.pipelines.generators import Autoencoder, OnStep
from pangu.pipelines.quantised_halves import quantised_halves
from pangu.pipelines.reused_steps import ReusedSteps
from pangu.sampling.condition import Condition
from pangu.sampling.sampling_state import SamplingState
from pangu.sampling.sampling_step import walk
from pangu.sampling.trajectory import Step, Trajectory, clean_latents


def check_channels(networks: Mapping[Role, Any]) -> None:
    """Raises UserError unless the networks that are there take latents of as many channels: packed ones are others."""
    found = {role: latent_channels(network) for role, network in networks.items() if network is not None}
    for role, channels in found.items():
        first = next(iter(found))
        if channels != found[first]:
            raise UserError(
                f"The latents differ in packing: {first} takes {found[first]} channels, but {role} takes {channels}."
            )


class PanGuDrawPipeline(AdaptedPipeline):
    """A structure-texture pair with everything it shares (PanGu-Draw, Section 3.2).

    Args:
        structure, texture: the two UNets; a process that runs only one half loads the other as None.
        vae: any of diffusers' image autoencoders.
        scheduler: any diffusers scheduler over the noise levels of the contracts.
        tokenizer, text_encoder, tokenizer_2, text_encoder_2: one or two text towers.
        contracts: the interval contracts of both generators, as `GeneratorContract.model_dump` gives them.
        hidden_layers: which hidden state of each text tower is used.
        structure_styles, texture_styles: styles that are adapters of either half; they need no prefix.
        styles: name of each style that was trained with a prefix -> prefix of its captions.
        sees_padding: whether each text tower attends to padding.
        sampling: steps and guidance that the pair was tuned with, as `Sampling.model_dump` gives them; a server's defaults.
        prompts: language -> captions that it was trained on, for whoever asks what it can draw.

    Raises:
        UserError: the two contracts do not make a pair, or a component disagrees with them.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->structure->texture->vae"
    _optional_components = [  # noqa: RUF012 (diffusers reads this name from the class)
        "structure", "texture", "vae", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "structure_styles",
        "texture_styles",
    ]  # fmt: skip

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **arguments: Any) -> Any:
        """As diffusers has it; "embedded" is the pair of the package: OpenMoji's drawings at 96 px, by their names.

        Raises:
            UserError: "embedded", and this installation carries no pair; or a half that is loaded is quantised in a way that this
                device or installation lacks.
        """
        if pretrained_model_name_or_path != "embedded":
            with quantised_halves(pretrained_model_name_or_path, arguments) as how:
                return super().from_pretrained(pretrained_model_name_or_path, **how)
        from pangu.models.embedded import embedded_pair

        folder, parts = embedded_pair()
        dtype = arguments.pop("torch_dtype", arguments.pop("dtype", None))
        given = {"torch_dtype": torch.float32, "use_safetensors": True, **parts, **arguments}
        pair = super().from_pretrained(folder, **given)
        return pair if dtype is None else pair.to(dtype)

    def __init__(
        self,
        structure: UNet2DConditionModel | None,
        texture: UNet2DConditionModel | None,
        vae: Autoencoder | None,
        scheduler: SchedulerMixin,
        tokenizer: PreTrainedTokenizerBase | None,
        text_encoder: PreTrainedModel | None,
        tokenizer_2: PreTrainedTokenizerBase | None = None,
        text_encoder_2: PreTrainedModel | None = None,
        contracts: dict[str, Any] | None = None,
        hidden_layers: list = [-1, -1],  # noqa: B006 (diffusers reads the annotation and keeps it in the config)
        styles: dict[str, str] | None = None,
        sees_padding: list = [False, False],  # noqa: B006
        sampling: dict[str, Any] | None = None,
        prompts: dict[str, Any] | None = None,
        structure_styles: StyleAdapters | None = None,
        texture_styles: StyleAdapters | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            structure=structure,
            texture=texture,
            vae=vae,
            scheduler=scheduler,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            tokenizer_2=tokenizer_2,
            text_encoder_2=text_encoder_2,
            structure_styles=structure_styles,
            texture_styles=texture_styles,
        )
        self._configure(
            [structure, texture], contracts=contracts, hidden_layers=list(hidden_layers), styles=dict(styles or {}),
            sees_padding=list(sees_padding), sampling=dict(sampling or {}), prompts=dict(prompts or {}),
        )  # fmt: skip

    def _configure(self, networks: Sequence[Any], **given: Any) -> None:
        """Take the arguments of the constructor that are no components, which are registered before."""
        settings = self._settings(networks, **given)
        if not settings["contracts"]:
            raise UserError("A pair needs the interval contracts of both generators; build it with assemble_pair.")
        self.register_to_config(**settings)
        contracts = {
            role: GeneratorContract.read(settings["contracts"][role], f"The contract of {role}")
            for role in self._roles(settings)
        }
        check_turns(list(contracts.values()))
        self._check_texts(contracts)
        self._set_up(contracts)
        self._own_styles = AdaptedStyles(self)
        check_channels({role: self.generator(role) for role in contracts})

    def _roles(self, settings: Mapping[str, Any]) -> tuple[Role, ...]:
        """Of the experts, the noisiest first.

        Raises:
            UserError: one has no contract, so nobody knows its interval.
        """
        for role in ROLES:
            if role not in settings["contracts"]:
                raise UserError(
                    f"The {role} generator has no interval contract; say in contracts which timesteps it owns."
                )
        return ROLES

    def _check_texts(self, contracts: Mapping[Role, GeneratorContract]) -> None:
        """Raises UserError unless each generator has the text encoders that it was trained with."""
        structure, texture = (contracts[role].text_encoder_hashes for role in ROLES)
        if structure != texture:
            raise UserError(
                f"A pair has one set of text encoders, but structure was trained with {structure} and texture with {texture}; "
                f"ExpertsPipeline gives each expert its own."
            )

    def generator(self, role: Role) -> Any:
        found: Any = vars(self)[role]  # `components` asks for signatures each time
        return found

    @property
    def adapted_styles(self) -> tuple[str, ...]:
        return self._own_styles.names

    def style_adapters(self, role: Role, scales: Mapping[str, float]) -> ActingAdapters | None:
        return self._own_styles.acting(role, scales)

    @property
    def reference(self) -> GeneratorContract:
        return self.contract("structure")

    @property
    def boundary(self) -> int:
        """T_struct: the structure generator owns every timestep at or above it."""
        return self.contract("structure").low

    def start(
        self,
        condition: Condition,
        *,
        height: int,
        width: int,
        num_inference_steps: int,
        guidance_scale: float,
        generators: Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        lora_scales: Mapping[Role, float] | None = None,
        guidance_scales: Mapping[Role, float] | None = None,
        guidance_intervals: Mapping[Role, pair_inputs.Interval] | None = None,
        scheduler: Any = None,
    ) -> Trajectory:
        """Pure noise at the first timestep, for every prompt of `condition`; one generator per image, or one for all.

        `guidance_scales` are those of single roles, where they differ; `guidance_intervals` the timesteps at which roles are
        guided; `scheduler` is taken in the place of the pipeline's own.

        Raises:
            UserError: the size is no preset, the scheduler no longer fits the contracts, or a half of a whole pair would have no
                step.
        """
        request = pair_inputs.PairInputs(
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generators=tuple(generators) if generators else None,
            latents=latents,
            lora_scales=dict(lora_scales or {}),
            guidance_scales=dict(guidance_scales or {}),
            guidance_intervals=dict(guidance_intervals or {}),
            scheduler=scheduler,
        )
        return self._start(condition, request)

    def _start(self, condition: Condition, request: pair_inputs.PairInputs) -> Trajectory:
        presets = {role: self.preset_for(role, request.height, request.width) for role in self._contracts}
        trajectory = self._begin(condition, request, presets, latent_channels(self._any_generator))
        # Where only one half is loaded, somebody else decides what the other one does.
        if len(self._denoisers) == len(self._contracts) and not request.own_schedule:
            self.check_steps(trajectory.scheduler)
        return trajectory

    def check_steps(self, scheduler: Any) -> None:
        """Raises UserError if an expert has no step of a whole trajectory over the timesteps that are set."""
        check_halves(scheduler, self.lows)

    def idle(self, scheduler: Any, num_inference_steps: int, below: float = math.inf) -> list[Role]:
        """The experts that would have no step of a whole of so many. A student has those that it was made for.

        below: the timestep below which the trajectory is entered, as an edit does.

        Raises:
            UserError: the scheduler does not take so many.
        """
        timesteps = (t for t in fresh_scheduler(scheduler, num_inference_steps).timesteps.tolist() if t < below)
        taken = steps_per_role(timesteps, self.lows)
        return [role for role, count in taken.items() if not count and self.contract(role).distilled is None]

    def _own_readers(self) -> dict[Role, Reader]:
        same = self.reference.reads
        return {role: self._reader(role) for role, contract in self._contracts.items() if contract.reads != same}

    def advance(self, trajectory: Trajectory, role: Role, on_step: OnStep | None = None) -> Trajectory:
        """Run every next step whose current timestep belongs to `role`.

        Raises:
            UserError: this process holds no generator of that role.
        """
        return self._walk(trajectory, role, on_step)

    def finish(
        self, trajectory: Trajectory, on_step: OnStep | None = None, attention: Mapping[str, Any] | None = None
    ) -> Trajectory:
        """Run every step that is left, each by the half that owns its timestep."""
        return self._walk(trajectory, None, on_step, None, attention)

    def _sample(self, condition: Condition, request: pair_inputs.PairInputs) -> Tensor:
        attention = request.cross_attention_kwargs
        wholes = self._wholes(request)
        if wholes:
            request = replace(request, num_inference_steps=wholes[self.roles[0]])
        trajectory = self._start(condition, request)
        with self._watched(trajectory, request) as on_step:
            walked = request.num_inference_steps
            for role, whole in list(wholes.items())[1:]:
                if whole != walked and self.contract(role).distilled is None:
                    trajectory = self._handed_over(trajectory, role, wholes, on_step, attention)
                    following = self._after(role)
                    walked = whole if whole or following is None else wholes[following]
            return clean_latents(self.finish(trajectory, on_step, attention))

    def _wholes(self, request: pair_inputs.PairInputs) -> dict[Role, int]:
        """Steps of the whole trajectories that the experts walk along (`wholes_of`); none where all walk along one."""
        if not request.role_steps:
            return {}
        size = (each // self.reference.spatial_factor for each in (request.height, request.width))
        boundaries = list(self.lows.values())[:-1]
        found = wholes_of(self.scheduler, request.role_steps, boundaries, **self.timestep_arguments(*size))
        return dict(zip(self.roles, found, strict=True))

    def _after(self, role: Role) -> Role | None:
        """Whose turn it is next."""
        following = self.roles[self.roles.index(role) + 1 :]
        return following[0] if following else None

    @torch.inference_mode()
    def _handed_over(
        self, trajectory: Trajectory, role: Role, wholes: Mapping[Role, int], on_step: OnStep, attention: Any
    ) -> Trajectory:
        """After the first step of an expert, on a whole of its own."""
        mine = self.interval(role)
        state = SamplingState(GeneratorModel(self, None, None, attention, ReusedSteps()), trajectory)
        walk(state, lambda state: state.last is None or state.last.timestep not in mine, on_step)
        if self.interrupt or state.last is None:
            return state.trajectory
        return replace(self.on_own_whole(role, state.last, wholes), condition=state.trajectory.condition)

    def on_own_whole(self, role: Role, step: Step, wholes: Mapping[Role, int]) -> Trajectory:
        """What follows the first step of an expert: its own whole; that of the next one or the end, if it has no further step.

        wholes: as `wholes_of` gives them, of this expert and of the next.
        """
        shifted = self.timestep_arguments(*step.trajectory.latents_bchw.shape[-2:])
        following = self._after(role)
        if wholes[role] == 0 and following is not None:
            return retimed(step, wholes[following], self.interval(role).low, **shifted)
        return retimed(step, wholes[role], **shifted)

    def load_lora(self, structure: str | Path | None = None, texture: str | Path | None = None) -> None:
        """Put an adapter on either half, in the place of the one it may have; each is a folder that `save_lora` wrote.

        Raises:
            UserError: the adapter was trained for other timesteps or other encoders than its half, or does not fit it.
        """
        given = zip(ROLES, (structure, texture), strict=True)
        sources: dict[Role, Path] = {role: Path(source) for role, source in given if source is not None}
        for role, source in sources.items():
            check_lora(source, self.contract(role))
        with self._without_offloading():
            layers = {
                role: fitted(find_weights(source), self._loaded(role), self.contract(role), str(source))
                for role, source in sources.items()
            }
            for role, found in layers.items():
                unload_lora(self._loaded(role))
                put_adapter(self._loaded(role), ADAPTER, found)

    def load_style(self, name: str, structure: str | Path | None = None, texture: str | Path | None = None) -> None:
        """Let adapters draw a style that requests ask for by name, in the place of the one of that name; saved with the pair.

        structure, texture: of either half, each a folder that `save_lora` wrote, or a file in any format of adapters.

        Raises:
            UserError: an adapter was trained for another half, or does not fit it, or the name has a prefix already.
        """
        if name in (self.config.get("styles") or {}):
            raise UserError(f"The style '{name}' of this pair has a prefix; take another name.")
        given = zip(ROLES, (structure, texture), strict=True)
        made = {role: with_style(self, role, name, Path(source)) for role, source in given if source is not None}
        self.register_modules(**{component_of(role): styles for role, styles in made.items()})
