"""What all text-to-image pipelines here share: text in, latents along one trajectory, images out.

Owns the conventions of diffusers' pipelines. Which generators there are, and in which order they run, is each subclass's own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from pangu.config import Role
from pangu.contract import GeneratorContract
from pangu.diffusion.presets import Size
from pangu.diffusion.trajectory import Conditioning, Denoiser, OnStep, StyleConditioning, Trajectory, advance
from pangu.errors import UserError
from pangu.models.autoencoders import decode_latents, scaling, spatial_factor
from pangu.models.denoisers import denoise
from pangu.models.lora import has_lora, set_lora_scale
from pangu.models.schedulers import check_schedule, fresh_scheduler
from pangu.models.text import TextTower, embed_captions, styled_caption
from pangu.pipelines import inputs


class TextToImagePipeline(DiffusionPipeline):
    """Text towers, autoencoder and scheduler around the generators of a subclass."""

    _callback_tensor_inputs = ["latents"]  # noqa: RUF012 (diffusers reads this name from the class)

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
        prompts: Sequence[str],
        negative_prompts: Sequence[str] | None = None,
        styles: Mapping[str, float] | None = None,
    ) -> Conditioning:
        """What the text towers say of B prompts, also under the prefix of each style that has a scale other than 0.

        No negative prompts means the empty caption of the training.

        Raises:
            UserError: as many negative prompts as prompts are needed, and styles that the generators know.
        """
        negatives = list(negative_prompts) if negative_prompts is not None else [""] * len(prompts)
        inputs.check_negatives(prompts, negatives)
        both = embed_captions(self.text_towers, [*prompts, *negatives], self.reference.max_tokens)
        (tokens, negative_tokens), (pooled, negative_pooled) = (tensor.chunk(2) for tensor in both)
        known = dict(self.config.get("styles") or {})
        inputs.check_styles(styles or {}, known)
        styled = []
        for name, scale in (styles or {}).items():
            if scale != 0:
                captions = [styled_caption(prompt, known[name]) for prompt in prompts]
                styled.append(
                    StyleConditioning(*embed_captions(self.text_towers, captions, self.reference.max_tokens), scale)
                )
        return Conditioning(tokens, pooled, negative_tokens, negative_pooled, tuple(styled))

    @torch.inference_mode()
    def decode(self, latents_bchw: Tensor, output_type: str = "pil") -> Any:
        """Latents -> images: a list of PIL images, (B, H, W, 3) numpy in [0, 1], or a (B, 3, H, W) tensor in [0, 1]."""
        if output_type == "latent":
            return latents_bchw
        pixels = decode_latents(self.vae, latents_bchw).float()
        return self.image_processor.postprocess(pixels, output_type=output_type)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
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
    ) -> Any:
        """Images for prompts in Chinese or English; the arguments are those of diffusers' text-to-image pipelines.

        `latents`, where given, are unit Gaussian noise of shape (images, C, height / 8, width / 8) for an 8x autoencoder.
        `styles` are scales of style guidance by name (PanGu-Draw, Section 3.3), `lora_scales` weights of the adapters by role.

        Raises:
            UserError: an argument is out of its range; the sentence names it.
        """
        prompts, negatives = inputs.check(
            prompt, negative_prompt, num_inference_steps, guidance_scale, num_images_per_prompt, output_type
        )
        inputs.check_callback_tensors(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        images = len(prompts) * num_images_per_prompt
        request = inputs.Request(
            height=height or self.resolution,
            width=width or self.resolution,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generators=inputs.generators(generator, images),
            latents=latents,
            lora_scales=dict(lora_scales or {}),
        )
        conditioning = self.encode_prompt(prompts, negatives, styles).repeat(num_images_per_prompt)
        result = self.decode(self._sample(conditioning, request, callback_on_step_end), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=result) if return_dict else (result,)

    def _sample(self, conditioning: Conditioning, request: inputs.Request, callback: inputs.Callback | None) -> Tensor:
        """Clean latents (B, C, H, W) for every prompt of `conditioning`."""
        raise NotImplementedError

    def _set_up(self, contracts: dict[Role, GeneratorContract]) -> None:
        """Keep checked contracts, once the components are registered.

        Raises:
            UserError: the scheduler or the autoencoder disagrees with them.
        """
        self._contracts = contracts
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
        scheduler = fresh_scheduler(chosen, request.num_inference_steps, device)
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
        contract, dtype = self.contract(role), unet.dtype
        height, width = inputs.presets_of(contract)[preset]
        size = height // contract.spatial_factor, width // contract.spatial_factor

        def predict(noisy: Tensor, timestep: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
            for outermost in timestep.aminmax():
                contract.interval.check(float(outermost), role)
            lower = None if lower_bchw is None else lower_bchw.repeat(len(noisy) // len(lower_bchw), 1, 1, 1)
            texts = tokens.to(dtype), pooled.to(dtype)
            return denoise(unet, noisy.to(dtype), timestep, *texts, preset, lower_bchw=lower, native_size=size).float()

        return predict

    def _check_lora_scales(self, scales: Mapping[Role, float]) -> None:
        for role in scales:
            if role not in self._contracts:
                raise UserError(f"lora_scales may name {', '.join(self._contracts)}, not '{role}'.")
            # The half that another process holds is checked there.
            if self.generator(role) is not None and not has_lora(self.generator(role)):
                raise UserError(f"lora_scales gives {role} a scale, but it has no adapter; call load_lora first.")

    @contextmanager
    def _watched(self, total: int, callback: inputs.Callback | None) -> Iterator[OnStep]:
        """A progress bar of `total` steps, and the function that moves it and calls the user's callback."""
        with self.progress_bar(total=total) as bar:
            yield partial(self._after_step, moved=bar.update, callback=callback)

    def _after_step(
        self, trajectory: Trajectory, moved: Callable[[], Any], callback: inputs.Callback | None
    ) -> Trajectory:
        moved()
        if callback is None:
            return trajectory
        done = trajectory.step - 1
        changed = callback(self, done, trajectory.timesteps[done], {"latents": trajectory.latents_bchw}) or {}
        return replace(trajectory, latents_bchw=changed.get("latents", trajectory.latents_bchw))
