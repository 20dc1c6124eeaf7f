"""What is to be encoded for which job, from the facts of the rows alone. Reads no image and loads no model."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pangu.config import Recipe, Role
from pangu.data.encode.encoded import EncodedManifest, Encoders, text_of
from pangu.data.encode.views import JobData, fill_buckets, job_data, kept_presets
from pangu.data.table.admission_levels import AdmissionLevels
from pangu.data.table.delta import files_digest
from pangu.data.table.row_batches import row_batches
from pangu.data.table.versions import admission_of
from pangu.errors import UserError
from pangu.models.autoencoders import autoencoder_hash, load_autoencoder
from pangu.storage import Home

FACTS = ["width", "height", "original_width", "original_height", "split", "style", "upscaled"]


def plan(dataset: str, version: int, recipe: Recipe, home: Home, encoders: Encoders) -> EncodedManifest:
    """What is to be encoded for which job, from the facts of the rows alone; no image is read.

    Raises:
        UserError: a job of the recipe would have no row to learn from, or a row has a style that the recipe does not know.
    """
    facts = RowFacts(
        {role: (recipe.training(role).rows, recipe.training(role).min_original_side) for role in recipe.roles}
    )
    for rows in row_batches(home, dataset, version, FACTS):
        facts.add(rows)
    if facts.rows == 0:
        raise UserError(f"Version {version} of dataset '{dataset}' has no rows; look at the report of `pangu prepare`.")
    check_styles(dataset, facts.styles, recipe.styles)
    admission = admission_of(home, dataset, version)
    if facts.has_limited and any(recipe.training(role).rows == "all" for role in recipe.roles):
        check_autoencoder(dataset, admission, recipe, encoders)
    jobs: dict[Role, JobData] = {}
    buckets: dict[Role, dict[int, int]] = {}
    for role in recipe.roles:
        training = recipe.training(role)
        counts = facts.sizes[role]
        if not counts:
            raise UserError(nothing_to_learn(dataset, role, recipe))
        kept = kept_presets(counts, training, encoders.spatial_factor)
        jobs[role] = job_data(training, encoders.spatial_factor, kept)
        buckets[role] = fill_buckets(counts, jobs[role].view)
    return EncodedManifest(
        dataset=dataset,
        version=version,
        files=files_digest(home, dataset, version),
        latents=recipe.execution.latents,
        text=text_of(recipe),
        encoders=encoders,
        admission=admission,
        styles=recipe.styles,
        jobs=jobs,
        buckets=buckets,
    )


@dataclass
class RowFacts:
    """What planning asks of all rows together. jobs: which rows each job reads, and how large their originals are at least, px.

    sizes: how many training images of each (height, width) each job sees; has_limited: whether any was upscaled.
    """

    jobs: Mapping[Role, tuple[str, int]]
    rows: int = 0
    styles: set[str] = field(default_factory=set)
    has_limited: bool = False
    sizes: dict[Role, Counter[tuple[int, int]]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, rows: pa.Table) -> None:
        """Some more rows, with the columns `FACTS`."""
        self.rows += rows.num_rows
        self.styles.update(style for style in rows["style"].unique().to_pylist() if style)
        self.has_limited |= bool((np.asarray(rows["upscaled"]) & (np.asarray(rows["split"]) == "train")).any())
        for role, (kind, min_original_side) in self.jobs.items():
            self.sizes[role].update(count_sizes(rows, kind == "originals", min_original_side))


def count_sizes(facts: pa.Table, originals: bool, min_original_side: int) -> Counter[tuple[int, int]]:
    """Training images of each (height, width) that a job with these filters sees."""
    chosen = np.asarray(facts["split"]) == "train"
    chosen &= original_side(facts) >= min_original_side
    if originals:
        chosen &= ~np.asarray(facts["upscaled"])
    sizes = np.stack([np.asarray(facts["height"]), np.asarray(facts["width"])], axis=1)[chosen]
    found, counts = np.unique(sizes, axis=0, return_counts=True)
    return Counter({(int(h), int(w)): int(count) for (h, w), count in zip(found, counts, strict=True)})


def original_side(rows: pa.Table) -> np.ndarray:
    """(N,) smaller side of each image before it was upscaled, px."""
    return np.minimum(np.asarray(rows["original_width"]), np.asarray(rows["original_height"]))


def check_styles(dataset: str, found: Set[str], styles: dict[str, str]) -> None:
    """Raises UserError if rows have a style that a recipe with styles does not know; found: those of all rows."""
    if styles and (unknown := sorted(set(found) - styles.keys())):
        raise UserError(
            f"Rows of dataset '{dataset}' have the style '{unknown[0]}', but the recipe's styles are {', '.join(styles)}; "
            f"give it a prefix in the recipe's styles, or correct the card."
        )


def check_autoencoder(dataset: str, admission: AdmissionLevels | None, recipe: Recipe, encoders: Encoders) -> None:
    """Raises UserError if upscaled rows were admitted by what noise hides in the latents of another autoencoder."""
    theirs = None if admission is None else admission.autoencoder
    if theirs is None or theirs == recipe.autoencoder:
        return
    try:
        same = autoencoder_hash(load_autoencoder(theirs)) == encoders.autoencoder_hash
    except UserError:
        same = False
    if not same:
        raise UserError(
            f"The lowest timesteps of dataset '{dataset}' were estimated in the latents of {theirs.source}, but recipe "
            f"'{recipe.name}' encodes with {recipe.autoencoder.source}; name it in the card's upscale.admission.autoencoder and "
            f"run `pangu prepare` again."
        )


def nothing_to_learn(dataset: str, role: Role, recipe: Recipe) -> str:
    """The sentence for a job without rows."""
    training = recipe.training(role)
    if training.min_original_side:
        return (
            f"No training image of dataset '{dataset}' has a smaller side of {training.min_original_side} px or more, so the "
            f"{role} generator has nothing to learn from; lower min_original_side in the recipe or add larger images."
        )
    if training.rows == "originals":
        return (
            f"No image of dataset '{dataset}' is above its size threshold, so the {role} generator has nothing to learn "
            f"from; lower texture_min_side in its card or add larger images."
        )
    return f"All rows of dataset '{dataset}' are held out, so the {role} generator has nothing to learn from."
