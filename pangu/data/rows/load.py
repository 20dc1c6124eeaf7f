"""From the folder of an encoded dataset to the rows of one training job."""

from pathlib import Path

import torch

from pangu.config import Recipe, Role
from pangu.data.card import Split
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.rows.mapped import MappedRows, open_mapped
from pangu.data.rows.on_the_fly import OnTheFlyRows, open_on_the_fly
from pangu.data.rows.training_rows import Rows
from pangu.diffusion.training_levels import converted
from pangu.errors import UserError


def load_rows(
    folder: Path,
    role: Role,
    recipe: Recipe | None = None,
    device: torch.device | str = "cpu",
    split: Split = "train",
) -> Rows:
    """One split of what a role trains on, precomputed or encoded on the fly as the dataset was encoded for.

    Lowest timesteps that were told in other noise levels than the recipe's become its own at equal log-SNR.

    On the fly, or where captions are worded anew for each sample, the encoders of `recipe` compute on `device`.

    Raises:
        UserError: the encoded dataset is unfinished, or holds no row for that role, or its encoders are not the recipe's.
    """
    manifest = EncodedManifest.load(folder)
    rows: MappedRows | OnTheFlyRows
    if manifest.latents == "precomputed":
        rows = open_mapped(folder, role, recipe, device, split)
    elif recipe is None:
        raise UserError(f"The dataset {folder.name} is encoded on the fly, which needs the recipe's encoders.")
    else:
        rows = open_on_the_fly(folder, role, recipe, device, split)
    if manifest.admission is None or recipe is None:
        return rows
    return rows.with_limits(converted(rows.min_timestep_n, manifest.admission.schedule, recipe.schedule))
