"""From drawn images to numbers: which judges are loaded, and what each of them says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pangu.errors import UserError
from pangu.evaluate import distribution
from pangu.evaluate.clip_score import ClipScorer
from pangu.evaluate.eval_set import Material
from pangu.evaluate.features import thumbnails
from pangu.evaluate.generate import Drawn
from pangu.evaluate.inception import Inception
from pangu.evaluate.prompts import Ask
from pangu.evaluate.protocol import Metric, Protocol, lower_is_better

POOLS: dict[str, Ask] = {
    "retrieval": "train", "memory": "train", "understanding": "held_out", "templates": "templates", "keywords": "keywords",
}  # fmt: skip
"""Which prompts each retrieval figure asks."""


@dataclass(frozen=True)
class Judges:
    """The networks that judge, those that were asked for."""

    inception: Inception | None = None
    clip: ClipScorer | None = None
    cn_clip: ClipScorer | None = None

    @property
    def weights(self) -> dict[str, str]:
        """Content hash of each; part of the protocol, because another judge gives other numbers."""
        return {name: judge.hash for name, judge in vars(self).items() if judge is not None}


def load_judges(inception: Path | None, clip: str | None, cn_clip: str | None) -> Judges:
    """Raises UserError if one of the sources holds no such network."""
    return Judges(
        inception=Inception(inception) if inception is not None else None,
        clip=ClipScorer(clip, "clip") if clip is not None else None,
        cn_clip=ClipScorer(cn_clip, "chinese_clip") if cn_clip is not None else None,
    )


def implied_metrics(judges: Judges, styled: bool = False) -> tuple[Metric, ...]:
    """What is measured if nobody says: retrieval, styles where prompts ask for them, and whatever the loaded judges are for."""
    metrics: tuple[Metric, ...] = ("retrieval", "style") if styled else ("retrieval",)
    if judges.inception is not None:
        metrics += ("fid", "kid", "is")
    if judges.clip is not None:
        metrics += ("clip",)
    return metrics + (("cn_clip",) if judges.cn_clip is not None else ())


def check_judges(metrics: Sequence[Metric], judges: Judges) -> None:
    """Raises UserError if a metric needs a network that was not given."""
    needs = {"is": ("inception", "--inception PATH"), "clip": ("clip", "--clip"), "cn_clip": ("cn_clip", "--cn-clip")}
    for metric in metrics:
        if metric in needs and getattr(judges, needs[metric][0]) is None:
            raise UserError(f"The metric '{metric}' needs a network of its own; name one with {needs[metric][1]}.")


def distances(material: Material, drawn: Drawn, protocol: Protocol, judges: Judges) -> dict[str, float]:
    """fid, kid and is of the protocol per language: what only many images together have.

    Raises:
        UserError: too few images for a metric; the sentence names it.
    """
    # The true images of the prompts, so that both sets are equally large.
    real = [material.images[key] for key in material.prompts[protocol.split].keys]
    return {
        f"{name}_{language}": value
        for language in material.languages
        for name, value in _distribution(real, drawn[protocol.split, language], protocol, judges)
    }


def worst_of_languages(metrics: dict[str, float], languages: Sequence[str]) -> dict[str, float]:
    """Under the plain names, the worse of the languages: a pair has to serve them all."""
    worst: dict[str, float] = {}
    for name, value in metrics.items():
        for language in languages:
            if name.endswith(f"_{language}"):
                plain = name.removesuffix(f"_{language}")
                pick = max if lower_is_better(plain) else min
                worst[plain] = pick(worst.get(plain, value), value)
    return worst


def _distribution(
    real: list[Image.Image], images: list[Image.Image], protocol: Protocol, judges: Judges
) -> list[tuple[str, float]]:
    """(name, value) of fid, kid and is, each named after its feature space."""
    asked = [metric for metric in ("fid", "kid", "is") if metric in protocol.metrics]
    if not asked:
        return []
    space, found = protocol.feature_space, []
    if "fid" in asked or "kid" in asked:
        real_nd, drawn_md = _features(real, judges), _features(images, judges)
        if "fid" in asked:
            found.append((f"fid_{space}", distribution.fid(real_nd, drawn_md)))
        if "kid" in asked:
            found.append((f"kid_{space}", distribution.kid(real_nd, drawn_md, protocol.seed)))
    if "is" in asked and judges.inception is not None:
        probabilities = judges.inception.probabilities(images)
        splits = 10 if len(images) >= 5000 else 1
        found.append((f"is_{space}", distribution.inception_score(probabilities, splits, protocol.seed)))
    return found


def _features(images: list[Image.Image], judges: Judges) -> Tensor:
    return judges.inception.features(images) if judges.inception is not None else torch.from_numpy(thumbnails(images))
