"""What the demo did, in figures: `summary.json`."""

from typing import Any

from pydantic import Field

from pangu.config import Frozen
from pangu.demo.queries import LANGUAGES, Answers
from pangu.evaluate.bootstrap import Difference


class Summary(Frozen):
    """What the demo did, in figures; `summary.json` is this."""

    images_listed: int
    images_ingested: int
    images_failed: dict[str, int]
    images_upscaled: int
    dataset_version: int
    dataset_rows: int
    structure_rows: int
    texture_rows: int
    structure_steps: int
    texture_steps: int
    structure_loss: float
    texture_loss: float
    pair_version: int
    prompts: list[dict[str, str]]
    served_images: int
    retrieval_top1: float
    retrieval_top1_before: float = Field(description="The same prompts by the weights that training started from")
    retrieval_top5: float
    retrieval_candidates: int
    retrieval_by_language: dict[str, dict[str, float]]
    without_style_by_language: dict[str, dict[str, float]] = Field(
        description="Retrieval among OpenMoji's own drawings, the style not asked for: whether the look of before stays"
    )
    unseen_by_language: dict[str, dict[str, float]]
    gain_by_language: dict[str, dict[str, Difference]] = Field(
        description="Retrieval of captions trained: after this training minus before it, prompt by prompt, 95 % interval. "
        "The embedded pair has never seen the demo's style"
    )
    stage_seconds: dict[str, float]
    total_seconds: float
    peak_rss_mb: float


def summarise(
    outcomes: dict[str, Any],
    answers: Answers,
    plain: Answers | None,
    others: Answers | None,
    gained: dict[str, dict[str, Difference]],
    seconds: dict[str, float],
    total_seconds: float,
    peak_mb: float,
) -> Summary:
    """The figures of a run, out of the outcomes of its stages and the answers of the served pair."""
    ingested, prepared, encoded = outcomes["ingest"], outcomes["prepare"], outcomes["encode"]
    structure, texture = outcomes["train-structure"], outcomes["train-texture"]
    asked = [some for some in (answers, plain, others) if some]
    scores = {language: answers.score(language) for language in LANGUAGES}
    return Summary(
        images_listed=ingested["listed"],
        images_ingested=ingested["ok"],
        images_failed=ingested["failed"],
        images_upscaled=prepared["upscaled"],
        dataset_version=prepared["version"],
        dataset_rows=prepared["rows"],
        structure_rows=encoded["rows"]["structure"],
        texture_rows=encoded["rows"]["texture"],
        structure_steps=structure["steps"],
        texture_steps=texture["steps"],
        structure_loss=structure["loss"],
        texture_loss=texture["loss"],
        pair_version=outcomes["release"]["pair_version"],
        prompts=[{"zh": prompt.zh, "en": prompt.en} for prompt in answers.prompts],
        served_images=sum(len(images) for some in asked for images in some.images.values()),
        retrieval_top1=sum(score.top1 for score in scores.values()) / len(scores),
        retrieval_top1_before=sum(scores[name].top1 - gained[name]["top1"].mean for name in LANGUAGES) / len(scores),
        retrieval_top5=sum(score.top5 for score in scores.values()) / len(scores),
        retrieval_candidates=len(answers.truth),
        retrieval_by_language=_by_language(answers),
        without_style_by_language=_by_language(plain),
        unseen_by_language=_by_language(others),
        gain_by_language=gained,
        stage_seconds={name: round(value, 1) for name, value in seconds.items()},
        total_seconds=round(total_seconds, 1),
        peak_rss_mb=round(peak_mb, 1),
    )


def _by_language(answers: Answers | None) -> dict[str, dict[str, float]]:
    if answers is None:
        return {}
    scores = {language: answers.score(language) for language in LANGUAGES}
    return {language: {"top1": score.top1, "top5": score.top5} for language, score in scores.items()}
