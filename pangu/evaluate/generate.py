"""Drawing a protocol's prompts with a pair: whole, or in two halves, structure up to the boundary, then texture.

The halves are apart so that one structure generator's work can serve many texture generators. An image depends on its prompt's
place alone, so it is the same whichever worker draws it.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffusers
import torch
from PIL import Image

from pangu.actors import Crew, Placement
from pangu.errors import UserError
from pangu.evaluate.eval_set import Material
from pangu.evaluate.prompts import Ask, Prompts
from pangu.evaluate.protocol import Protocol
from pangu.models.devices import best_device
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.progress import Progress, Reporter, silent
from pangu.sampling.levels import is_flow
from pangu.sampling.trajectory import Trajectory, clean_latents

BATCH = 8

Drawn = dict[tuple[Ask, str], list[Image.Image]]
"""(kind of prompt, language) -> one image per prompt."""


@dataclass(frozen=True)
class Asked:
    """At most `BATCH` prompts of one kind, language and style, and their places among those of their kind and language."""

    ask: Ask
    language: str
    places: tuple[int, ...]
    style: str
    captions: tuple[str, ...]


Halfway = list[tuple[Asked, Trajectory]]
"""Prompts, and their trajectory, which stands at the boundary; on the CPU, where it waits for its other half."""


class Hand:
    """What a worker draws with: one pair at a time, made when it is first asked for."""

    def __init__(self, source: Hashable = None, pair: PanGuDrawPipeline | None = None) -> None:
        self._source, self._pair = source, pair

    def pair(self, source: Callable[[], PanGuDrawPipeline]) -> PanGuDrawPipeline:
        if self._pair is None or self._source != source:
            self._pair = None  # before there is the next: a device may not hold two
            self._source, self._pair = source, source()
        return self._pair


@dataclass(frozen=True)
class Drawers:
    """Workers that draw with one pair. source: makes it wherever it is wanted; travels by pickle, and equals itself there."""

    workers: Crew[Hand]
    source: Callable[[], PanGuDrawPipeline]


def alone(pair: PanGuDrawPipeline) -> Drawers:
    """This process, drawing with a pair that it has."""
    source = partial(_given, pair)
    return Drawers(Crew(Placement(), lambda: Hand(source, pair)), source)


def _given(pair: PanGuDrawPipeline) -> PanGuDrawPipeline:
    return pair


def ready(pair: PanGuDrawPipeline, protocol: Protocol) -> PanGuDrawPipeline:
    """The pair with the protocol's sampler, quiet, on the accelerator where there is one.

    Raises:
        UserError: diffusers has no such scheduler.
    """
    # Protocols name samplers of noise; a pair of flows is measured with its own.
    if type(pair.scheduler).__name__ != protocol.scheduler and not is_flow(pair.scheduler):
        pair.scheduler = scheduler_of(protocol.scheduler, pair.scheduler)
    pair.set_progress_bar_config(disable=True)
    return pair.to(best_device())


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


def draw(drawers: Drawers, material: Material, protocol: Protocol, report: Reporter = silent) -> Drawn:
    """An image of every prompt; prompt i has seed protocol.seed + i in every language."""
    job = partial(_draw, source=drawers.source, protocol=protocol)
    return _images(drawers.workers.map(job, asked(material)), material, report)


def structure_half(drawers: Drawers, material: Material, protocol: Protocol, report: Reporter = silent) -> Halfway:
    """Every prompt from pure noise to the boundary."""
    job = partial(_begin_there, source=drawers.source, protocol=protocol)
    found, done = [], Counter[tuple[Ask, str]]()
    for one, trajectory in drawers.workers.map(job, asked(material)):
        found.append((one, trajectory))
        report(_progress("structure", one, done, material))
    return found


def texture_half(drawers: Drawers, halfway: Halfway, material: Material, report: Reporter = silent) -> Drawn:
    """Images from trajectories that stand at the boundary; they can be used again, for they are not changed."""
    job = partial(_finish_there, source=drawers.source)
    finished = drawers.workers.map(job, halfway)
    return _images(((one, images) for (one, _), images in finished), material, report)


def _images(drawn: Iterator[tuple[Asked, list[Image.Image]]], material: Material, report: Reporter) -> Drawn:
    """In the order of the prompts, whatever the order in which they were drawn."""
    found: dict[tuple[Ask, str], dict[int, Image.Image]] = {}
    done = Counter[tuple[Ask, str]]()
    for one, images in drawn:
        found.setdefault((one.ask, one.language), {}).update(zip(one.places, images, strict=True))
        report(_progress("evaluate", one, done, material))
    kinds = {
        (ask, language): texts for ask, own in material.prompts.items() for language, texts in own.captions.items()
    }
    return {kind: [found[kind][place] for place in range(len(texts))] for kind, texts in kinds.items()}


def _progress(stage: str, one: Asked, done: Counter[tuple[Ask, str]], material: Material) -> Progress:
    """Counts the prompts of `one` as done."""
    done[one.ask, one.language] += len(one.places)
    total = len(material.prompts[one.ask].captions[one.language])
    name = f"{stage}-{one.ask}-{one.language}"
    return Progress(stage=name, done=done[one.ask, one.language], total=total, unit="images")


def _draw(hand: Hand, one: Asked, source: Callable[[], PanGuDrawPipeline], protocol: Protocol) -> list[Image.Image]:
    pair = hand.pair(source)
    return finish(pair, begin(pair, one, protocol))


def _begin_there(hand: Hand, one: Asked, source: Callable[[], PanGuDrawPipeline], protocol: Protocol) -> Trajectory:
    return begin(hand.pair(source), one, protocol).to("cpu")


def _finish_there(
    hand: Hand, begun: tuple[Asked, Trajectory], source: Callable[[], PanGuDrawPipeline]
) -> list[Image.Image]:
    pair = hand.pair(source)
    return finish(pair, begun[1].to(pair.device))


def asked(material: Material) -> Iterator[Asked]:
    """All prompts, in the batches that they are drawn in."""
    for ask, prompts in material.prompts.items():
        for language, captions in prompts.captions.items():
            for places, style in batches(prompts):
                yield Asked(ask, language, places, style, tuple(captions[place] for place in places))


def batches(prompts: Prompts) -> Iterator[tuple[tuple[int, ...], str]]:
    """(places of at most `BATCH` prompts, the style that they ask for): an image depends on its place, never on its batch."""
    for style, places in prompts.by_style().items():
        for start in range(0, len(places), BATCH):
            yield tuple(places[start : start + BATCH]), style


def scales(pair: Any, style: str, protocol: Protocol) -> dict[str, float]:
    """The style that a pair is asked for and its scale; none of a pair that never learnt the style, which draws as it can."""
    return {style: protocol.styles[style]} if style in pair.styles else {}


@torch.no_grad()
def finish(pair: PanGuDrawPipeline, trajectory: Trajectory) -> list[Image.Image]:
    """The rest of a trajectory and its decoded images; the trajectory itself is left as it is."""
    return list(pair.decode(clean_latents(pair.finish(trajectory.forked()))))


@torch.no_grad()
def begin(pair: PanGuDrawPipeline, one: Asked, protocol: Protocol) -> Trajectory:
    """Prompts from pure noise to the boundary."""
    trajectory = pair.start(
        pair.encode_prompt(one.captions, styles=scales(pair, one.style, protocol)),
        height=pair.resolution,
        width=pair.resolution,
        num_inference_steps=protocol.num_inference_steps,
        guidance_scale=protocol.guidance_scale,
        guidance_scales={} if protocol.texture_guidance is None else {"texture": protocol.texture_guidance},
        generators=[source for place in one.places for source in noise_sources(protocol.seed + place, 1)],
    )
    return pair.advance(trajectory, "structure")


def draw_whole(pipeline: Any, material: Material, protocol: Protocol, report: Reporter = silent) -> Drawn:
    """The same prompts and seeds by a pipeline of any kind with diffusers' arguments: baselines have no halves."""

    def drawn(one: Asked) -> list[Image.Image]:
        found: list[Image.Image] = pipeline(
            list(one.captions),
            num_inference_steps=protocol.num_inference_steps,
            guidance_scale=protocol.guidance_scale,
            generator=[source for place in one.places for source in noise_sources(protocol.seed + place, 1)],
            styles=scales(pipeline, one.style, protocol),
        ).images
        return found

    return _images(((one, drawn(one)) for one in asked(material)), material, report)


def noise_sources(first_seed: int, count: int) -> list[torch.Generator]:
    """One source per image, so that an image does not depend on its batch."""
    return [torch.Generator().manual_seed(first_seed + index) for index in range(count)]
