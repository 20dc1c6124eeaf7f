"""Which rows a card keeps: thresholds on columns that every row has. Pure.

Scores are columns, so that thresholds may change without computing anything again (`pangu dataset refilter`).
"""

from typing import Any, Literal

from pydantic import Field

from pangu.config import Frozen
from pangu.errors import UserError

Measured = Literal["text_area", "nsfw"]


class NearDuplicates(Frozen):
    """When two images count as one picture; the larger original is kept, and what an earlier version kept comes first."""

    max_bits: int = Field(4, ge=0, le=16, description="Of 64 bits of the perceptual hash that may differ")
    max_colour: int = Field(
        12, ge=0, le=255, description="Largest difference of any of 4 x 4 mean colours; the hash itself sees no colour"
    )
    against: tuple[str, ...] = Field(
        (), description="Other datasets, as NAME or NAME@VERSION, whose pictures must not come again: a test set, say"
    )


class SemanticDuplicates(Frozen):
    """When two images show the same by what a network sees in them; which is kept is decided as among near duplicates."""

    model: str = Field(
        min_length=1, description="Folder or hub id of a model that embeds images: CLIP, SigLIP, DINO, ViT"
    )
    min_similarity: float = Field(
        0.95, gt=0, le=1, description="Cosine of two embeddings from which on they are duplicates"
    )


class Filters(Frozen):
    """Thresholds; null means that anything passes."""

    min_side: int | None = Field(None, ge=1, description="Smaller side as downloaded, px")
    max_aspect: float | None = Field(None, ge=1, description="Longer over shorter side")
    min_caption_length: int | None = Field(None, ge=1, description="Characters of the longest caption")
    max_caption_length: int | None = Field(None, ge=1, description="Characters of each caption")
    min_english: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Probability that caption_en is English rather than another language, where it is long enough to tell",
    )
    min_chinese: float | None = Field(None, ge=0, le=1, description="Share of caption_zh's letters that are Han")
    max_text_area: float | None = Field(None, ge=0, le=1, description="Share of the image under text or watermarks")
    max_nsfw: float | None = Field(None, ge=0, le=1, description="Score of an exposed body part")
    min_clip_score: float | None = Field(None, ge=0, le=100, description="100 max(cos, 0) of image and caption")
    min_aesthetic: float | None = Field(None, description="On the scale of the aesthetic model")
    max_min_timestep: int | None = Field(
        None, ge=0, description="Upscaled images that would train fewer timesteps than those from here on are dropped"
    )
    near_duplicates: NearDuplicates | None = Field(None, description="Null: only equal bytes are duplicates")
    semantic_duplicates: SemanticDuplicates | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Null: no network looks for duplicates; needs the extra `filters`",
    )
    measure: tuple[Measured, ...] = Field(
        (), description="Scores to write as columns even without a threshold; both need the extra `filters`"
    )
    clip_model: str | None = Field(None, description="Folder or hub id of a CLIP or Chinese CLIP model")
    aesthetic_model: str | None = Field(
        None, description="Safetensors file with the weight and bias of a linear predictor on that model's embedding"
    )

    def measured(self) -> set[str]:
        """The scores that take a model, and that this card asks for."""
        asked = set[str](self.measure)
        asked |= {name for name in ("text_area", "nsfw") if getattr(self, f"max_{name}") is not None}
        asked |= {"clip_score"} if self.clip_model else set()
        return asked | ({"aesthetic"} if self.aesthetic_model else set())

    def work(self) -> dict[str, Any]:
        """What of this decides how rows are made, not which of them are kept."""
        work = {"measured": sorted(self.measured()), "clip": self.clip_model, "aesthetic": self.aesthetic_model}
        return work | ({"embedding": self.semantic_duplicates.model} if self.semantic_duplicates else {})


REASONS = (
    "small_side", "aspect", "caption_short", "caption_long", "caption_language", "text_overlay", "nsfw", "clip_score",
    "aesthetic", "too_blurry",
)  # fmt: skip


NEEDS = {
    "text_area": "max_text_area",
    "nsfw": "max_nsfw",
    "clip_score": "min_clip_score",
    "aesthetic": "min_aesthetic",
}


def check_measured(filters: Filters, empty: set[str], name: str) -> None:
    """Raises UserError if a threshold asks for a score that no row has (`empty`: columns that are null throughout)."""
    for column, threshold in NEEDS.items():
        if getattr(filters, threshold) is not None and column in empty:
            raise UserError(
                f"Card '{name}' sets filters.{threshold}, but no row has the score '{column}'; measure it first "
                f"({'name filters.clip_model' if column in ('clip_score', 'aesthetic') else 'prepare the dataset again'})."
            )
