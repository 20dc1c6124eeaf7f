"""The decoder pool: clean latents -> image files, and the image of an edit -> latents."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pangu.errors import NotFinite
from pangu.serve.drawing.facts import facts_of, request_of
from pangu.serve.drawing.masks import drawn_cells, fitted, read_mask
from pangu.serve.drawing.messages import Glimpse, Handoff, Job, Partial, Pictures, Received, Release
from pangu.serve.drawing.moderation import Moderator
from pangu.serve.drawing.pictures import files_of, finite_images, read_image
from pangu.serve.drawing.pool import Loader, Pool
from pangu.serve.drawing.structure import checked_size
from pangu.serve.drawing.worker import Worker
from pangu.serve.settings import Precision

if TYPE_CHECKING:
    from torch import Tensor

    from pangu.pipelines.pangu_draw import PanGuDrawPipeline


MOST_AT_ONCE = 4
"""Images that are decoded together; more come in turns, so that ten of them need no more memory."""


class DecoderPool(Pool):
    """The autoencoder, and the moderator of what it decodes."""

    part = "decoder"

    def __init__(
        self,
        worker: Worker,
        moderator: Moderator | None = None,
        *,
        crosses: bool = False,
        load: Loader | None = None,
        precision: Precision = "auto",
    ) -> None:
        super().__init__(worker, crosses=crosses, load=load, precision=precision)
        self._moderator = moderator or Moderator()

    async def develop(self, handoff: Handoff) -> Pictures:
        """The image files of finished latents."""
        async with self._shelf.hold(handoff.release) as pipeline:
            return await self._worker.run(lambda: developed(pipeline, handoff, self._moderator))

    async def glimpse(self, glimpse: Glimpse) -> Partial:
        """The image files of a clean estimate, none where it is not finite; they carry no facts, because they are no results."""
        async with self._shelf.hold(glimpse.release) as pipeline:
            return await self._worker.run(lambda: shown(pipeline, glimpse, self._moderator))

    async def receive(self, release: Release, job: Job) -> Received:
        """Latents of the image that an edit begins with, and where its mask lets it be edited.

        Raises:
            RequestError: it is no image, or has a size that this release does not draw; or so is its mask.
        """
        async with self._shelf.hold(release) as pipeline:
            return await self._worker.run(lambda: received(pipeline, job))


def developed(pipeline: "PanGuDrawPipeline", handoff: Handoff, moderator: Moderator) -> Pictures:
    clock = time.perf_counter()
    job, trajectory = handoff.job, handoff.trajectory
    scheduler = type(trajectory.scheduler).__name__
    facts = facts_of(handoff.release, job, scheduler, handoff.role_steps)
    images = decoded(pipeline, trajectory.latents_bchw)
    if job.mask is not None:
        images = _with_kept_pixels(images, job, handoff.width_height)
    files, looking = files_of(images, job, facts, moderator)
    decode_s = time.perf_counter() - clock - sum(looking.values())
    seconds = {**handoff.seconds, "decode": decode_s, **looking}
    return Pictures(
        handoff.release,
        files,
        handoff.width_height,
        scheduler,
        request_of(job),
        handoff.role_steps,
        seconds,
        handoff.company,
        handoff.cached,
        unread=job.unread,
        unknown=job.unknown,
    )


def _with_kept_pixels(images: list[Any], job: Job, width_height: tuple[int, int]) -> list[Any]:
    """The images with the very pixels of the source wherever its mask does not let it be edited."""
    from PIL import Image

    source, mask = _source_of(job, width_height)
    return [Image.composite(image.convert("RGB"), source, mask) for image in images]


def _source_of(job: Job, width_height: tuple[int, int]) -> tuple[Any, Any]:
    """(the image of an edit, its mask in mode L or None), both of the size that is drawn.

    Raises:
        RequestError: as `read_image`, `read_mask` and `fitted`.
    """
    assert job.source is not None, "only edits are received"
    image = read_image(job.source, "image")
    mask = None if job.mask is None else fitted(read_mask(job, image.size), width_height, job, smooth=False)
    return fitted(image, width_height, job), mask


def shown(pipeline: "PanGuDrawPipeline", glimpse: Glimpse, moderator: Moderator) -> Partial:
    try:
        images = decoded(pipeline, glimpse.latents_bchw)
    except NotFinite:
        return Partial(glimpse.index, [])
    job = glimpse.job
    return Partial(glimpse.index, files_of(images, job, {}, moderator)[0], job.unread, job.unknown)


def decoded(pipeline: "PanGuDrawPipeline", latents_bchw: "Tensor") -> list[Any]:
    """PIL images of clean latents (B, C, h, w).

    Raises:
        NotFinite: a pixel is NaN or infinite.
    """
    images = []
    for part in latents_bchw.to(pipeline.device).split(MOST_AT_ONCE):
        images += finite_images(pipeline.decode(part, output_type="pt"), pipeline.image_processor)
    return images


def received(pipeline: "PanGuDrawPipeline", job: Job) -> Received:
    import torch

    from pangu.models.autoencoders import encode_pixels

    assert job.source is not None, "only edits are received"
    asked = job.width_height or read_image(job.source, "image").size
    size = checked_size(pipeline, replace(job, width_height=asked))
    image, mask = _source_of(job, size)
    with torch.inference_mode():
        pixels = pipeline.image_processor.preprocess(image).to(pipeline.device)
        latents = encode_pixels(pipeline.vae, pixels).float().cpu()
    return Received(size, latents, None if mask is None else drawn_cells(mask, size[0] // latents.shape[-1]))
