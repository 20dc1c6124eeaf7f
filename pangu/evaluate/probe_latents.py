"""A sample of a dataset as latents and text embeddings, for whatever is measured on the denoisers themselves.

Only originals: an upscaled image is no truth about detail.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pangu.contract import GeneratorContract
from pangu.data.card import Split
from pangu.data.encode.pixels import fit_pixels
from pangu.data.table.chosen_images import chosen_images
from pangu.data.table.row_batches import row_batches
from pangu.diffusion.presets import preset_index
from pangu.errors import UserError
from pangu.evaluate.eval_set import rows_of
from pangu.evaluate.prompts import prompt_keys, prompts_of
from pangu.evaluate.row_choice import COLUMNS, sorted_rows
from pangu.evaluate.timestep_loss import CleanLatents
from pangu.models.autoencoders import encode_pixels
from pangu.models.denoisers import denoise
from pangu.models.text import TextTower, embed_captions, styled_caption
from pangu.sampling.question import Denoiser
from pangu.storage import Home

BATCH = 16


def originals(
    home: Home,
    dataset: str,
    version: int,
    split: Split,
    count: int | None,
    seed: int,
    prefixes: Mapping[str, str] | None = None,
) -> tuple[list[bytes], list[str]]:
    """Encoded images of a seeded choice of a split's originals, and one caption of each, its languages in turn.

    prefixes: style -> what its captions begin with.

    Raises:
        UserError: the split has no captioned originals.
    """
    styles = tuple(prefixes or {})
    with sorted_rows(row_batches(home, dataset, version, COLUMNS, upscaled=False), styles) as listed:
        languages = listed.languages()
        keys = prompt_keys(listed, split, languages, count, seed) if languages else []
    if not keys:
        raise UserError(f"Dataset '{dataset}', version {version}, has no captioned originals in split '{split}'.")
    prompts = prompts_of(rows_of(home, dataset, version, keys), keys, split, languages, styles)
    found = dict(chosen_images(home, dataset, version, prompts.keys, upscaled=False))
    images = [found[key] for key in prompts.keys]
    captions = [prompts.captions[languages[index % len(languages)]][index] for index in range(len(images))]
    begins = [(prefixes or {}).get(prompts.style(index)) for index in range(len(images))]
    return images, [
        styled_caption(text, prefix) if prefix else text for text, prefix in zip(captions, begins, strict=True)
    ]


def encode_images(arrays: Sequence[np.ndarray], autoencoder: Any) -> Tensor:
    """(N, C, H, W) float32 latents, scaled for diffusion, of equally sized (side, side, 3) uint8 images; on the CPU."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(arrays), BATCH):
            pixels = torch.from_numpy(np.stack(arrays[start : start + BATCH])).permute(0, 3, 1, 2) / 127.5 - 1
            found.append(encode_pixels(autoencoder, pixels.to(autoencoder.device)).float().cpu())
    return torch.cat(found)


def encode_sample(
    images: Sequence[bytes], captions: Sequence[str], side: int, autoencoder: Any, towers: list[TextTower], tokens: int
) -> CleanLatents:
    """Images and captions as a denoiser meets them, at `side` px, captions padded or cut to `tokens` tokens."""
    latents = encode_images([fit_pixels(image, side) for image in images], autoencoder)
    tokens_nsc, pooled = embed_captions(towers, captions, tokens)
    return CleanLatents(latents, tokens_nsc.float().cpu(), pooled.float().cpu())


def denoiser_of(network: Any, contract: GeneratorContract, side: int, whole_range: bool = False) -> Denoiser:
    """The network as a function on the CPU's tensors, for square images of `side` px.

    It refuses timesteps that the contract says it never trained, unless `whole_range`.
    """
    native = contract.resolution // contract.spatial_factor
    trained = contract.resolution
    square = preset_index(trained, trained, trained, contract.presets, contract.spatial_factor)

    def predict(noisy: Tensor, timestep: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
        if not whole_range:
            for t in (timestep.min(), timestep.max()):
                contract.interval.check(float(t), contract.role)
        place = {"device": network.device, "dtype": network.dtype}
        moved = noisy.to(**place), timestep.to(network.device), tokens.to(**place), pooled.to(**place)
        return denoise(network, *moved, square, native_size=(native, native)).float().cpu()

    return predict
