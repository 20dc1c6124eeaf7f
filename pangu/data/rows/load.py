"""From the folders of encoded datasets to the rows of one training job."""

from pathlib import Path

import torch

from pangu.config import Recipe, Role
from pangu.data.card import Split
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.encode.mixture_parts import encoded_parts
from pangu.data.rows.mapped import MappedRows, open_mapped
from pangu.data.rows.mixed_rows import MixedRows
from pangu.data.rows.on_the_fly import OnTheFlyRows, open_on_the_fly
from pangu.data.rows.training_rows import NoRows, Rows
from pangu.diffusion.training_levels import converted
from pangu.errors import UserError


def load_mixture(
    encoded: Path, role: Role, recipe: Recipe, device: torch.device | str = "cpu", split: Split = "train"
) -> Rows:
    """One split of everything that `recipe` trains a role on: the dataset encoded in the folder `encoded`, and its mixture.

    Parts that hold no row out are left out of the held-out split.

    Raises:
        UserError: what `load_rows` raises of any part, or none has a row in the split.
    """
    if recipe.mixture.is_plain:
        return load_rows(encoded, role, recipe, device, split)
    found: list[Rows] = []
    parts, lacking = [], None
    for part in encoded_parts(encoded, recipe):
        try:
            found.append(load_rows(part.folder, role, recipe, device, split, like=found[0] if found else None))
            parts.append(part)
        except NoRows as error:
            if split == "train":
                raise
            lacking = error
    if not found:
        assert lacking is not None
        raise lacking
    return MixedRows([part.dataset for part in parts], found, [part.weight for part in parts])


def load_rows(
    folder: Path,
    role: Role,
    recipe: Recipe | None = None,
    device: torch.device | str = "cpu",
    split: Split = "train",
    like: Rows | None = None,
) -> Rows:
    """One split of what a role trains on, precomputed or encoded on the fly as the dataset was encoded for.

    Lowest timesteps that were told in other noise levels than the recipe's become its own at equal log-SNR.

    On the fly, or where captions are worded anew for each sample, the encoders of `recipe` compute on `device`: those of `like`,
    rows of another dataset of a mixture, whose encoders are known to be the same.

    Raises:
        UserError: the encoded dataset is unfinished, or holds no row for that role, or its encoders are not the recipe's.
    """
    manifest = EncodedManifest.load(folder)
    rows: MappedRows | OnTheFlyRows
    if manifest.latents == "precomputed":
        rows = open_mapped(folder, role, recipe, device, split, like if isinstance(like, MappedRows) else None)
    elif recipe is None:
        raise UserError(f"The dataset {folder.name} is encoded on the fly, which needs the recipe's encoders.")
    else:
        rows = open_on_the_fly(folder, role, recipe, device, split, like if isinstance(like, OnTheFlyRows) else None)
    if manifest.admission is None or recipe is None:
        return rows
    return rows.with_limits(converted(rows.min_timestep_n, manifest.admission.schedule, recipe.schedule))
