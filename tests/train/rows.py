"""Small random training rows, for tests that need a trainer but no dataset."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from pangu.config import DenoiserConfig, NoiseSchedule, Optimization, Recipe
from pangu.data.rows.in_memory import EncodedRows
from pangu.data.rows.training_rows import Rows
from pangu.diffusion.interval import TimeInterval
from pangu.recipes import tiny
from pangu.train.sampler import DeterministicSampler
from pangu.train.timestep_sampler import TimestepSampler, timestep_sampler


def random_rows(count: int = 12, side: int = 4, min_timestep: int = 0, buckets: int = 1) -> EncodedRows:
    """`count` rows of unit noise in the shapes of the tiny recipe, in `buckets` buckets of equal size."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).half()

    return EncodedRows(
        keys=tuple(f"{index:03d}" for index in range(count)),
        latents_nchw=draw(count, 4, side, side),
        tokens_lnsc=draw(2, count, 6, 8),
        pooled_lnp=draw(2, count, 8),
        min_timestep_n=torch.full((count,), min_timestep),
        preset_n=torch.arange(count) % buckets,
        empty_tokens_sc=draw(6, 8),
        empty_pooled_p=draw(8),
    )


@contextmanager
def order_of_before() -> Iterator[None]:
    """Trainings draw their rows in the order of before it was computed: what these tests see happens to happen in it."""
    with pytest.MonkeyPatch.context() as patch:
        name = "pangu.train.loop.DeterministicSampler"
        patch.setattr(name, lambda *told: DeterministicSampler(*told[:4], "shuffled"))
        yield


def plain_timesteps(rows: Rows, interval: TimeInterval) -> TimestepSampler:
    """Uniform ones over whole timesteps."""
    return timestep_sampler(rows, interval, NoiseSchedule(), Optimization())


def small_recipe(steps: int = 6, batch_size: int = 4, checkpoint_every: int = 1, **optimization: object) -> Recipe:
    """The tiny recipe with another length; a checkpoint after every step unless asked otherwise."""
    recipe = tiny()
    training = {"steps": steps, "batch_size": batch_size}
    return recipe.model_copy(
        update={
            "jobs": {role: job.model_copy(update=training) for role, job in recipe.jobs.items()},
            "optimization": recipe.optimization.model_copy(
                update={"checkpoint_every": checkpoint_every} | optimization
            ),
        }
    )


def smallest_recipe(**changes: object) -> Recipe:
    """`small_recipe` with the smallest UNet there is, 11 k parameters: 20 ms a step."""
    denoiser = DenoiserConfig(
        block_out_channels=(8,),
        attention=(False,),
        transformer_layers_per_block=(1,),
        attention_head_dim=8,
        norm_num_groups=4,
        preset_embed_dim=2,
    )
    return small_recipe(**changes).model_copy(update={"denoiser": denoiser})  # type: ignore[arg-type]
