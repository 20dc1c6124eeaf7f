"""Flow-matching transformers: Stable Diffusion 3 and Flux."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from torch import Tensor

from pangu.models.denoisers import FAMILIES
from pangu.models.families.family import DenoiserInput
from pangu.pipelines.coop.adapters.latent import LatentAdapter
from pangu.pipelines.coop.model_adapter import GenerationRequest
from pangu.sampling.condition import Condition, Tensors, text


class StableDiffusion3(LatentAdapter):
    """`StableDiffusion3Pipeline` (arXiv 2403.03206)."""

    network_name = "transformer"
    largest_shift = 1.16
    family = FAMILIES["sd3"]

    @property
    def channels(self) -> int:
        return self.family.latent_channels(self.network.config)

    @property
    def size_step(self) -> int:
        return self.pixels_per_latent * self.family.size_step(self.network.config)

    def condition(self, request: GenerationRequest) -> Condition:
        guided = request.guidance_scale > 1
        tokens, negative, pooled, negative_pooled = self.pipe.encode_prompt(
            prompt=request.prompts,
            prompt_2=None,
            prompt_3=None,
            device=self.device,
            num_images_per_prompt=request.images_per_prompt,
            do_classifier_free_guidance=guided,
            negative_prompt=request.negatives,
        )
        beside = text(negative, negative_pooled) if guided else None
        return self.told(text(tokens, pooled), beside, request)

    def network_call(self, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition) -> Tensor:
        timestep_b, scale = self.there(timestep).expand(len(noisy_bchw)), tensors.get("guidance")
        asked = DenoiserInput(noisy_bchw, timestep_b, tensors["tokens"], tensors["pooled"], guidance_b=scale)
        return self.family.predict(self.network, asked)

    def timestep_arguments(self, steps: int, height: int, width: int) -> dict[str, Any]:
        return {"mu": self.shift(height, width)} if self.pipe.scheduler.config.get("use_dynamic_shifting") else {}

    def shift(self, height: int, width: int) -> float:
        """How far larger pictures move the steps towards noise (arXiv 2403.03206, Section 5.3.2)."""
        config = self.pipe.scheduler.config
        return calculate_shift(
            height // self.size_step * (width // self.size_step),
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", self.largest_shift),
        )


class Flux(StableDiffusion3):
    """`FluxPipeline`: its transformer sees 2 x 2 latents as one token, and is told the scale of its distilled guidance."""

    extras = ("true_cfg_scale",)
    largest_shift = 1.15
    family = FAMILIES["flux"]

    @property
    def default_size(self) -> tuple[int, int]:
        side = self.pipe.default_sample_size * self.pipe.vae_scale_factor
        return side, side

    def condition(self, request: GenerationRequest) -> Condition:
        scale = float(request.extra.get("true_cfg_scale", 1.0))
        prompt = self._embed(request.prompts, request)
        told: Tensors = {}
        if self.network.config.guidance_embeds:
            told["guidance"] = torch.full((len(prompt[0]),), request.guidance_scale, device=self.device)
        negative = None
        if scale > 1 and request.negatives is not None:
            negative = text(*self._embed(request.negatives, request)) | told
        return replace(self.told(text(*prompt) | told, negative, request), guidance_scale=scale)

    def reguided(self, condition: Condition, scale: float) -> Condition:
        """The scale that its network is told; the true guidance stays as the call began."""
        if "guidance" not in condition.prompt:
            return condition
        told = {"guidance": torch.full_like(condition.prompt["guidance"], scale)}
        negative = None if condition.negative is None else condition.negative | told
        return replace(condition, prompt=condition.prompt | told, negative=negative)

    def _embed(self, prompts: list[str] | None, request: GenerationRequest) -> tuple[Tensor, Tensor]:
        tokens, pooled, _ = self.pipe.encode_prompt(
            prompt=prompts, prompt_2=None, device=self.device, num_images_per_prompt=request.images_per_prompt
        )
        return tokens, pooled

    def timestep_arguments(self, steps: int, height: int, width: int) -> dict[str, Any]:
        arguments: dict[str, Any] = {"mu": self.shift(height, width)}
        if not self.pipe.scheduler.config.get("use_flow_sigmas"):
            arguments["sigmas"] = np.linspace(1.0, 1 / steps, steps)
        return arguments
