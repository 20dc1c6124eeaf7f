"""What each prompt's image reached, kept beside the means, so that two pairs can be compared prompt by prompt.

Owns the numbers that exist for a single image: retrieval and CLIP scores. Distances of distributions have no such value.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pangu.config import Frozen
from pangu.errors import UserError
from pangu.evaluate.drawing import Drawn
from pangu.evaluate.judges import POOLS, Judges, distances, worst_of_languages
from pangu.evaluate.material import Material
from pangu.evaluate.protocol import Protocol
from pangu.evaluate.retrieval import rank
from pangu.storage import read_json, write_json

SUFFIX = ".prompts.json"


class PromptScores(Frozen):
    """Metric with its language, e.g. `understanding_top1_zh` -> key of the row whose caption was drawn -> value."""

    values: dict[str, dict[str, float]]

    @property
    def means(self) -> dict[str, float]:
        return {name: float(np.mean(list(of.values()))) for name, of in self.values.items()}

    def save(self, path: Path) -> None:
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> "PromptScores":
        """Raises UserError if the file is not there or holds something else."""
        try:
            return cls.model_validate(read_json(path))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} holds no scores by prompt; run `pangu evaluate` again, which writes them."
            ) from error


def prompt_scores(material: Material, drawn: Drawn, protocol: Protocol, judges: Judges) -> PromptScores:
    """Every number of the protocol that a single image has."""
    values: dict[str, dict[str, float]] = {}
    if "retrieval" in protocol.metrics:
        for name in material.pools:
            values |= _retrieval(name, material, drawn)
    prompts = material.prompts[protocol.split]
    for metric, language, judge in (("clip", "en", judges.clip), ("cn_clip", "zh", judges.cn_clip)):
        if metric in protocol.metrics and judge is not None and language in material.languages:
            scores = judge.scores(drawn[protocol.split, language], prompts.captions[language])
            values[f"{metric}_score_{language}"] = dict(zip(prompts.keys, scores, strict=True))
    return PromptScores(values=values)


def _retrieval(name: str, material: Material, drawn: Drawn) -> Mapping[str, dict[str, float]]:
    prompts, pool = material.prompts[POOLS[name]], material.pool(name)
    rankings = {
        language: rank(drawn[prompts.split, language], prompts.keys, pool).values for language in prompts.captions
    }
    return {
        f"{name}_{part}_{language}": dict(zip(prompts.keys, ranking[part], strict=True))
        for part in ("top1", "top5", "similarity")
        for language, ranking in rankings.items()
    }


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
            metrics[f"{name}_candidates"] = float(len(material.pools[name]))
            metrics[f"{name}_prompts"] = float(len(material.prompts[POOLS[name]]))
    return metrics | worst_of_languages(metrics, material.languages)
