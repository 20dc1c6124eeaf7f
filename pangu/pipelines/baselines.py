"""The samplers of the two strategies that time-decoupling is compared with (PanGu-Draw, Section 3.2 and Fig. 2).

Both are called like `PanGuDrawPipeline`, so an evaluation treats all three alike. Training lives elsewhere.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import ControlNetModel, SchedulerMixin, UNet2DConditionModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pangu.config import STRATEGY_ROLES, Recipe, Role
from pangu.contract import SHARED, GeneratorContract
from pangu.diffusion.presets import Size, nearest_of
from pangu.errors import UserError
from pangu.models.autoencoders import decode_latents, load_autoencoder
from pangu.models.cascade import lower_latents
from pangu.models.denoisers import latent_channels, sees_lower
from pangu.models.placeholder_tokens import text_towers_of
from pangu.models.schedulers import sampler
from pangu.pipelines import pair_inputs
from pangu.pipelines.adapters import AdaptedPipeline
from pangu.pipelines.assemble import check_encoders, load_generator
from pangu.pipelines.generators import Autoencoder
from pangu.sampling.condition import Condition
from pangu.sampling.trajectory import clean_latents

STAGES: tuple[Role, ...] = STRATEGY_ROLES["cascaded"]


class SingleStage(AdaptedPipeline):
    """One generator for the whole range [0, T): what resolution boost ends with (Stable Diffusion, AltDiffusion).

    Args:
        unet: the network.
        controlnet: a ControlNet on it, as role `control` trains one; `CoopPipeline` draws with both.
        contracts: the contract of its role alone; the others as for `PanGuDrawPipeline`.

    Raises:
        UserError: the generator owns only a part of the range, or needs the image of an earlier stage.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->unet->vae"
    _optional_components = ["tokenizer_2", "text_encoder_2", "controlnet"]  # noqa: RUF012 (diffusers reads this name)

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: Autoencoder,
        scheduler: SchedulerMixin,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: PreTrainedModel,
        tokenizer_2: PreTrainedTokenizerBase | None = None,
        text_encoder_2: PreTrainedModel | None = None,
        controlnet: ControlNetModel | None = None,
        contracts: dict[str, Any] | None = None,
        hidden_layers: list = [-1, -1],  # noqa: B006 (diffusers reads the annotation and keeps it in the config)
        styles: dict[str, str] | None = None,
        sees_padding: list = [False, False],  # noqa: B006
    ) -> None:
        super().__init__()
        self.register_modules(
            unet=unet,
            vae=vae,
            scheduler=scheduler,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            tokenizer_2=tokenizer_2,
            text_encoder_2=text_encoder_2,
            controlnet=controlnet,
        )
        settings = self._settings(
            [unet], contracts=contracts, hidden_layers=list(hidden_layers), styles=dict(styles or {}),
            sees_padding=list(sees_padding),
        )  # fmt: skip
        parsed = _contracts(settings["contracts"])
        if len(parsed) != 1 or sees_lower(next(iter(parsed))):
            raise UserError(f"A single stage is one generator that starts from noise, not {', '.join(parsed)}.")
        self.register_to_config(**settings)
        self._set_up(parsed)

    @property
    def role(self) -> Role:
        return next(iter(self._contracts))

    def generator(self, role: Role) -> Any:
        return self.unet

    @property
    def reference(self) -> GeneratorContract:
        return self.contract(self.role)

    def _sample(self, condition: Condition, request: pair_inputs.PairInputs) -> Tensor:
        if self.controlnet is not None:
            raise UserError("This SingleStage has a ControlNet; draw with CoopPipeline(pipeline)(prompt, image=...).")
        presets = {self.role: self.preset_for(self.role, request.height, request.width)}
        trajectory = self._begin(condition, request, presets, latent_channels(self.unet))
        with self._watched(trajectory, request) as on_step:
            return clean_latents(self._walk(trajectory, self.role, on_step, None, request.cross_attention_kwargs))


class Cascade(AdaptedPipeline):
    """Three generators in turn, each from pure noise over the whole range (GLIDE, DeepFloyd-IF).

    A later one is conditioned on the upsampled image of the one before, by concatenating its latents on the channels.

    Args:
        base, middle, final: the networks of `cascade_base`, `cascade_middle` and `cascade_final`.
        contracts: the contracts of those roles; the others as for `PanGuDrawPipeline`.

    Raises:
        UserError: a stage is missing, owns only a part of the range, or does not share the encoders of the others.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->base->middle->final->vae"
    _optional_components = ["tokenizer_2", "text_encoder_2"]  # noqa: RUF012 (diffusers reads this name from the class)

    def __init__(
        self,
        base: UNet2DConditionModel,
        middle: UNet2DConditionModel,
        final: UNet2DConditionModel,
        vae: Autoencoder,
        scheduler: SchedulerMixin,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: PreTrainedModel,
        tokenizer_2: PreTrainedTokenizerBase | None = None,
        text_encoder_2: PreTrainedModel | None = None,
        contracts: dict[str, Any] | None = None,
        hidden_layers: list = [-1, -1],  # noqa: B006 (diffusers reads the annotation and keeps it in the config)
        styles: dict[str, str] | None = None,
        sees_padding: list = [False, False],  # noqa: B006
    ) -> None:
        super().__init__()
        self.register_modules(
            base=base,
            middle=middle,
            final=final,
            vae=vae,
            scheduler=scheduler,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            tokenizer_2=tokenizer_2,
            text_encoder_2=text_encoder_2,
        )
        settings = self._settings(
            [base, middle, final], contracts=contracts, hidden_layers=list(hidden_layers), styles=dict(styles or {}),
            sees_padding=list(sees_padding),
        )  # fmt: skip
        parsed = _contracts(settings["contracts"])
        if set(parsed) != set(STAGES):
            raise UserError(f"A cascade needs contracts of {', '.join(STAGES)}, not of {', '.join(parsed)}.")
        self.register_to_config(**settings)
        self._set_up(parsed)

    def generator(self, role: Role) -> Any:
        return self.components[role.removeprefix("cascade_")]

    @property
    def reference(self) -> GeneratorContract:
        return self.contract("cascade_final")

    def preset_for(self, role: Role, height: int, width: int) -> int:
        """The preset of stage `role` for a picture of that size: from the last stage back, the nearest shape of each.

        Raises:
            UserError: the last stage has no such preset.
        """
        pair_inputs.check_size(height, width, self.reference)
        for stage in reversed(STAGES[STAGES.index(role) :]):
            sizes = pair_inputs.presets_of(self.contract(stage))
            index = nearest_of(height, width, sizes)
            height, width = sizes[index]
        return index

    def size_of(self, role: Role, height: int, width: int) -> Size:
        """(height, width) in px of the picture that stage `role` draws when the last one draws `height` x `width`."""
        return pair_inputs.presets_of(self.contract(role))[self.preset_for(role, height, width)]

    def _sample(self, condition: Condition, request: pair_inputs.PairInputs) -> Tensor:
        """Each stage takes `num_inference_steps` steps; given latents are the noise of the first.

        An interrupted call ends with the stage that ran, in the size of that stage.
        """
        presets = {role: self.preset_for(role, request.height, request.width) for role in STAGES}
        latents, noise = None, request.latents
        for role in STAGES:
            height, width = self.size_of(role, request.height, request.width)
            lower = None
            if latents is not None:
                lower = lower_latents(self.vae, decode_latents(self.vae, latents), height, width)
            own = replace(request, height=height, width=width, latents=noise)
            trajectory = self._begin(condition, own, presets, latent_channels(self.base))
            with self._watched(trajectory, request, role) as on_step:
                latents = clean_latents(self._walk(trajectory, role, on_step, lower, request.cross_attention_kwargs))
            noise = None
            if self.interrupt:
                break
        assert latents is not None
        return latents


def assemble_single_stage(generator: Path, recipe: Recipe) -> SingleStage:
    """The sampler of one generator folder and what the recipe shares.

    Raises:
        UserError: the generator owns only a part of the range, or was trained with other encoders.
    """
    unet, contract = load_generator(generator)
    return SingleStage(unet=unet, **_shared(recipe, {contract.role: contract}))


def assemble_cascade(base: Path, middle: Path, final: Path, recipe: Recipe) -> Cascade:
    """The sampler of three generator folders and what the recipe shares.

    Raises:
        UserError: a folder holds another stage, or the generators were trained with other encoders.
    """
    networks, contracts = {}, {}
    for role, folder in zip(STAGES, (base, middle, final), strict=True):
        unet, contract = load_generator(folder)
        if contract.role != role:
            raise UserError(f"{folder} holds a generator whose role is '{contract.role}', but {role} is needed there.")
        networks[role.removeprefix("cascade_")], contracts[role] = unet, contract
    return Cascade(**networks, **_shared(recipe, contracts))


def _shared(recipe: Recipe, contracts: Mapping[Role, GeneratorContract]) -> dict[str, Any]:
    """Everything but the networks, as arguments of both classes."""
    autoencoder = load_autoencoder(recipe.autoencoder)
    towers = text_towers_of(recipe)
    if len(towers) > 2:
        raise UserError(f"A pipeline holds one or two text encoders, but the recipe names {len(towers)}.")
    for contract in contracts.values():
        check_encoders(contract, autoencoder, towers)
    second = towers[1] if len(towers) == 2 else None
    return {
        "vae": autoencoder,
        "scheduler": sampler(recipe.schedule),
        "tokenizer": towers[0].tokenizer,
        "text_encoder": towers[0].encoder,
        "tokenizer_2": second.tokenizer if second else None,
        "text_encoder_2": second.encoder if second else None,
        "contracts": {role: contract.model_dump(mode="json") for role, contract in contracts.items()},
        "hidden_layers": [tower.hidden_layer for tower in towers],
        "styles": recipe.styles,
        "sees_padding": [tower.sees_padding for tower in towers],
    }


def _contracts(given: dict[str, Any] | None) -> dict[Role, GeneratorContract]:
    """The contracts of a baseline: each of its own role, each over all of [0, T), with equal encoders and noise levels."""
    if not given:
        raise UserError(
            "A sampler needs the contracts of its generators; build it with assemble_single_stage or assemble_cascade."
        )
    parsed = [GeneratorContract.model_validate(values) for values in given.values()]
    for role, contract in zip(given, parsed, strict=True):
        if contract.role != role:
            raise UserError(f"The {role} stage was given a generator whose role is '{contract.role}'.")
        if (contract.low, contract.high) != (0, contract.schedule.num_train_timesteps):
            raise UserError(
                f"The {role} generator owns t in {contract.interval}, but it has to draw all of "
                f"[0, {contract.schedule.num_train_timesteps}) alone."
            )
        for name in SHARED:
            ours, theirs = getattr(parsed[0], name), getattr(contract, name)
            if ours != theirs:
                raise UserError(
                    f"The stages do not share one {name}: {parsed[0].role} has {ours}, {role} has {theirs}."
                )
    return {contract.role: contract for contract in parsed}
