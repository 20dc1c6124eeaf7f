"""The three pools of a served pair: structure (with the text encoders), texture, decoder.

Each replica loads only its own part and draws one request at a time, in a thread, so its event loop always answers.
Which release a request belongs to is decided once, by the structure pool, and travels with the trajectory.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from pangu.serve.handoff import Handoff, Job, Pictures, Release, RequestError
from pangu.serve.parts import load_part
from pangu.serve.pictures import encode
from pangu.serve.shelf import Shelf

if TYPE_CHECKING:
    from pangu.config import Sampling
    from pangu.diffusion.trajectory import Trajectory
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline

Result = TypeVar("Result")
Stopping = Callable[["Trajectory"], "Trajectory"]


class Cancelled(Exception):
    """The client left; the remaining steps are not worth drawing."""


class Pool:
    """What all pools share: the releases at hand, and the one thread that draws."""

    part: str

    def __init__(self, threads: int | None) -> None:
        import torch

        from pangu.serve.listening import listen_on_node_address

        listen_on_node_address()
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 2) // 2))
        self._shelf: Shelf[PanGuDrawPipeline] = Shelf(self._load)
        self._drawing = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self.part)
        self._current: Release | None = None

    def _load(self, release: Release) -> "PanGuDrawPipeline":
        return load_part(release, self.part)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve calls this with every new `user_config`: load the release, then let new requests use it."""
        release = Release.model_validate(user_config)
        async with self._shelf.hold(release):
            self._current = release

    async def current(self) -> Release | None:
        """The release that new requests get here."""
        return self._current

    async def _draw(self, work: Callable[[Stopping], Result]) -> Result:
        """Run `work` in the drawing thread; if the caller is cancelled it stops at its next step."""
        gone = threading.Event()

        def on_step(trajectory: "Trajectory") -> "Trajectory":
            if gone.is_set():
                raise Cancelled
            return trajectory

        try:
            return await asyncio.get_running_loop().run_in_executor(self._drawing, work, on_step)
        except asyncio.CancelledError:
            gone.set()
            raise


class StructurePool(Pool):
    """Encodes the text, starts from noise and walks to the boundary."""

    part = "structure"

    async def begin(self, job: Job) -> Handoff:
        """Raises RequestError if this release can not draw the request."""
        release = self._current
        assert release is not None, "Serve configures a replica before it sends requests"
        async with self._shelf.hold(release) as pipeline:
            return await self._draw(lambda on_step: _begin(pipeline, release, job, on_step))


class TexturePool(Pool):
    """Walks from the boundary to the clean latents."""

    part = "texture"

    async def finish(self, handoff: Handoff) -> Handoff:
        """Continue a trajectory with the texture generator of the release that began it."""
        async with self._shelf.hold(handoff.release) as pipeline:
            return await self._draw(lambda on_step: _finish(pipeline, handoff, on_step))


class DecoderPool(Pool):
    """Turns clean latents into image files."""

    part = "decoder"

    async def develop(self, handoff: Handoff) -> Pictures:
        async with self._shelf.hold(handoff.release) as pipeline:
            return await self._draw(lambda _: _develop(pipeline, handoff))


def _begin(pipeline: "PanGuDrawPipeline", release: Release, job: Job, on_step: Stopping) -> Handoff:
    import torch

    clock = time.perf_counter()
    defaults = preferred_sampling(pipeline.contract("structure").recipe)
    width, height = job.width_height or (pipeline.resolution, pipeline.resolution)
    check_size(width, height, pipeline.resolution)
    negative = None if job.negative_prompt is None else [job.negative_prompt] * job.images
    with torch.inference_mode():
        conditioning = pipeline.encode_prompt([job.prompt] * job.images, negative)
    text_s = time.perf_counter() - clock
    trajectory = pipeline.start(
        conditioning,
        height=height,
        width=width,
        num_inference_steps=job.steps or defaults.num_inference_steps,
        guidance_scale=defaults.guidance_scale if job.guidance_scale is None else job.guidance_scale,
        # On the CPU whatever the device, so that a seed means the same image everywhere.
        generators=[torch.Generator().manual_seed(job.seed_of(image)) for image in range(job.images)],
    )
    trajectory = pipeline.advance(trajectory, "structure", on_step)
    seconds = {"text": text_s, "structure": time.perf_counter() - clock - text_s}
    return Handoff(release, job, (width, height), trajectory, seconds)


def _finish(pipeline: "PanGuDrawPipeline", handoff: Handoff, on_step: Stopping) -> Handoff:
    clock = time.perf_counter()
    trajectory = pipeline.advance(handoff.trajectory, "texture", on_step)
    if not trajectory.finished:
        raise RuntimeError(
            f"The scheduler went back above the boundary at step {trajectory.step}; it can not be served."
        )
    seconds = handoff.seconds | {"texture": time.perf_counter() - clock}
    return replace(handoff, trajectory=trajectory, seconds=seconds)


def _develop(pipeline: "PanGuDrawPipeline", handoff: Handoff) -> Pictures:
    clock = time.perf_counter()
    job, trajectory, release = handoff.job, handoff.trajectory, handoff.release
    scheduler, steps = type(trajectory.scheduler).__name__, len(trajectory.timesteps)
    facts = {
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt or "",
        "scheduler": scheduler,
        "num_inference_steps": str(steps),
        "guidance_scale": str(trajectory.guidance_scale),
        "pair_version": str(release.pair_version),
        "pair_sha256": release.sha256,
        "Software": "PanGu",
    }
    files = [
        encode(image, job.output_format, job.output_compression, facts | {"seed": str(job.seed_of(index))})
        for index, image in enumerate(pipeline.decode(trajectory.latents_bchw))
    ]
    seconds = handoff.seconds | {"decode": time.perf_counter() - clock}
    return Pictures(release, files, handoff.width_height, scheduler, steps, trajectory.guidance_scale, seconds)


def preferred_sampling(recipe: str) -> "Sampling":
    """Steps and guidance that the recipe of a release was tuned with."""
    from pangu.config import Sampling
    from pangu.recipes import RECIPES

    return RECIPES[recipe]().sampling if recipe in RECIPES else Sampling()


def check_size(width: int, height: int, resolution: int) -> None:
    """Raises RequestError if a release of this base resolution has no such preset (width x height, as in the API)."""
    from pangu.diffusion.presets import presets_for

    presets = presets_for(resolution)
    if (height, width) not in presets:
        known = ", ".join(f"{w}x{h}" for h, w in presets)
        raise RequestError(f"Invalid value for 'size': this model draws {known}, not {width}x{height}.", "size")
