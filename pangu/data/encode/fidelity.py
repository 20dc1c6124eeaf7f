"""How much of the pictures an autoencoder keeps: what no generator trained on its latents can ever draw again."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from pangu.config import Frozen
from pangu.data.encode.pixels import fit_pixels
from pangu.data.encode.view_latents import pixel_latents
from pangu.data.table.rows_file import RowsFile
from pangu.diffusion.presets import Size
from pangu.models.autoencoders import decode_latents
from pangu.storage import read_json, write_json

FILE = "autoencoder.json"
PIXELS, FEWEST, MOST = 2**21, 4, 32
"""So many pixels are looked at, in at least and at most so many pictures."""
LOST_BELOW_DB = 28.0
"""Mean PSNR below which detail is visibly gone from drawings."""


class Fidelity(Frozen):
    """PSNR in dB (of 255 levels) of decoded latents against their pictures."""

    images: int
    mean_db: float
    worst_db: float
    worst_key: str

    @property
    def warning(self) -> str:
        """What to do where the pictures are lost; empty where they are kept."""
        if self.mean_db >= LOST_BELOW_DB:
            return ""
        return (
            f"The autoencoder keeps only {self.mean_db:.1f} dB of the pictures (mean of {self.images}; {self.worst_db:.1f} dB of "
            f"{self.worst_key[:12]}), and no training brings back what it loses; name one trained on such pictures "
            f"in the recipe's autoencoder.source."
        )

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, self.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> "Fidelity | None":
        """None for datasets that were encoded before it was measured."""
        try:
            return cls.model_validate(read_json(folder / FILE))
        except (OSError, ValueError, ValidationError):
            return None


def measure(files: list[str], size: Size, autoencoder: torch.nn.Module) -> Fidelity | None:
    """Of pictures spread evenly over `files` of a dataset, fitted to `size` (height, width) in px; None if there is no row."""
    count = int(np.clip(PIXELS // (size[0] * size[1]), FEWEST, MOST))
    found = {key: psnr_db(fit_pixels(image, *size), autoencoder) for key, image in _spread(files, count)}
    if not found:
        return None
    worst = min(found, key=lambda key: found[key])
    return Fidelity(
        images=len(found), mean_db=float(np.mean(list(found.values()))), worst_db=found[worst], worst_key=worst
    )


@torch.no_grad()
def psnr_db(pixels_hwc: np.ndarray, autoencoder: torch.nn.Module) -> float:
    """Peak signal-to-noise ratio in dB of one (H, W, 3) uint8 picture after encoding and decoding."""
    decoded = decode_latents(autoencoder, pixel_latents(np.stack([pixels_hwc]), autoencoder))[0].float().cpu()
    restored = ((decoded.permute(1, 2, 0).numpy() + 1) * 127.5).clip(0, 255)
    error = float(np.square(restored - pixels_hwc).mean())
    return float(10 * np.log10(255**2 / max(error, 1e-6)))


def _spread(files: list[str], count: int) -> Iterator[tuple[str, bytes]]:
    """Key and bytes of about `count` rows, the same from every file that is looked at."""
    chosen = files[:: max(len(files) // count, 1)][:count]
    for file in chosen:
        with RowsFile(file) as source:
            rows = source.read_row_group(0, columns=["key", "image"]) if source.num_row_groups else None
        if rows is not None:
            share = -(-count // len(chosen))
            for index in range(0, rows.num_rows, max(rows.num_rows // share, 1))[:share]:
                yield rows["key"][index].as_py(), rows["image"][index].as_py()
