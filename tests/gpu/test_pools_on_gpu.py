"""What a server's pools draw on a GPU, however they run their networks there: what the pipeline draws."""

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import pangu
from pangu.pipelines.assemble import starting_pair
from pangu.recipes import demo
from pangu.serve.inference.local import LocalEngine
from pangu.serve.inference.messages import Job, Release, ReleaseRouting
from pangu.serve.settings import PoolSettings, ServeSettings
from tests.gpu import DEVICE, ON_A_GPU

pytestmark = ON_A_GPU
PROMPTS = ("a red apple", "a fox", "画一只狐狸", "blue car", "a house")


class Uncounted:
    """Metrics that nobody reads; those of a server need a package of their own."""

    def __getattr__(self, name: str) -> "Uncounted":
        return self

    def __call__(self, *given: Any, **named: Any) -> "Uncounted":
        return self


def test_a_crowd_gets_the_pictures_that_the_pipeline_draws_alone() -> None:
    """In one precision; batches of other sizes round differently."""
    pair = starting_pair(demo())
    pool = PoolSettings(precision="fp32")
    asks = ServeSettings(structure=pool, texture=pool, decoder=pool, cache_bytes=0)
    studio = LocalEngine(asks, Uncounted(), load=lambda release, part: pair)
    versions = dict.fromkeys(("pair_version", "structure_version", "texture_version", "created"), 0)
    release = Release(folder=Path(pangu.__file__).parent / "assets", sha256="in memory", **versions)

    async def crowd() -> list[bytes]:
        await studio.take(ReleaseRouting(champion=release))
        jobs = [Job(prompt=text, seed=seed, steps=8, guidance_scale=3.0) for seed, text in enumerate(PROMPTS)]
        return [found.files[0] for found in await asyncio.gather(*map(studio.draw, jobs))]

    try:
        files = asyncio.run(crowd())
    finally:
        studio.close()
    assert DEVICE.type == "cpu" or pair.graphs.recorded > 0  # captured is what a GPU serves with
    pair.set_progress_bar_config(disable=True)
    for seed, (text, file) in enumerate(zip(PROMPTS, files, strict=True)):
        generator = torch.Generator().manual_seed(seed)
        alone = pair(text, num_inference_steps=8, guidance_scale=3.0, generator=generator).images[0]
        apart = np.asarray(alone, np.float32) - np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), np.float32)
        assert np.abs(apart).mean() < 1.0, text
