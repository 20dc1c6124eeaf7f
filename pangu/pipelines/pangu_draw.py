"""PanGu-Draw's sampler as a diffusers pipeline: two generators, one scheduler, one trajectory.

Owns the order of things (encode text, start from noise, structure, texture, decode). The rule that picks the expert lives in
`pangu.diffusion.trajectory`; training and serving live elsewhere.
"""

from collections.abc import Sequence
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
from pangu.contract import GeneratorContract, check_pair
from pangu.diffusion.presets import preset_index
from pangu.diffusion.trajectory import Conditioning, OnStep, Trajectory, advance
from pangu.errors import UserError
from pangu.models.autoencoders import decode_latents, scaling, spatial_factor
from pangu.models.denoisers import denoise
from pangu.models.schedulers import check_schedule
from pangu.models.text import TextTower, embed_captions
from pangu.pipelines import inputs


class PanGuDrawPipeline(DiffusionPipeline):
    """A structure-texture pair with everything it shares (PanGu-Draw, Section 3.2).

    Args:
        structure, texture: the two UNets; a process that runs only one half loads the other as None.
        vae: any of diffusers' image autoencoders.
        scheduler: any diffusers scheduler over the noise levels of the contracts.
        tokenizer, text_encoder, tokenizer_2, text_encoder_2: one or two text towers.
        contracts: the interval contracts of both generators, as `GeneratorContract.model_dump` gives them.
        hidden_layers: which hidden state of each text tower is used.

    Raises:
        UserError: the two contracts do not make a pair, or a component disagrees with them.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->structure->texture->vae"
    _optional_components = [  # noqa: RUF012 (diffusers reads this name from the class)
        "structure", "texture", "vae", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2",
    ]  # fmt: skip
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012

    def __init__(
        self,
        structure: Any,
        texture: Any,
        vae: Any,
        scheduler: Any,
        tokenizer: Any,
        text_encoder: Any,
        tokenizer_2: Any = None,
        text_encoder_2: Any = None,
        contracts: dict[str, Any] | None = None,
        hidden_layers: list = [-1, -1],  # noqa: B006 (diffusers reads the annotation and keeps it in the config)
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
        )
        if not contracts:
            raise UserError("A pair needs the interval contracts of both generators; build it with assemble_pair.")
        self.register_to_config(contracts=contracts, hidden_layers=list(hidden_layers))
        self._contracts: dict[Role, GeneratorContract] = {
            "structure": GeneratorContract.model_validate(contracts["structure"]),
            "texture": GeneratorContract.model_validate(contracts["texture"]),
        }
        self._check_components()
        self.image_processor = VaeImageProcessor(vae_scale_factor=spatial_factor(vae) if vae is not None else 1)

    def contract(self, role: Role) -> GeneratorContract:
        """What the generator of `role` was trained for."""
        return self._contracts[role]

    @property
    def boundary(self) -> int:
        """T_struct: the structure generator owns every timestep at or above it."""
        return self.contract("structure").low

    @property
    def resolution(self) -> int:
        """Base resolution in pixels: what the structure generator was trained at."""
        return self.contract("structure").resolution

    @property
    def text_towers(self) -> list[TextTower]:
        towers = ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2))
        layers = self.config.hidden_layers
        return [
            TextTower(tokenizer, encoder, layer)
            for (tokenizer, encoder), layer in zip(towers, layers, strict=False)
            if encoder is not None
        ]

    def _check_components(self) -> None:
        structure = self.contract("structure")
        check_pair(structure, self.contract("texture"))
        check_schedule(self.scheduler, structure.schedule)
        if self.vae is not None and scaling(self.vae) != (structure.latent_scaling, structure.latent_shift):
            raise UserError(
                f"The autoencoder scales latents by {scaling(self.vae)}, but the generators were trained with "
                f"{(structure.latent_scaling, structure.latent_shift)}."
            )

    def encode_prompt(self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None) -> Conditioning:
        """What the text towers say of B prompts; no negative prompts means the empty caption of the training."""
        negatives = list(negative_prompts) if negative_prompts is not None else [""] * len(prompts)
        if len(negatives) != len(prompts):
            raise UserError(
                f"{len(prompts)} prompts came with {len(negatives)} negative prompts; give one each or none."
            )
        both = embed_captions(self.text_towers, [*prompts, *negatives], self.contract("structure").max_tokens)
        (tokens, negative_tokens), (pooled, negative_pooled) = (tensor.chunk(2) for tensor in both)
        return Conditioning(tokens, pooled, negative_tokens, negative_pooled)

    def start(
        self,
        conditioning: Conditioning,
        *,
        height: int,
        width: int,
        num_inference_steps: int,
        guidance_scale: float,
        generators: Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
    ) -> Trajectory:
        """Pure noise at the first timestep, for every prompt of `conditioning`; one generator per image, or one for all.

        Raises:
            UserError: the size is no preset, or the scheduler no longer fits the contracts.
        """
        contract = self.contract("structure")
        check_schedule(self.scheduler, contract.schedule)
        preset = preset_index(height, width, self.resolution)
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        if latents is None:
            shape = inputs.latent_shape(self, len(conditioning.tokens_bnc), height, width)
            source = list(generators) if generators else None
            single = source[0] if source and len(source) == 1 else source
            latents = randn_tensor(shape, generator=single, device=self._execution_device, dtype=torch.float32)
        return Trajectory(
            latents_bchw=latents.to(self._execution_device, torch.float32) * scheduler.init_noise_sigma,
            timesteps=scheduler.timesteps,
            step=0,
            scheduler=scheduler,
            conditioning=conditioning.to(self._execution_device),
            guidance_scale=guidance_scale,
            preset=preset,
            generators=tuple(generators) if generators else None,
        )

    @torch.inference_mode()
    def advance(self, trajectory: Trajectory, role: Role, on_step: OnStep | None = None) -> Trajectory:
        """Run every next step whose current timestep belongs to `role`.

        Raises:
            UserError: this process holds no generator of that role.
        """
        unet = self.components[role]
        if unet is None:
            raise UserError(f"This pipeline was loaded without its {role} generator.")
        dtype = unet.dtype

        def predict(noisy: Tensor, timestep: Tensor, tokens: Tensor, pooled: Tensor, preset: int) -> Tensor:
            self.contract(role).interval.check(float(timestep[0]), role)
            return denoise(unet, noisy.to(dtype), timestep, tokens.to(dtype), pooled.to(dtype), preset).float()

        return advance(trajectory, predict, self.contract(role).interval, on_step)

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
    ) -> Any:
        """Images for prompts in Chinese or English; the arguments are those of diffusers' text-to-image pipelines.

        `latents`, where given, are unit Gaussian noise of shape (images, C, height / 8, width / 8) for an 8x autoencoder.

        Raises:
            UserError: an argument is out of its range; the sentence names it.
        """
        prompts, negatives = inputs.check(
            prompt, negative_prompt, num_inference_steps, guidance_scale, num_images_per_prompt, output_type
        )
        inputs.check_callback_tensors(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        images = len(prompts) * num_images_per_prompt
        trajectory = self.start(
            self.encode_prompt(prompts, negatives).repeat(num_images_per_prompt),
            height=height or self.resolution,
            width=width or self.resolution,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generators=inputs.generators(generator, images),
            latents=latents,
        )
        with self.progress_bar(total=len(trajectory.timesteps)) as bar:
            on_step = partial(self._after_step, bar=bar, callback=callback_on_step_end)
            # Schedulers may dither around the boundary, so the experts take turns until the trajectory ends.
            while not trajectory.finished:
                role: Role = "structure" if trajectory.timestep >= self.boundary else "texture"
                trajectory = self.advance(trajectory, role, on_step)
        result = self.decode(trajectory.latents_bchw, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=result) if return_dict else (result,)

    def _after_step(self, trajectory: Trajectory, bar: Any, callback: inputs.Callback | None) -> Trajectory:
        bar.update()
        if callback is None:
            return trajectory
        done = trajectory.step - 1
        changed = callback(self, done, trajectory.timesteps[done], {"latents": trajectory.latents_bchw}) or {}
        return replace(trajectory, latents_bchw=changed.get("latents", trajectory.latents_bchw))
