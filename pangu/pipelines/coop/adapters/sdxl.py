"""SDXL, alone and under ControlNets: text tokens, pooled text, and six numbers about the size (arXiv 2307.01952, Section 2.2)."""

from torch import Tensor

from pangu.pipelines.coop.adapters.stable_diffusion import Controlled, StableDiffusion
from pangu.pipelines.coop.model_adapter import GenerationRequest
from pangu.sampling.condition import Condition, Tensors


class StableDiffusionXL(StableDiffusion):
    """`StableDiffusionXLPipeline`."""

    def condition(self, request: GenerationRequest) -> Condition:
        guided = request.guidance_scale > 1
        tokens, negative, pooled, negative_pooled = self.pipe.encode_prompt(
            prompt=request.prompts,
            device=self.device,
            num_images_per_prompt=request.images_per_prompt,
            do_classifier_free_guidance=guided,
            negative_prompt=request.negatives,
        )
        second = self.pipe.text_encoder_2
        size = (request.height, request.width)
        numbers = self.pipe._get_add_time_ids(
            size,
            (0, 0),
            size,
            dtype=tokens.dtype,
            text_encoder_projection_dim=pooled.shape[-1] if second is None else second.config.projection_dim,
        )
        numbers = numbers.to(self.device).repeat(len(tokens), 1)
        prompt = {"tokens": tokens, "pooled": pooled, "numbers": numbers}
        beside = {"tokens": negative, "pooled": negative_pooled, "numbers": numbers} if guided else None
        return self.told(prompt, beside, request)

    def added(self, tensors: Tensors) -> dict[str, Tensor]:
        return {"text_embeds": tensors["pooled"], "time_ids": tensors["numbers"]}


class ControlledStableDiffusionXL(Controlled, StableDiffusionXL):
    """`StableDiffusionXLControlNetPipeline`."""
