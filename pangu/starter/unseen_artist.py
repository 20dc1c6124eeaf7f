"""How well an autoencoder brings back each artist's drawings, an artist among them that nothing embedded has learnt from."""

from pathlib import Path

import torch
from diffusers import AutoencoderDC, ModelMixin

from pangu.data.example.artists import ARTISTS, UNSEEN, drawings, in_style, key
from pangu.data.example.openmoji import every_drawing
from pangu.errors import UserError
from pangu.starter.autoencoder import psnr
from pangu.starter.learning_material import pixels

OPENMOJI = "openmoji"
UNSEEN_STYLE = "unseen"
BATCH = 50


def psnr_by_artist(model: ModelMixin, packages: Path, side: int, count: int) -> dict[str, float]:
    """Artist -> mean PSNR in dB of `count` of the drawings at `side` px, spread evenly over what each has.

    Raises:
        UserError: a package is not there, or the autoencoder is of another kind than the embedded one.
    """
    if not isinstance(model, AutoencoderDC):
        raise UserError(f"An AutoencoderDC can be judged, as the embedded one is, and no {type(model).__name__}.")
    every = {OPENMOJI: every_drawing()}
    for style, artist in {**ARTISTS, UNSEEN_STYLE: UNSEEN}.items():
        drawn = drawings(packages, artist)
        every[style] = [in_style(one, style, drawn) for one in every_drawing() if key(one.text) in drawn]
    found: dict[str, float] = {}
    for artist_name, had in every.items():
        few = min(count, len(had))
        chosen = [had[index * len(had) // few] for index in range(few)]
        images = torch.from_numpy(pixels(chosen, side))
        found[artist_name] = sum(psnr(model, batch) * len(batch) for batch in images.split(BATCH)) / few
    return found
