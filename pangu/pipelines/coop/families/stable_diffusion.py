"""Stable Diffusion 1.x and 2.x, alone and under ControlNets, and its image variations."""

from typing import Any

import torch
from torch import Tensor

from pangu.errors import UserError
from pangu.pipelines.coop.families.latent import LatentFamily
from pangu.pipelines.coop.family import Ask, Condition, Family, Tensors, check_images


class StableDiffusion(LatentFamily):
    """`StableDiffusionPipeline`: text tokens, and nothing else."""

    def condition(self, ask: Ask) -> Condition:
        guided = ask.guidance_scale > 1
        tokens, negative = self.pipe.encode_prompt(
            ask.prompts, self.device, ask.images_per_prompt, guided, ask.negatives
        )
        both = torch.cat([negative, tokens]) if guided else tokens
        return Condition({"tokens": both}, guided, ask.guidance_scale, ask.batched_guidance)

    def network_call(self, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition) -> Tensor:
        return self.network(noisy_bchw, timestep, encoder_hidden_states=tensors["tokens"], return_dict=False)[0]


class ControlledStableDiffusion(StableDiffusion):
    """`StableDiffusionControlNetPipeline` with one or several ControlNets (arXiv 2302.05543)."""

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
        residuals = control_residuals(self, noisy_bchw, timestep, tensors, condition, None)
        tokens = tensors["tokens"]
        return self.network(noisy_bchw, timestep, encoder_hidden_states=tokens, **residuals, return_dict=False)[0]


class ImageVariation(LatentFamily):
    """`StableDiffusionImageVariationPipeline`: the embedding of an image in the place of text."""

    def condition(self, ask: Ask) -> Condition:
        if ask.image is None:
            raise UserError(f"{self.name} varies an image, but got none; give image=...")
        given = list(ask.image) if isinstance(ask.image, (list, tuple)) else [ask.image]
        if isinstance(ask.image, Tensor):
            given = list(ask.image) if ask.image.ndim == 4 else [ask.image]
        if len(given) not in (1, len(ask.prompts)):
            raise UserError(
                f"{self.name}: {len(given)} images came with {len(ask.prompts)} prompts; give one, or one each."
            )
        each = given * len(ask.prompts) if len(given) == 1 else given
        images = torch.stack(each) if isinstance(each[0], Tensor) else each
        guided = ask.guidance_scale > 1
        tokens = self.pipe._encode_image(images, self.device, ask.images_per_prompt, guided)
        return Condition({"tokens": tokens}, guided, ask.guidance_scale, ask.batched_guidance)

    def network_call(self, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition) -> Tensor:
        return self.network(noisy_bchw, timestep, encoder_hidden_states=tensors["tokens"], return_dict=False)[0]


def control_tensors(family: Family, ask: Ask, guided: bool) -> Tensors:
    """The control image of each ControlNet, for the whole batch.

    Raises:
        UserError: an image is missing, too many are given, or one has another size than the picture.
    """
    count = control_count(family)
    if ask.image is None:
        raise UserError(f"{family.name} has {count} ControlNet(s), but no control image; give image=...")
    images = [ask.image] if count == 1 else ask.image
    if not isinstance(images, (list, tuple)) or len(images) != count:
        found = len(images) if isinstance(images, (list, tuple)) else 1
        raise UserError(f"{family.name} has {count} ControlNets, but {found} control image(s); give one each.")
    prepared = []
    for image in images:
        check_images(image, ask.height, ask.width, family.name, "the control image")
        batch = len(image) if isinstance(image, (list, tuple)) or getattr(image, "ndim", 0) == 4 else 1
        if batch not in (1, len(ask.prompts)):
            raise UserError(
                f"{family.name}: {batch} control images came with {len(ask.prompts)} prompts; give one, or one each."
            )
        prepared.append(
            family.pipe.prepare_image(
                image=image,
                width=ask.width,
                height=ask.height,
                batch_size=ask.images,
                num_images_per_prompt=ask.images_per_prompt,
                device=family.device,
                dtype=family.pipe.controlnet.dtype,
                do_classifier_free_guidance=guided,
            )
        )
    return {"controls": prepared}


def control_facts(family: Family, ask: Ask) -> dict[str, Any]:
    """The scale of each ControlNet.

    Raises:
        UserError: a list of the wrong length.
    """
    count, given = control_count(family), ask.conditioning_scale
    scales = [float(given)] * count if isinstance(given, (int, float)) else [float(scale) for scale in given]
    if len(scales) != count:
        raise UserError(f"{family.name} has {count} ControlNet(s), but {len(scales)} values of conditioning_scale.")
    return {"scales": scales}


def control_count(family: Family) -> int:
    return len(family.pipe.controlnet.nets) if hasattr(family.pipe.controlnet, "nets") else 1


def control_residuals(
    family: Family, noisy_bchw: Tensor, timestep: Tensor, tensors: Tensors, condition: Condition, added: Any
) -> dict[str, Any]:
    """What the ControlNets add to the UNet, as its arguments."""
    several = hasattr(family.pipe.controlnet, "nets")
    controls, scales = tensors["controls"], condition.facts["scales"]
    down, middle = family.pipe.controlnet(
        noisy_bchw,
        timestep,
        encoder_hidden_states=tensors["tokens"],
        controlnet_cond=controls if several else controls[0],
        conditioning_scale=scales if several else scales[0],
        added_cond_kwargs=added,
        return_dict=False,
    )
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
