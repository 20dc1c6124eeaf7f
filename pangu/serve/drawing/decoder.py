"""The decoder pool: clean latents -> image files, and the image of an edit -> latents."""

import time
from typing import TYPE_CHECKING, Any

from pangu.errors import NotFinite
from pangu.serve.drawing.messages import Glimpse, Handoff, Job, Partial, Pictures, Release, RequestError
from pangu.serve.drawing.moderation import Moderator
from pangu.serve.drawing.pictures import facts_of, files_of, finite_images, read_image
from pangu.serve.drawing.pool import Loader, Pool, steps_of
from pangu.serve.drawing.structure import checked_size
from pangu.serve.drawing.worker import Worker

if TYPE_CHECKING:
    from torch import Tensor

    from pangu.pipelines.pangu_draw import PanGuDrawPipeline


class DecoderPool(Pool):
    """The autoencoder, and the moderator of what it decodes."""

    part = "decoder"

    def __init__(
        self, worker: Worker, moderator: Moderator | None = None, *, crosses: bool = False, load: Loader | None = None
    ) -> None:
        super().__init__(worker, crosses=crosses, load=load)
        self._moderator = moderator or Moderator()

    async def develop(self, handoff: Handoff) -> Pictures:
        """The image files of finished latents."""
        async with self._shelf.hold(handoff.release) as pipeline:
            return await self._worker.run(lambda: developed(pipeline, handoff, self._moderator))

    async def glimpse(self, glimpse: Glimpse) -> Partial:
        """The image files of a clean estimate, none where it is not finite; they carry no facts, because they are no results."""
        async with self._shelf.hold(glimpse.release) as pipeline:
            return await self._worker.run(lambda: shown(pipeline, glimpse, self._moderator))

    async def receive(self, release: Release, job: Job) -> "Tensor":
        """Latents (1, C, h, w) of the image that an edit begins with.

        Raises:
            RequestError: it is no image, or has a size that this release does not draw.
        """
        async with self._shelf.hold(release) as pipeline:
            return await self._worker.run(lambda: received(pipeline, job))


def developed(pipeline: "PanGuDrawPipeline", handoff: Handoff, moderator: Moderator) -> Pictures:
    clock = time.perf_counter()
    job, trajectory = handoff.job, handoff.trajectory
    scheduler, steps = type(trajectory.scheduler).__name__, steps_of(trajectory)
    facts = facts_of(handoff.release, job, scheduler, steps, trajectory.guidance_scale)
    files, looking = files_of(decoded(pipeline, trajectory.latents_bchw), job, facts, moderator)
    decode_s = time.perf_counter() - clock - sum(looking.values())
    seconds = {**handoff.seconds, "decode": decode_s, **looking}
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


def shown(pipeline: "PanGuDrawPipeline", glimpse: Glimpse, moderator: Moderator) -> Partial:
    try:
        images = decoded(pipeline, glimpse.latents_bchw)
    except NotFinite:
        return Partial(glimpse.index, [])
    return Partial(glimpse.index, files_of(images, glimpse.job, {}, moderator)[0])


def decoded(pipeline: "PanGuDrawPipeline", latents_bchw: "Tensor") -> list[Any]:
    """PIL images of clean latents (B, C, h, w).

    Raises:
        NotFinite: a pixel is NaN or infinite.
    """
    pixels = pipeline.decode(latents_bchw.to(pipeline.device), output_type="pt")
    return finite_images(pixels, pipeline.image_processor)


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
