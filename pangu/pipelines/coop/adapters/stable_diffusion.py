"""Stable Diffusion 1.x and 2.x, alone and under ControlNets, and its image variations."""

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pangu.data.images import opened_rgb
from pangu.errors import UserError
from pangu.pipelines.coop.adapters.control_inputs import control_pictures, control_scales
from pangu.pipelines.coop.adapters.latent import LatentAdapter
from pangu.pipelines.coop.model_adapter import GenerationRequest
from pangu.sampling.condition import Condition, Tensors


class StableDiffusion(LatentAdapter):
    """`StableDiffusionPipeline`: text tokens, and nothing else."""

    def condition(self, request: GenerationRequest) -> Condition:
        guided = request.guidance_scale > 1
        tokens, negative = self.pipe.encode_prompt(
            request.prompts, self.device, request.images_per_prompt, guided, request.negatives
        )
        beside = {"tokens": negative} if guided else None
        return self.told({"tokens": tokens}, beside, request)

    def network_call(self, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition) -> Tensor:
        timestep = self.there(timestep)
        return self.network(
            noisy_bchw,
            timestep,
            encoder_hidden_states=tensors["tokens"],
            added_cond_kwargs=self.added(tensors),
            **self.residuals(noisy_bchw, timestep, tensors, condition),
            return_dict=False,
        )[0]

    def added(self, tensors: Tensors) -> dict[str, Tensor] | None:
        """What the network is conditioned on beside the tokens."""
        return None

    def residuals(self, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition) -> dict[str, Any]:
        """What ControlNets add to the network, as its arguments."""
        return {}


class Controlled(StableDiffusion):
    """One or several ControlNets on a adapter (arXiv 2302.05543)."""

    def condition(self, request: GenerationRequest) -> Condition:
        plain = super().condition(request)
        shown = {"controls": control_pictures(self, request)}
        negative = None if plain.negative is None else plain.negative | shown
        facts = {"scales": control_scales(self, request)}
        return replace(plain, prompt=plain.prompt | shown, negative=negative, facts=facts)

    def shared(self, condition: Condition) -> Hashable:
        return tuple(condition.facts["scales"])

    def residuals(self, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition) -> dict[str, Any]:
        several = hasattr(self.pipe.controlnet, "nets")
        controls, scales = tensors["controls"], condition.facts["scales"]
        down, middle = self.pipe.controlnet(
            noisy_bchw,
            timestep,
            encoder_hidden_states=tensors["tokens"],
            controlnet_cond=controls if several else controls[0],
            conditioning_scale=scales if several else scales[0],
            added_cond_kwargs=self.added(tensors),
            return_dict=False,
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


class ControlledStableDiffusion(Controlled):
    """`StableDiffusionControlNetPipeline`."""


class ImageVariation(StableDiffusion):
    """`StableDiffusionImageVariationPipeline`: the embedding of an image in the place of text."""

    def condition(self, request: GenerationRequest) -> Condition:
        if request.image is None:
            raise UserError(f"{self.name} varies an image, but got none; give image=...")
        given = list(request.image) if isinstance(request.image, (list, tuple)) else [request.image]
        given = opened_rgb(given)
        if isinstance(request.image, Tensor):
            given = list(request.image) if request.image.ndim == 4 else [request.image]
        if len(given) not in (1, len(request.prompts)):
            raise UserError(
                f"{self.name}: {len(given)} images came with {len(request.prompts)} prompts; give one, or one each."
            )
        each = given * len(request.prompts) if len(given) == 1 else given
        images = torch.stack(each) if isinstance(each[0], Tensor) else each
        guided = request.guidance_scale > 1
        tokens = self.pipe._encode_image(images, self.device, request.images_per_prompt, guided)
        if not guided:
            return self.told({"tokens": tokens}, None, request)
        negative, tokens = tokens.chunk(2)
        return self.told({"tokens": tokens}, {"tokens": negative}, request)
