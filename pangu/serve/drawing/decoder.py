"""The decoder pool: clean latents -> image files, and the image of an edit -> latents."""

import time
from typing import TYPE_CHECKING

from pangu.serve.drawing.messages import Glimpse, Handoff, Job, Partial, Pictures, Release, RequestError
from pangu.serve.drawing.pictures import encode, facts_of, read_image
from pangu.serve.drawing.pool import Pool, steps_of
from pangu.serve.drawing.structure import checked_size

if TYPE_CHECKING:
    from torch import Tensor

    from pangu.pipelines.pangu_draw import PanGuDrawPipeline


class DecoderPool(Pool):
    """The autoencoder."""

    part = "decoder"

    async def develop(self, handoff: Handoff) -> Pictures:
        """The image files of finished latents."""
        async with self._shelf.hold(handoff.release) as pipeline:
            return await self._worker.run(lambda: developed(pipeline, handoff))

    async def glimpse(self, glimpse: Glimpse) -> Partial:
        """The image files of a clean estimate; they carry no facts, because they are no results."""
        async with self._shelf.hold(glimpse.release) as pipeline:
            return await self._worker.run(lambda: shown(pipeline, glimpse))

    async def receive(self, release: Release, job: Job) -> "Tensor":
        """Latents (1, C, h, w) of the image that an edit begins with.

        Raises:
            RequestError: it is no image, or has a size that this release does not draw.
        """
        async with self._shelf.hold(release) as pipeline:
            return await self._worker.run(lambda: received(pipeline, job))


def developed(pipeline: "PanGuDrawPipeline", handoff: Handoff) -> Pictures:
    clock = time.perf_counter()
    job, trajectory = handoff.job, handoff.trajectory
    scheduler, steps = type(trajectory.scheduler).__name__, steps_of(trajectory)
    facts = facts_of(handoff.release, job, scheduler, steps, trajectory.guidance_scale)
    images = pipeline.decode(trajectory.latents_bchw.to(pipeline.device))
    files = [
        encode(image, job.output_format, job.output_compression, facts | {"seed": str(job.seed_of(index))})
        for index, image in enumerate(images)
    ]
    seconds = dict(handoff.seconds) | {"decode": time.perf_counter() - clock}
    return Pictures(
        handoff.release,
        files,
        handoff.width_height,
        scheduler,
        steps,
        trajectory.guidance_scale,
        seconds,
        handoff.company,
        handoff.cached,
    )


def shown(pipeline: "PanGuDrawPipeline", glimpse: Glimpse) -> Partial:
    job = glimpse.job
    images = pipeline.decode(glimpse.latents_bchw.to(pipeline.device))
    return Partial(glimpse.index, [encode(image, job.output_format, job.output_compression, {}) for image in images])


def received(pipeline: "PanGuDrawPipeline", job: Job) -> "Tensor":
    import torch

    from pangu.models.autoencoders import encode_pixels

    assert job.source is not None, "only edits are received"
    image = read_image(job.source, "image")
    width, height = checked_size(pipeline, job.width_height or image.size)
    if image.size != (width, height):
        raise RequestError(
            f"Invalid value for 'image': it is {image.width}x{image.height}, but {width}x{height} is drawn; resize it first.",
            "image",
        )
    with torch.inference_mode():
        pixels = pipeline.image_processor.preprocess(image).to(pipeline.device)
        return encode_pixels(pipeline.vae, pixels).float().cpu()
