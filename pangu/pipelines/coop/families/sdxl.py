"""SDXL, alone and under ControlNets: text tokens, pooled text, and six numbers about the size (arXiv 2307.01952, Section 2.2)."""

import torch
from torch import Tensor

from pangu.pipelines.coop.families.stable_diffusion import Controlled, StableDiffusion
from pangu.pipelines.coop.family import Ask, Condition, Tensors


class StableDiffusionXL(StableDiffusion):
    """`StableDiffusionXLPipeline`."""

    def condition(self, ask: Ask) -> Condition:
        guided = ask.guidance_scale > 1
        tokens, negative, pooled, negative_pooled = self.pipe.encode_prompt(
            prompt=ask.prompts,
            device=self.device,
            num_images_per_prompt=ask.images_per_prompt,
            do_classifier_free_guidance=guided,
            negative_prompt=ask.negatives,
        )
        second = self.pipe.text_encoder_2
        size = (ask.height, ask.width)
        numbers = self.pipe._get_add_time_ids(
            size,
            (0, 0),
            size,
            dtype=tokens.dtype,
            text_encoder_projection_dim=pooled.shape[-1] if second is None else second.config.projection_dim,
        )
        if guided:
            tokens, pooled = torch.cat([negative, tokens]), torch.cat([negative_pooled, pooled])
        tensors = {"tokens": tokens, "pooled": pooled, "numbers": numbers.to(self.device).repeat(len(tokens), 1)}
        return Condition(tensors, guided, ask.guidance_scale, ask.batched_guidance)

    def added(self, tensors: Tensors) -> dict[str, Tensor]:
        return {"text_embeds": tensors["pooled"], "time_ids": tensors["numbers"]}


class ControlledStableDiffusionXL(Controlled, StableDiffusionXL):
    """`StableDiffusionXLControlNetPipeline`."""
