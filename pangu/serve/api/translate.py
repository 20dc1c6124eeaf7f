"""From a valid request to the message that the pools understand."""

import base64
import binascii
import secrets
from collections.abc import Mapping
from dataclasses import replace

from pangu.config import Role
from pangu.serve.api import bounds
from pangu.serve.api.request_fields import CoopField, HalfGuidance, HalfSteps, TextureField
from pangu.serve.api.requests import EditRequest, ImageRequest
from pangu.serve.error_answers import invalid
from pangu.serve.inference.messages import CoopJob, Job, LoraJob, TextureJob
from pangu.serve.inference.named_experts import EVERY
from pangu.serve.settings import ServeSettings

PNG = b"\x89PNG\r\n\x1a\n"
DATA_URL = "data:image/png;base64,"


def job_of(asked: ImageRequest, settings: ServeSettings, source: bytes | None = None, mask: bytes | None = None) -> Job:
    """What the pools are asked for; a request without a seed gets one here, and the answer says which.

    settings: of the server, for what the request leaves to it. source: the image file that an edit refines, or that a partner
    varies. mask: a png as large, transparent where it is edited.

    Raises:
        ApiError: 400, a control image that is no PNG in base64.
    """
    scales = asked.lora_scales.model_dump(exclude_none=True) if asked.lora_scales else {}
    roles: dict[Role, float] = {role: scales[role] for role in EVERY if role in scales}
    usual = settings.long_prompts
    steps, guidance, texture = asked.num_inference_steps, asked.guidance_scale, _texture(asked.texture)
    if isinstance(guidance, HalfGuidance):
        texture = replace(texture, guidance_scale=guidance.texture)
    return Job(
        prompt=asked.prompt,
        seed=secrets.randbelow(bounds.MAX_SEED + 1) if asked.seed is None else asked.seed,
        negative_prompt=asked.negative_prompt,
        images=asked.n,
        width_height=asked.width_height,
        steps=steps if isinstance(steps, int) else None,
        role_steps=_steps_of(steps) if isinstance(steps, HalfSteps) else {},
        split_by_log_snr=asked.step_split == "log_snr",
        step_factor=bounds.STEP_FACTORS[asked.quality],
        guidance_scale=guidance.structure if isinstance(guidance, HalfGuidance) else guidance,
        guidance_between=guidance.between if isinstance(guidance, HalfGuidance) else {},
        guidance_intervals=asked.intervals,
        scheduler=asked.scheduler,
        styles=_in_order(asked.styles),
        lora_scales=roles,
        loras=tuple(LoraJob(e.name, e.weight, e.structure, e.texture, e.between) for e in asked.loras or ()),
        texture=texture,
        coop=None if asked.coop is None else _coop(asked.coop, source),
        source=source if asked.coop is None else None,
        mask=mask,
        strength=asked.strength if isinstance(asked, EditRequest) else None,
        enhance=asked.enhance,
        long_prompts=asked.long_prompts or (usual if asked.coop is None and usual != "cut" else None),
        nearest_size=settings.nearest_size,
        output_format=asked.output_format,
        output_compression=asked.output_compression,
        partial_images=asked.partial_images,
    )


def _steps_of(asked: HalfSteps) -> dict[Role, int]:
    """In the order of the turns."""
    return {"structure": asked.structure, **asked.between, "texture": asked.texture}


def _in_order(styles: Mapping[str, float]) -> dict[str, float]:
    """By name: sums round by their order, and the order of a JSON object means nothing."""
    return dict(sorted(styles.items()))


def _texture(asked: TextureField | None) -> TextureJob:
    if asked is None:
        return TextureJob()
    return TextureJob(
        prompt=asked.prompt,
        negative_prompt=asked.negative_prompt,
        steps=asked.num_inference_steps,
        guidance_scale=asked.guidance_scale,
        styles=None if asked.style is None else _in_order(asked.style),
    )


def _coop(asked: CoopField, varied: bytes | None) -> CoopJob:
    given = asked.control_image
    texts = given if isinstance(given, list) else [given] * len(asked.partners)
    return CoopJob(
        partners=tuple(asked.partners),
        strengths=tuple(asked.strengths),
        images=tuple(None if text is None else png_of(text, "coop.control_image") for text in texts),
        shared_image=isinstance(given, str),
        every=asked.bridge.every,
        start=asked.bridge.start,
        stop=asked.bridge.stop,
        upsample=asked.bridge.upsample,
        varied=varied,
    )


def png_of(text: str, param: str) -> bytes:
    """The file in a client's base64, with or without the head of a data: URL.

    Raises:
        ApiError: 400, no base64, too long, or no PNG.
    """
    try:
        file = base64.b64decode(text.removeprefix(DATA_URL), validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"Invalid value for '{param}': it is not a PNG in base64.", param) from None
    if len(file) > bounds.MAX_IMAGE_BYTES:
        raise invalid(f"Invalid value for '{param}': it is longer than {bounds.MAX_IMAGE_BYTES} bytes.", param)
    if not file.startswith(PNG):
        raise invalid(f"Invalid value for '{param}': it is not a PNG in base64.", param)
    return file
