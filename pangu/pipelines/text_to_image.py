"""What all text-to-image pipelines here share: text in, latents along one trajectory, images out.

Owns the conventions of diffusers' pipelines. Which generators there are, and in which order they run, is each subclass's own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny, DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from pangu.config import Role
from pangu.contract import GeneratorContract
from pangu.diffusion.presets import Size
from pangu.diffusion.trajectory import Conditioning, Denoiser, OnStep, Trajectory, advance
from pangu.errors import UserError
from pangu.models.autoencoders import decode_latents, scaling, spatial_factor
from pangu.models.lora import has_lora, set_lora_scale
from pangu.models.schedulers import check_schedule
from pangu.models.text import TextTower
from pangu.pipelines import callbacks, inputs, prompts, settings
from pangu.pipelines.call_state import CallState
from pangu.pipelines.denoiser import checked_denoiser
from pangu.pipelines.schedules import check_own_schedule, set_timesteps
from pangu.pipelines.switches import Switches

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderDC | AutoencoderTiny
"""Named one by one: diffusers' `from_pipe` compares the classes of components with the annotations of constructors."""


class TextToImagePipeline(CallState, Switches, DiffusionPipeline):
    """Text towers, autoencoder and scheduler around the generators of a subclass."""

    _callback_tensor_inputs = list(callbacks.TENSORS)  # noqa: RUF012 (diffusers reads this name from the class)

    _contracts: dict[Role, GeneratorContract]

    def contract(self, role: Role) -> GeneratorContract:
        """What the generator of `role` was trained for."""
        return self._contracts[role]

    def generator(self, role: Role) -> Any:
        """The network of `role`; None where this process does not hold it."""
        raise NotImplementedError

    @property
    def reference(self) -> GeneratorContract:
        """The contract that decides the size of the images; what the generators share is the same in all."""
        raise NotImplementedError

    @property
    def resolution(self) -> int:
        """Base resolution of the images, px."""
        return self.reference.resolution

    @property
    def sizes(self) -> tuple[Size, ...]:
        """(height, width) in px of every picture that can be asked for."""
        return inputs.presets_of(self.reference)

    @property
    def text_towers(self) -> list[TextTower]:
        towers = ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2))
        ways = zip(self.config.hidden_layers, self.config.sees_padding, strict=False)
        return [
            TextTower(tokenizer, encoder, layer, sees_padding)
            for (tokenizer, encoder), (layer, sees_padding) in zip(towers, ways, strict=False)
            if encoder is not None
        ]

    def preset_for(self, role: Role, height: int, width: int) -> int:
        """The preset index that the generator of `role` is conditioned on, from the list of its own resolution.

        Raises:
            UserError: the size is no preset of the images.
        """
        inputs.check_size(height, width, self.reference)
        return inputs.matching_preset(height, width, self.reference, self.contract(role))

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        styles: Mapping[str, float] | None = None,
        *,
        num_images_per_prompt: int = 1,
        device: torch.device | str | None = None,
    ) -> Conditioning:
        """What the text towers say of B prompts, also under the prefix of each style that has a scale other than 0.

        Unpacks in diffusers' order: `prompt, negative, pooled, negative_pooled = pipe.encode_prompt("a fox")`.
        No negative prompts means the empty caption of the training. device: of the result; None means where it was computed.

        Raises:
            UserError: as many negative prompts as prompts are needed, and styles that the generators know.
        """
        texts = inputs.as_list(prompt)
        negatives = None if negative_prompt is None else inputs.spread(negative_prompt, len(texts))
        known = dict(self.config.get("styles") or {})
        said = prompts.from_text(self._reader(), texts, negatives, styles or {}, known).repeat(num_images_per_prompt)
        return said if device is None else said.to(device)

    @torch.inference_mode()
    def decode(self, latents_bchw: Tensor, output_type: str = "pil") -> Any:
        """Latents -> images: a list of PIL images, (B, H, W, 3) numpy in [0, 1], or a (B, 3, H, W) tensor in [0, 1]."""
        if output_type == "latent":
            return latents_bchw
        if self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast"):
            self.vae.to(torch.float32)  # SDXL's overflows in half precision
        pixels = decode_latents(self.vae, latents_bchw).float()
        return self.image_processor.postprocess(pixels, output_type=output_type)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 30,
        guidance_scale: float = 3.0,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: inputs.Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        styles: Mapping[str, float] | None = None,
        lora_scales: Mapping[Role, float] | None = None,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_rescale: float = 0.0,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Images for prompts in Chinese or English; the arguments are those of diffusers' text-to-image pipelines.

        `latents`, where given, are unit Gaussian noise of shape (images, C, height / 8, width / 8) for an 8x autoencoder.
        `styles` are scales of style guidance by name (PanGu-Draw, Section 3.3), `lora_scales` weights of the adapters by role.
        `timesteps` or `sigmas` stand in for the scheduler's own; `guidance_scale` of at most 1 means the caption alone.

        Raises:
            UserError: an argument is out of its range; the sentence names it.
        """
        embeds = inputs.Embeds(
            prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds
        )
        inputs.check_embeds(prompt, negative_prompt, embeds, self._any_generator.config.cross_attention_dim)
        texts, negatives = inputs.check(
            prompt, negative_prompt, num_inference_steps, guidance_scale, num_images_per_prompt, output_type,
            guidance_rescale, embeds.prompt,
        )  # fmt: skip
        images = len(texts) * num_images_per_prompt
        request = inputs.Request(
            height=height or self.resolution,
            width=width or self.resolution,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generators=inputs.generators(generator, images),
            latents=latents,
            lora_scales=dict(lora_scales or {}),
            guidance_rescale=guidance_rescale,
            timesteps=timesteps,
            sigmas=sigmas,
            callback=callback_on_step_end,
            callback_tensors=inputs.callback_tensors(
                callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs
            ),
        )
        self._begin_call(guidance_scale, guidance_rescale, cross_attention_kwargs)
        if embeds.prompt is None:
            said = self.encode_prompt(texts, negatives, styles)
        elif styles:
            raise UserError("styles put a prefix before the prompt, so they need prompt, not prompt_embeds.")
        else:
            said = prompts.from_embeds(self._reader(), embeds, negatives, self.do_classifier_free_guidance)
        result = self.decode(self._sample(said.repeat(num_images_per_prompt), request), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=result) if return_dict else (result,)

    def _sample(self, conditioning: Conditioning, request: inputs.Request) -> Tensor:
        """Clean latents (B, C, H, W) for every prompt of `conditioning`."""
        raise NotImplementedError

    @property
    def _any_generator(self) -> Any:
        """A network that this process holds; those of one pipeline have one configuration."""
        return next(network for network in self._denoisers if network is not None)

    @property
    def _denoisers(self) -> list[Any]:
        networks = (self.generator(role) for role in self._contracts)
        return [network for network in networks if network is not None]

    @property
    def _autoencoders(self) -> list[Any]:
        return [self.vae] if self.vae is not None else []

    def _reader(self) -> prompts.Reader:
        towers = self.text_towers
        # Asked only where weights may be elsewhere: diffusers looks through every module for it.
        moved = any(hasattr(tower.encoder, "_hf_hook") or tower.encoder.device.type == "meta" for tower in towers)
        return prompts.Reader(towers, self.reference.max_tokens, self._execution_device if moved else None)

    @classmethod
    def _settings(cls, networks: Sequence[Any], **given: Any) -> dict[str, Any]:
        """The arguments of a constructor that are no components: as given, or as these networks were last used here."""
        known = None if given["contracts"] is not None else settings.recalled(networks, cls)
        return given if known is None else known

    def _set_up(self, contracts: dict[Role, GeneratorContract]) -> None:
        """Keep checked contracts, once the components are registered.

        Raises:
            UserError: the scheduler or the autoencoder disagrees with them.
        """
        self._contracts = contracts
        names = (name for name in self.config if name not in self.components and not name.startswith("_"))
        settings.remember(self._denoisers, type(self), {name: self.config[name] for name in names})
        contract = self.reference
        check_schedule(self.scheduler, contract.schedule)
        if self.vae is not None and scaling(self.vae) != (contract.latent_scaling, contract.latent_shift):
            raise UserError(
                f"The autoencoder scales latents by {scaling(self.vae)}, but the generators were trained with "
                f"{(contract.latent_scaling, contract.latent_shift)}."
            )
        factor = spatial_factor(self.vae) if self.vae is not None else 1
        self.image_processor = VaeImageProcessor(vae_scale_factor=factor)

    def _begin(
        self, conditioning: Conditioning, request: inputs.Request, presets: Mapping[Role, int], channels: int
    ) -> Trajectory:
        """Pure noise of `channels` at the first timestep.

        Raises:
            UserError: the scheduler no longer fits the contracts, or a scale is for an adapter that is not there.
        """
        chosen = self.scheduler if request.scheduler is None else request.scheduler
        device = self._execution_device  # asked once: diffusers looks through every module for it
        check_schedule(chosen, self.reference.schedule)
        self._check_lora_scales(request.lora_scales)
        scheduler = type(chosen).from_config(chosen.config)
        set_timesteps(scheduler, request.num_inference_steps, device, request.timesteps, request.sigmas)
        if request.timesteps is not None or request.sigmas is not None:
            check_own_schedule(scheduler.timesteps, self._contracts)
        latents = request.latents
        if latents is None:
            factor = self.reference.spatial_factor
            shape = (len(conditioning.tokens_bnc), channels, request.height // factor, request.width // factor)
            source = list(request.generators) if request.generators else None
            single = source[0] if source and len(source) == 1 else source
            latents = randn_tensor(shape, generator=single, device=device, dtype=torch.float32)
        return Trajectory(
            latents_bchw=latents.to(device, torch.float32) * scheduler.init_noise_sigma,
            timesteps=scheduler.timesteps,
            step=0,
            scheduler=scheduler,
            conditioning=conditioning.to(device),
            guidance_scale=request.guidance_scale,
            presets=presets,
            generators=request.generators,
            lora_scales=request.lora_scales,
            guidance_rescale=request.guidance_rescale,
        )

    @torch.inference_mode()
    def _walk(
        self, trajectory: Trajectory, role: Role, on_step: OnStep | None = None, lower_bchw: Tensor | None = None
    ) -> Trajectory:
        """Run every next step whose current timestep belongs to `role`, conditioned on `lower_bchw` where given.

        Raises:
            UserError: this process holds no generator of that role.
        """
        network = self.denoiser(role, trajectory.presets[role], trajectory.lora_scales.get(role, 1.0), lower_bchw)
        return advance(trajectory, network, self.contract(role).interval, on_step)

    def denoiser(self, role: Role, preset: int, lora_scale: float = 1.0, lower_bchw: Tensor | None = None) -> Denoiser:
        """The network of `role` for pictures of one preset, refusing timesteps that are not its own.

        Raises:
            UserError: this process holds no generator of that role.
        """
        unet = self.generator(role)
        if unet is None:
            raise UserError(f"This pipeline was loaded without its {role} generator.")
        if has_lora(unet):
            set_lora_scale(unet, lora_scale)
        return checked_denoiser(unet, self.contract(role), role, preset, lower_bchw, self.cross_attention_kwargs)

    def _check_lora_scales(self, scales: Mapping[Role, float]) -> None:
        for role in scales:
            if role not in self._contracts:
                raise UserError(f"lora_scales may name {', '.join(self._contracts)}, not '{role}'.")
            # The half that another process holds is checked there.
            if self.generator(role) is not None and not has_lora(self.generator(role)):
                raise UserError(f"lora_scales gives {role} a scale, but it has no adapter; call load_lora first.")

    @contextmanager
    def _watched(self, trajectory: Trajectory, request: inputs.Request, role: Role | None = None) -> Iterator[OnStep]:
        """A progress bar, and the function that moves it and calls the user's callback; `role` where one takes all steps."""
        self._num_timesteps, self._guidance_scale = len(trajectory.timesteps), request.guidance_scale
        with self.progress_bar(total=self._num_timesteps) as bar:
            yield callbacks.Watch(self, bar, request, self._contracts if role is None else {role: self.contract(role)})
