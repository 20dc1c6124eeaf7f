"""Drawing a protocol's prompts with a pair, in two halves: structure up to the boundary, then texture.

The halves are apart so that one structure generator's work can serve many texture generators.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import diffusers
import torch
from PIL import Image

from pangu.diffusion.trajectory import Trajectory, clean_latents
from pangu.errors import UserError
from pangu.evaluate.material import Material
from pangu.evaluate.prompts import Ask, Prompts
from pangu.evaluate.protocol import Protocol
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.progress import Progress, Reporter, silent

BATCH = 8

Halfway = dict[tuple[Ask, str], list[tuple[tuple[int, ...], Trajectory]]]
"""(kind of prompt, language) -> places of prompts, and their trajectory, which stands at the boundary."""

Drawn = dict[tuple[Ask, str], list[Image.Image]]
"""(kind of prompt, language) -> one image per prompt."""


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
    for ask, prompts in material.prompts.items():
        for language, captions in prompts.captions.items():
            found: list[tuple[tuple[int, ...], Trajectory]] = []
            done = 0
            for places, style in batches(prompts):
                texts = [captions[place] for place in places]
                found.append((places, _begin(pair, texts, protocol, places, style)))
                done += len(places)
                report(Progress(stage=f"structure-{ask}-{language}", done=done, total=len(captions), unit="images"))
            halfway[ask, language] = found
    return halfway


def texture_half(pair: PanGuDrawPipeline, halfway: Halfway, report: Reporter = silent) -> Drawn:
    """Images from trajectories that stand at the boundary; they can be used again, for they are not changed."""
    drawn: Drawn = {}
    for (ask, language), trajectories in halfway.items():
        images: dict[int, Image.Image] = {}
        total = sum(len(places) for places, _ in trajectories)
        for places, trajectory in trajectories:
            images |= zip(places, finish(pair, trajectory), strict=True)
            report(_progress(ask, language, len(images), total))
        drawn[ask, language] = [images[place] for place in range(total)]
    return drawn


def batches(prompts: Prompts) -> Iterator[tuple[tuple[int, ...], str]]:
    """(places of at most `BATCH` prompts, the style that they ask for): an image depends on its place, never on its batch."""
    for style, places in prompts.by_style().items():
        for start in range(0, len(places), BATCH):
            yield tuple(places[start : start + BATCH]), style


def scales(pair: Any, style: str, protocol: Protocol) -> dict[str, float]:
    """The style that a pair is asked for and its scale; none of a pair that never learnt the style, which draws as it can."""
    known = pair.config.get("styles") or {}
    return {style: protocol.styles[style]} if style in known else {}


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
def _begin(
    pair: PanGuDrawPipeline, captions: Sequence[str], protocol: Protocol, places: Sequence[int], style: str
) -> Trajectory:
    trajectory = pair.start(
        pair.encode_prompt(captions, styles=scales(pair, style, protocol)),
        height=pair.resolution,
        width=pair.resolution,
        num_inference_steps=protocol.num_inference_steps,
        guidance_scale=protocol.guidance_scale,
        generators=[source for place in places for source in noise_sources(protocol.seed + place, 1)],
    )
    return pair.advance(trajectory, "structure")


def draw_whole(pipeline: Any, material: Material, protocol: Protocol, report: Reporter = silent) -> Drawn:
    """The same prompts and seeds by a pipeline of any kind with diffusers' arguments: baselines have no halves."""
    drawn: Drawn = {}
    for ask, prompts in material.prompts.items():
        for language, captions in prompts.captions.items():
            images: dict[int, Image.Image] = {}
            for places, style in batches(prompts):
                found = pipeline(
                    [captions[place] for place in places],
                    num_inference_steps=protocol.num_inference_steps,
                    guidance_scale=protocol.guidance_scale,
                    generator=[source for place in places for source in noise_sources(protocol.seed + place, 1)],
                    styles=scales(pipeline, style, protocol),
                ).images
                images |= zip(places, found, strict=True)
                report(_progress(ask, language, len(images), len(captions)))
            drawn[ask, language] = [images[place] for place in range(len(captions))]
    return drawn


def noise_sources(first_seed: int, count: int) -> list[torch.Generator]:
    """One source per image, so that an image does not depend on its batch."""
    return [torch.Generator().manual_seed(first_seed + index) for index in range(count)]


def _progress(ask: str, language: str, done: int, total: int) -> Progress:
    return Progress(stage=f"evaluate-{ask}-{language}", done=done, total=total, unit="images")
