"""SDXL, alone and under ControlNets: text tokens, pooled text, and six numbers about the size (arXiv 2307.01952, Section 2.2)."""

import torch
from torch import Tensor

from pangu.pipelines.coop.families.latent import LatentFamily
from pangu.pipelines.coop.families.stable_diffusion import control_facts, control_residuals, control_tensors
from pangu.pipelines.coop.family import Ask, Condition, Tensors


class StableDiffusionXL(LatentFamily):
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

    def network_call(self, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition) -> Tensor:
        return self.network(
            noisy_bchw,
            timestep,
            encoder_hidden_states=tensors["tokens"],
            added_cond_kwargs={"text_embeds": tensors["pooled"], "time_ids": tensors["numbers"]},
            return_dict=False,
        )[0]


class ControlledStableDiffusionXL(StableDiffusionXL):
    """`StableDiffusionXLControlNetPipeline` with one or several ControlNets."""

    def condition(self, ask: Ask) -> Condition:
        plain = super().condition(ask)
        return Condition(
            plain.tensors | control_tensors(self, ask, plain.guided),
            plain.guided,
            plain.guidance_scale,
            plain.batched,
            control_facts(self, ask),
        )

    def network_call(self, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition) -> Tensor:
        added = {"text_embeds": tensors["pooled"], "time_ids": tensors["numbers"]}
        residuals = control_residuals(self, noisy_bchw, timestep, tensors, condition, dict(added))
        return self.network(
            noisy_bchw,
            timestep,
            encoder_hidden_states=tensors["tokens"],
            added_cond_kwargs=added,
            **residuals,
            return_dict=False,
        )[0]
