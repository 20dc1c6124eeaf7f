"""From drawn images to what each prompt's image reached: retrieval, style, colour outside, CLIP scores.

Distances have no such value.
"""

from collections.abc import Sequence

import numpy as np

from pangu.errors import UserError
from pangu.evaluate.eval_set import Material
from pangu.evaluate.generate import Drawn
from pangu.evaluate.metrics import POOLS, Judges, distances, worst_of_languages
from pangu.evaluate.outside import outside
from pangu.evaluate.prompts import Prompts, template_of
from pangu.evaluate.protocol import Protocol
from pangu.evaluate.retrieval import rank_any
from pangu.evaluate.scored_prompts import PromptScores
from pangu.evaluate.style_judge import StyleJudge

NO_STYLE = "none"
"""How figures name the rows that have no style, or none that prompts ask for."""


def prompt_scores(material: Material, drawn: Drawn, protocol: Protocol, judges: Judges) -> PromptScores:
    """Every number of the protocol that a single image has.

    Raises:
        UserError: no original has a white ground, which the metric `outside` needs.
    """
    values: dict[str, dict[str, float]] = {}
    if "retrieval" in protocol.metrics:
        for name in material.pools:
            values |= _retrieval(name, material, drawn, protocol)
    if "style" in protocol.metrics and material.style_judge is not None:
        values |= _styles(material.style_judge, material, drawn)
    if "outside" in protocol.metrics:
        values |= _outside(material, drawn)
    prompts = material.prompts[protocol.split]
    for metric, language, judge in (("clip", "en", judges.clip), ("cn_clip", "zh", judges.cn_clip)):
        if metric in protocol.metrics and judge is not None and language in material.languages:
            scores = judge.scores(drawn[protocol.split, language], prompts.captions[language])
            values[f"{metric}_score_{language}"] = dict(zip(prompts.keys, scores, strict=True))
    return PromptScores(values=values)


def _retrieval(name: str, material: Material, drawn: Drawn, protocol: Protocol) -> dict[str, dict[str, float]]:
    """Shares and similarity over all prompts of a figure, over those of each style, and over those in each template."""
    ask = POOLS[name]
    prompts, values = material.prompts[ask], {}
    for language in prompts.captions:
        found = _ranked(name, language, material, drawn)
        groups: dict[str, Sequence[int]] = {name: range(len(prompts))}
        groups |= {f"{name}_{style}": places for style, places in _named_styles(prompts).items()}
        if ask == "templates":
            own = protocol.templates[language]
            for number in range(len(own)):
                inside = [place for place in range(len(prompts)) if template_of(place, own) == number]
                groups |= {f"{name}_t{number + 1}": inside} if inside else {}
        for group, places in groups.items():
            for part, scores in found.items():
                values[f"{group}_{part}_{language}"] = {prompts.keys[place]: scores[place] for place in places}
    return values


def _ranked(name: str, language: str, material: Material, drawn: Drawn) -> dict[str, list[float]]:
    """What each image of a figure reached among the candidates of its own style."""
    ask = POOLS[name]
    prompts, truths = material.prompts[ask], material.prompts[ask].truths_of(language)
    found: dict[str, list[float]] = {}
    for style, places in prompts.by_style().items():
        images = [drawn[ask, language][place] for place in places]
        ranking = rank_any(images, [truths[place] for place in places], material.pool(name, style))
        for part, scores in ranking.values.items():
            own = found.setdefault(part, [0.0] * len(prompts))
            for place, score in zip(places, scores, strict=True):
                own[place] = score
    return found


def _styles(judge: StyleJudge, material: Material, drawn: Drawn) -> dict[str, dict[str, float]]:
    """Whether each image of a caption as listed, trained or not, is in the style that its row has."""
    values: dict[str, dict[str, float]] = {}
    for ask in ("train", "held_out"):
        if ask in material.prompts:
            prompts = material.prompts[ask]
            for language in prompts.captions:
                right = [
                    float(found == prompts.style(place))
                    for place, found in enumerate(judge.names(drawn[ask, language]))
                ]
                groups: dict[str, Sequence[int]] = {"style": range(len(prompts))}
                groups |= {f"style_{style}": places for style, places in _named_styles(prompts).items()}
                for group, places in groups.items():
                    own = values.setdefault(f"{group}_accuracy_{language}", {})
                    own |= {prompts.keys[place]: right[place] for place in places}
    return values


def _originals_accuracy(judge: StyleJudge, material: Material) -> float:
    """The share of true images in whose style the classifier is right: what a perfect pair would reach."""
    asked = [material.prompts[ask] for ask in ("train", "held_out") if ask in material.prompts]
    true = {key: prompts.style(place) for prompts in asked for place, key in enumerate(prompts.keys)}
    found = judge.names([material.images[key] for key in true])
    return float(np.mean([style == name for style, name in zip(true.values(), found, strict=True)]))


def _outside(material: Material, drawn: Drawn) -> dict[str, dict[str, float]]:
    """Of images of trained captions as listed, whose shape is known; originals without a white ground are left out."""
    prompts, values = material.prompts["train"], {}
    for language in prompts.captions:
        pairs = zip(prompts.keys, drawn["train", language], strict=True)
        found = {key: outside(image, material.images[key]) for key, image in pairs}
        values[f"outside_{language}"] = {key: value for key, value in found.items() if value is not None}
        if not values[f"outside_{language}"]:
            raise UserError("No original of the prompts has a white ground; leave out the metric 'outside'.")
    return values


def _named_styles(prompts: Prompts) -> dict[str, list[int]]:
    """Name of each style in figures -> places of its prompts; nothing where prompts ask for no style."""
    return {style or NO_STYLE: places for style, places in prompts.by_style().items()} if prompts.styles else {}


def score(
    material: Material, drawn: Drawn, protocol: Protocol, judges: Judges, by_prompt: PromptScores | None = None
) -> dict[str, float]:
    """Every number of the protocol that is read off the images: per language and, without a suffix, the worst of them.

    Raises:
        UserError: too few images for a metric; the sentence names it.
    """
    found = by_prompt or prompt_scores(material, drawn, protocol, judges)
    metrics = found.means | distances(material, drawn, protocol, judges)
    if "retrieval" in protocol.metrics:
        for name in material.pools:
            prompts = material.prompts[POOLS[name]]
            metrics[f"{name}_candidates"] = float(max(len(material.pool(name, style)) for style in prompts.by_style()))
            metrics[f"{name}_prompts"] = float(len(prompts))
    if material.style_judge is not None:
        metrics["style_classifier_accuracy"] = material.style_judge.accuracy
        metrics["style_originals_accuracy"] = _originals_accuracy(material.style_judge, material)
    return metrics | worst_of_languages(metrics, material.languages)
