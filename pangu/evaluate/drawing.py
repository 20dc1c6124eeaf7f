"""Drawing a protocol's prompts with a pair, in two halves: structure up to the boundary, then texture.

The halves are apart so that one structure generator's work can serve many texture generators. Knows nothing of metrics.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import diffusers
import torch
from PIL import Image

from pangu.diffusion.trajectory import Trajectory, clean_latents
from pangu.errors import UserError
from pangu.evaluate.material import Material
from pangu.evaluate.protocol import Protocol
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.progress import Progress, Reporter, silent

BATCH = 8

Halfway = dict[tuple[str, str], list[Trajectory]]
"""(split, language) -> trajectories that stand at the boundary, in the order of the prompts."""

Drawn = dict[tuple[str, str], list[Image.Image]]
"""(split, language) -> one image per prompt."""


def ready(pair: PanGuDrawPipeline, protocol: Protocol) -> PanGuDrawPipeline:
    """The pair with the protocol's sampler, quiet, on the accelerator where there is one.

    Raises:
        UserError: diffusers has no such scheduler.
    """
    if type(pair.scheduler).__name__ != protocol.scheduler:
        pair.scheduler = scheduler_of(protocol.scheduler, pair.scheduler)
    pair.set_progress_bar_config(disable=True)
    return pair.to("cuda" if torch.cuda.is_available() else "cpu")


def scheduler_of(name: str, trained: Any) -> Any:
    """A scheduler of the class `name` of diffusers over the noise levels of the scheduler `trained`.

    Raises:
        UserError: there is no such class, or it can not be made of them.
    """
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise UserError(f"diffusers has no scheduler '{name}'; name a class such as DDIMScheduler.")
    try:
        return kind.from_config(trained.config)  # type: ignore[attr-defined]
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UserError(f"{name} can not be made of the pair's noise schedule: {error}") from error


def structure_half(
    pair: PanGuDrawPipeline, material: Material, protocol: Protocol, report: Reporter = silent
) -> Halfway:
    """Every prompt from pure noise to the boundary; prompt i has seed protocol.seed + i in every language."""
    halfway: Halfway = {}
    for split, prompts in material.prompts.items():
        for language, captions in prompts.captions.items():
            found: list[Trajectory] = []
            for start in range(0, len(captions), BATCH):
                found.append(_begin(pair, captions[start : start + BATCH], protocol, protocol.seed + start))
                done = min(start + BATCH, len(captions))
                report(Progress(stage=f"structure-{split}-{language}", done=done, total=len(captions), unit="images"))
            halfway[split, language] = found
    return halfway


def texture_half(pair: PanGuDrawPipeline, halfway: Halfway, report: Reporter = silent) -> Drawn:
    """Images from trajectories that stand at the boundary; they can be used again, for they are not changed."""
    drawn: Drawn = {}
    for (split, language), trajectories in halfway.items():
        images: list[Image.Image] = []
        total = sum(len(trajectory.latents_bchw) for trajectory in trajectories)
        for trajectory in trajectories:
            images += finish(pair, trajectory)
            report(_progress(split, language, len(images), total))
        drawn[split, language] = images
    return drawn


@torch.no_grad()
def finish(pair: PanGuDrawPipeline, trajectory: Trajectory) -> list[Image.Image]:
    """The rest of a trajectory and its decoded images; the trajectory itself is left as it is."""
    return list(pair.decode(clean_latents(pair.finish(own_copy(trajectory)))))


def own_copy(trajectory: Trajectory) -> Trajectory:
    """The same state with a history and noise sources of its own: schedulers and generators change as they are used."""
    generators = trajectory.generators
    return replace(
        trajectory,
        scheduler=copy.deepcopy(trajectory.scheduler),
        generators=tuple(generator.clone_state() for generator in generators) if generators else None,
    )


@torch.no_grad()
def _begin(pair: PanGuDrawPipeline, captions: Sequence[str], protocol: Protocol, seed: int) -> Trajectory:
    trajectory = pair.start(
        pair.encode_prompt(captions),
        height=pair.resolution,
        width=pair.resolution,
        num_inference_steps=protocol.num_inference_steps,
        guidance_scale=protocol.guidance_scale,
        generators=noise_sources(seed, len(captions)),
    )
    return pair.advance(trajectory, "structure")


def draw_whole(pipeline: Any, material: Material, protocol: Protocol, report: Reporter = silent) -> Drawn:
    """The same prompts and seeds by a pipeline of any kind with diffusers' arguments: baselines have no halves."""
    drawn: Drawn = {}
    for split, prompts in material.prompts.items():
        for language, captions in prompts.captions.items():
            images: list[Image.Image] = []
            for start in range(0, len(captions), BATCH):
                chunk = list(captions[start : start + BATCH])
                images += pipeline(
                    chunk,
                    num_inference_steps=protocol.num_inference_steps,
                    guidance_scale=protocol.guidance_scale,
                    generator=noise_sources(protocol.seed + start, len(chunk)),
                ).images
                report(_progress(split, language, len(images), len(captions)))
            drawn[split, language] = images
    return drawn


def noise_sources(first_seed: int, count: int) -> list[torch.Generator]:
    """One source per image, so that an image does not depend on its batch."""
    return [torch.Generator().manual_seed(first_seed + index) for index in range(count)]


def _progress(split: str, language: str, done: int, total: int) -> Progress:
    return Progress(stage=f"evaluate-{split}-{language}", done=done, total=total, unit="images")
