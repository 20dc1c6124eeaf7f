"""The decoder pool: clean latents -> image files, and the image of an edit -> latents."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pangu.errors import NotFinite
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.facts import facts_of, request_of
from pangu.serve.inference.image_encoding import files_of, finite_images, read_image
from pangu.serve.inference.masks import drawn_cells, fitted, read_mask
from pangu.serve.inference.messages import GeneratedImages, Job, PartialImage, PoolResult, Preview, Received, Release
from pangu.serve.inference.moderation import Moderator
from pangu.serve.inference.pool import Pool
from pangu.serve.inference.prepared_job import checked_size
from pangu.serve.settings import DECODED_PIXELS, PoolSettings

if TYPE_CHECKING:
    from torch import Tensor

    from pangu.pipelines.pangu_draw import PanGuDrawPipeline


MOST_AT_ONCE = 4
"""Images that are decoded together; more come in turns, so that ten of them need no more memory."""


class DecoderPool(Pool):
    """The autoencoder, and the moderator of what it decodes.

    decoded_pixels: at once. way: what else a `Pool` takes.
    """

    part = "decoder"

    def __init__(
        self,
        worker: Worker,
        settings: PoolSettings | None = None,
        moderator: Moderator | None = None,
        *,
        decoded_pixels: int = DECODED_PIXELS,
        **way: Any,
    ) -> None:
        super().__init__(worker, settings, **way)
        self._decoded_pixels = decoded_pixels
        self._moderator = moderator or Moderator()

    async def develop(self, pool_result: PoolResult) -> GeneratedImages:
        """The image files of finished latents."""
        async with self._models.acquire(pool_result.release) as pipeline:
            return await self._worker.run(
                lambda: developed(pipeline, pool_result, self._moderator, self._decoded_pixels)
            )

    async def preview(self, preview: Preview) -> PartialImage:
        """The image files of a clean estimate, none where it is not finite; they carry no facts, because they are no results."""
        async with self._models.acquire(preview.release) as pipeline:
            return await self._worker.run(lambda: shown(pipeline, preview, self._moderator, self._decoded_pixels))

    async def receive(self, release: Release, job: Job) -> Received:
        """Latents of the image that an edit begins with, and where its mask lets it be edited.

        Raises:
            RequestError: it is no image, or has a size that this release does not draw; or so is its mask.
        """
        async with self._models.acquire(release) as pipeline:
            return await self._worker.run(lambda: received(pipeline, job))


def developed(
    pipeline: "PanGuDrawPipeline", pool_result: PoolResult, moderator: Moderator, most_pixels: int
) -> GeneratedImages:
    clock = time.perf_counter()
    job, trajectory = pool_result.job, pool_result.trajectory
    scheduler = type(trajectory.scheduler).__name__
    facts = facts_of(pool_result.release, job, scheduler, pool_result.role_steps)
    images = decoded(pipeline, trajectory.latents_bchw, most_pixels)
    if job.mask is not None:
        images = _with_kept_pixels(images, job, pool_result.width_height)
    files, looking = files_of(images, job, facts, moderator)
    decode_s = time.perf_counter() - clock - sum(looking.values())
    seconds = {**pool_result.seconds, "decode": decode_s, **looking}
    return GeneratedImages(
        pool_result.release,
        files,
        pool_result.width_height,
        scheduler,
        request_of(job),
        pool_result.role_steps,
        seconds,
        pool_result.batch_sizes,
        pool_result.cached,
        partners=job.coop.partners if job.coop else (),
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


def shown(pipeline: "PanGuDrawPipeline", preview: Preview, moderator: Moderator, most_pixels: int) -> PartialImage:
    try:
        images = decoded(pipeline, preview.latents_bchw, most_pixels)
    except NotFinite:
        return PartialImage(preview.index, [])
    job = preview.job
    return PartialImage(preview.index, files_of(images, job, {}, moderator)[0], job.unread, job.unknown)


def decoded(pipeline: "PanGuDrawPipeline", latents_bchw: "Tensor", most_pixels: int = DECODED_PIXELS) -> list[Any]:
    """PIL images of clean latents (B, C, h, w).

    most_pixels: of the images that are decoded together; one that is larger comes in tiles where its autoencoder knows how.

    Raises:
        NotFinite: a pixel is NaN or infinite.
    """
    latents = latents_bchw.to(pipeline.device)
    pixels = latents.shape[2] * latents.shape[3] * pipeline.reference.spatial_factor**2
    images = []
    with tiled(pipeline.vae, pixels > most_pixels):
        for part in latents.split(max(1, min(MOST_AT_ONCE, most_pixels // pixels))):
            images += finite_images(pipeline.decode(part, output_type="pt"), pipeline.image_processor)
    return images


@contextmanager
def tiled(autoencoder: Any, wanted: bool) -> Iterator[None]:
    """Within it, large images are decoded in overlapping tiles, where that is `wanted` and the autoencoder knows how."""
    if not wanted or getattr(autoencoder, "use_tiling", None) is not False:
        yield
        return
    autoencoder.enable_tiling()
    try:
        yield
    finally:
        autoencoder.disable_tiling()


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
