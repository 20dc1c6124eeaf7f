"""From a valid request to the message that the pools understand."""

import base64
import binascii
import secrets
from collections.abc import Mapping

from pangu.config import ROLES, Role
from pangu.serve.api import bounds
from pangu.serve.api.requests import CoopField, ImageRequest, TextureField
from pangu.serve.error_answers import invalid
from pangu.serve.inference.messages import CoopJob, Job, TextureJob

PNG = b"\x89PNG\r\n\x1a\n"
DATA_URL = "data:image/png;base64,"


def job_of(
    asked: ImageRequest, source: bytes | None = None, mask: bytes | None = None, *, nearest_size: bool = False
) -> Job:
    """What the pools are asked for; a request without a seed gets one here, and the answer says which.

    source: the image file that an edit refines. mask: a png as large, transparent where it is edited. nearest_size: whether
    the nearest shape is drawn where the release does not draw the size.

    Raises:
        ApiError: 400, a control image that is no PNG in base64.
    """
    scales = asked.lora_scales.model_dump(exclude_none=True) if asked.lora_scales else {}
    roles: dict[Role, float] = {role: scales[role] for role in ROLES if role in scales}
    return Job(
        prompt=asked.prompt,
        seed=secrets.randbelow(bounds.MAX_SEED + 1) if asked.seed is None else asked.seed,
        negative_prompt=asked.negative_prompt,
        images=asked.n,
        width_height=asked.width_height,
        steps=asked.num_inference_steps,
        step_factor=bounds.STEP_FACTORS[asked.quality],
        guidance_scale=asked.guidance_scale,
        scheduler=asked.scheduler,
        styles=_in_order(asked.styles),
        lora_scales=roles,
        texture=_texture(asked.texture),
        coop=None if asked.coop is None else _coop(asked.coop),
        source=source,
        mask=mask,
        nearest_size=nearest_size,
        output_format=asked.output_format,
        output_compression=asked.output_compression,
        partial_images=asked.partial_images,
    )


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


def _coop(asked: CoopField) -> CoopJob:
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
