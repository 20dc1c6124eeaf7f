"""The encoded datasets of a mixture: where they lie, and what they must share."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path

from pangu.config import Recipe, Role
from pangu.data.encode.encoded import EncodedManifest, Encoders, check_batches, check_encoded, check_views
from pangu.errors import UserError
from pangu.storage import Home


@dataclass(frozen=True)
class EncodedPart:
    """One encoded dataset of a training, and how often each of its rows appears in an epoch."""

    dataset: str
    folder: Path
    weight: float


def encoded_parts(encoded: Path, recipe: Recipe) -> Iterator[EncodedPart]:
    """The encoded dataset that a training is told, in the folder `encoded`, and those that its recipe adds from the same home."""
    home, mixture = Home(encoded.parents[3]), recipe.mixture
    yield EncodedPart(encoded.parents[1].name, encoded, mixture.weight)
    for part in mixture.also:
        yield EncodedPart(part.dataset, home.encoded(part.dataset, part.encode_id), part.weight)


def check_parts(encoded: Path, recipe: Recipe, role: Role) -> None:
    """Of a training on one dataset what `check_encoded` raises.

    Raises:
        UserError: a part of a mixture is missing or named twice, does not share encoders, sizes, styles or conditioning with the
            others, or a preset has fewer rows than a batch in all parts together.
    """
    main = EncodedManifest.load(encoded)
    if recipe.mixture.is_plain:
        check_encoded(main, recipe, role)
        return
    check_views(main, recipe, role)
    rows = Counter[int]()
    for number, part in enumerate(encoded_parts(encoded, recipe)):
        name = f"Part '{part.dataset}' of the mixture of recipe '{recipe.name}'"
        if number and part.dataset == main.dataset:
            raise UserError(f"{name} is the dataset that is trained anyway; give it a weight in mixture.weight.")
        try:
            manifest = EncodedManifest.load(part.folder)
            check_views(manifest, recipe, role)
        except UserError as error:
            raise UserError(f"{name} cannot be used: {error}") from error
        _check_encoders(name, main, manifest)
        for preset, count in manifest.buckets[role].items():
            rows[preset] += floor(Fraction(repr(part.weight)) * count)
    check_batches(rows, main.job(role), recipe, role)


def _check_encoders(name: str, main: EncodedManifest, part: EncodedManifest) -> None:
    for field in Encoders.model_fields:
        ours, theirs = getattr(main.encoders, field), getattr(part.encoders, field)
        if ours != theirs:
            raise UserError(
                f"{name} was encoded with another {field} ({theirs}) than dataset '{main.dataset}' ({ours}); encode both with "
                f"this recipe."
            )
