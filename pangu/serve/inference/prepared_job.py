"""A request made ready to run: the release's own values where it left something out, text embeddings, first noise."""

import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pangu.diffusion.presets import nearest_of
from pangu.errors import UserError
from pangu.serve.inference.halves import entered_below, with_steps
from pangu.serve.inference.messages import Job, Received, RequestError
from pangu.serve.inference.named_experts import named_experts
from pangu.serve.inference.unknown import unknown_in
from pangu.serve.inference.unread import unread_in

if TYPE_CHECKING:
    from pangu.bounded_cache import BoundedCache
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline
    from pangu.sampling.condition import Condition
    from pangu.sampling.inpainting import Kept
    from pangu.sampling.trajectory import Trajectory


@dataclass(frozen=True)
class Prepared:
    """A request that is ready to run: its trajectory in noise, and what conditions it below the boundary.

    job: the request with the release's own values where it left something out.
    """

    job: Job
    trajectory: "Trajectory"
    below: "Condition"
    width_height: tuple[int, int]
    text_s: float


@dataclass(frozen=True)
class Towers:
    """The text towers of a release, which answer from a cache where they were asked before."""

    pipeline: "PanGuDrawPipeline"
    key: str
    texts: "BoundedCache[Hashable, Condition]"

    def encode(
        self, prompt: str, negative: str | None, styles: Mapping[str, float], job: Job, param: str
    ) -> "Condition":
        """What they say of one prompt, once for each image of the request.

        Raises:
            RequestError: this release knows no such style; it names `param`.
        """
        long = job.long_prompts or "cut"
        key = self.key, prompt, negative, tuple(styles.items()), long
        once = self.texts.get(key)
        if once is None:
            with refusing(param):
                negatives = None if negative is None else [negative]
                once = self.pipeline.encode_prompt([prompt], negatives, styles, long_prompts=long)
            self.texts.keep(key, once)
        return once.repeat(job.images)


def prepare(towers: Towers, job: Job) -> Prepared:
    """Text embeddings and first noise.

    Raises:
        RequestError: this release has no such size, style, adapter or scheduler, or a half would have no step.
    """
    import torch

    from pangu.models.schedulers import named_sampler

    clock, pipeline = time.perf_counter(), towers.pipeline
    scheduler = pipeline.scheduler if job.scheduler is None else named_sampler(job.scheduler, pipeline.scheduler)
    job = resolved(pipeline, scheduler, job)
    assert job.width_height is not None and job.steps is not None and job.guidance_scale is not None
    (width, height), steps, guidance_scale = job.width_height, job.steps, job.guidance_scale
    with torch.inference_mode():
        above = towers.encode(job.prompt, job.negative_prompt, job.styles, job, "style")
        below = above if _same_text(job) else _texture_text(towers, job)
    job = replace(job, unread=unread_in(pipeline, job), unknown=unknown_in(pipeline, job))
    text_s = time.perf_counter() - clock
    with refusing("lora_scales"):
        trajectory = pipeline.start(
            above,
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generators=generators_of(job),
            lora_scales=job.lora_scales,
            guidance_intervals=job.guidance_intervals,
            scheduler=scheduler,
        )
    return Prepared(job, trajectory, below.to(trajectory.latents_bchw.device), (width, height), text_s)


def resolved(pipeline: "PanGuDrawPipeline", scheduler: Any, job: Job) -> Job:
    """The request with the release's own size, steps and guidance where it left them out.

    Raises:
        RequestError: this release has no such size or expert, or a half would have no step.
    """
    job = named_experts(job, pipeline.roles)
    own, below = pipeline.sampling, job.texture
    if job.guidance_scale is None and below.guidance_scale is None:
        below = replace(below, guidance_scale=own.texture_guidance)
    known = replace(
        job,
        width_height=checked_size(pipeline, job),
        guidance_scale=own.guidance_scale if job.guidance_scale is None else job.guidance_scale,
        texture=below,
    )
    return with_steps(pipeline, scheduler, known)


def generators_of(job: Job) -> list[Any]:
    """A noise source for each image; on the CPU whatever the device, so that a seed means the same image everywhere."""
    import torch

    return [torch.Generator().manual_seed(job.seed_of(image)) for image in range(job.images)]


def noised(
    pipeline: "PanGuDrawPipeline", prepared: Prepared, received: "Received"
) -> tuple["Trajectory", "Kept | None"]:
    """The state of an image, once for each seed, at the first timestep where the edit begins; and what stays of the image."""
    from pangu.models.schedulers import noise_scale
    from pangu.sampling.entering import start_from_clean
    from pangu.sampling.inpainting import Kept

    start = prepared.trajectory
    noise = start.latents_bchw / noise_scale(start.scheduler)
    clean = received.latents_1chw.to(noise.device, noise.dtype).expand_as(noise)
    kept = None if received.drawn_11hw is None else Kept(clean.cpu(), noise.cpu(), received.drawn_11hw)
    return start_from_clean(start, entered_below(pipeline, prepared.job), clean, noise), kept


def checked_size(pipeline: "PanGuDrawPipeline", job: Job) -> tuple[int, int]:
    """The (width, height) to draw: the preferred one where none is given, and the nearest shape where the request takes it.

    Raises:
        RequestError: this release has no such preset.
    """
    width, height = job.width_height or (pipeline.resolution, pipeline.resolution)
    if (height, width) not in pipeline.sizes:
        if job.nearest_size:
            height, width = pipeline.sizes[nearest_of(height, width, pipeline.sizes)]
            return width, height
        known = ", ".join(f"{w}x{h}" for h, w in pipeline.sizes)
        raise RequestError(f"Invalid value for 'size': this model draws {known}, not {width}x{height}.", "size")
    return width, height


def _texture_text(towers: Towers, job: Job) -> "Condition":
    own = job.texture
    return towers.encode(
        job.prompt if own.prompt is None else own.prompt,
        job.negative_prompt if own.negative_prompt is None else own.negative_prompt,
        job.styles if own.styles is None else own.styles,
        job,
        "texture",
    )


def _same_text(job: Job) -> bool:
    own = job.texture
    return own.prompt is None and own.negative_prompt is None and own.styles is None


class refusing:
    """Within it, a UserError becomes a RequestError about `param`."""

    def __init__(self, param: str) -> None:
        self._param = param

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UserError) and not isinstance(error, RequestError):
            raise RequestError(f"Invalid value for '{self._param}': {error}", self._param) from error
