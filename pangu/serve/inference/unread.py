"""Which texts of a request the encoders of a release do not read to their end, because captions are cut to `max_tokens`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pangu.config import Role
from pangu.serve.inference.messages import Job, Release, Unread

if TYPE_CHECKING:
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline


def unread_in(pipeline: "PanGuDrawPipeline", job: Job) -> tuple[Unread, ...]:
    """The ends of texts that are not read: one entry for each field and each encoder that cuts it."""
    from pangu.models.text import truncations
    from pangu.models.text_windows import MOST_WINDOWS

    prefixes = dict(pipeline.config.get("styles") or {})
    windows = MOST_WINDOWS if job.long_prompts == "windows" else 1
    return tuple(
        Unread(param, encoder_at(pipeline, role, cut.tower), cut.text, cut.tokens, cut.max_tokens)
        for param, text in captions_of(job, prefixes).items()
        for role, reader in pipeline.readers().items()
        for cut in truncations(reader.towers, pipeline.worded(role, [text])[0], reader.max_tokens, windows)
    )


def encoder_at(pipeline: "PanGuDrawPipeline", role: Role, place: int) -> str:
    """The subfolder of a text encoder by which an expert reads."""
    of = f"_of_{role}" if f"text_encoder_of_{role}" in pipeline.components else ""
    own = of if of and pipeline.components[f"text_encoder{of}"] is not None else ""
    return f"text_encoder{own}" + ("_2" if place else "")


def with_reading(release: Release, job: Job) -> Job:
    """The request with its texts read in windows only where this release can."""
    if job.long_prompts != "windows":
        return job
    return replace(job, long_prompts="windows" if release.offers.reads_windows else "cut")


def captions_of(job: Job, prefixes: Mapping[str, str]) -> dict[str, str]:
    """Field of the request -> the caption that the encoders are asked to read for it; styles put their prefix before a prompt."""
    own, texts = job.texture, texts_of(job)
    texts |= _styled("style", job.styles, job.prompt, prefixes)
    if own.prompt is not None or own.styles is not None:
        styles, prompt = (job.styles if own.styles is None else own.styles), own.prompt or job.prompt
        texts |= _styled("texture.style", styles, prompt, prefixes)
    return texts


def texts_of(job: Job) -> dict[str, str]:
    """Field of the request -> the text that the client wrote into it, where there is one."""
    own = job.texture
    texts = {"prompt": job.prompt, "negative_prompt": job.negative_prompt}
    texts |= {"texture.prompt": own.prompt, "texture.negative_prompt": own.negative_prompt}
    return {param: text for param, text in texts.items() if text}


def _styled(field: str, styles: Mapping[str, float], prompt: str, prefixes: Mapping[str, str]) -> dict[str, str]:
    from pangu.models.text import styled_caption

    read = [name for name, scale in styles.items() if scale != 0 and name in prefixes]
    return {f"{field}.{name}": styled_caption(prompt, prefixes[name]) for name in read}
