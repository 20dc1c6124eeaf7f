"""What the batches of `encode` cost beside the autoencoder alone.

A batch of the stage begins with pixels of images that other cores have decoded, and ends with bytes in half precision; the
autoencoder alone finds its pixels on the device and leaves its latents there. Beside it stands what a single process makes that
decodes in turn.

    python benchmarks/encode.py --device cuda [--side 512] [--batch 16]
    python benchmarks/encode.py --autoencoder embedded --side 96
"""

import argparse
import io
import statistics
from typing import Any

import numpy as np
import torch
from claims import claim
from device_time import in_turns
from PIL import Image

from pangu.config import AutoencoderSource
from pangu.data.encode.pixels import to_unit
from pangu.data.encode.view_latents import encode_view, pixel_latents, to_bytes
from pangu.data.encode.views import View
from pangu.models.autoencoders import encode_pixels, load_autoencoder
from pangu.planning.operations import kl_autoencoder

ROUNDS = 10


def autoencoder_of(name: str, device: torch.device) -> Any:
    """The embedded one, or one of SDXL's shape with random weights; in bf16 on a GPU, as `encode` has it there."""
    found: Any = load_autoencoder(AutoencoderSource()) if name == "embedded" else kl_autoencoder()
    found.requires_grad_(False).eval()
    return found.to(device, torch.bfloat16) if device.type == "cuda" else found


def pictures(count: int, side: int) -> list[bytes]:
    """Smooth pictures with some noise, as jpeg files of twice the size."""
    generator = np.random.default_rng(0)
    files = []
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(0, 255, (8, 8, 3), np.uint8)).resize((2 * side, 2 * side))
        noise = generator.integers(-12, 12, (2 * side, 2 * side, 3))
        image = Image.fromarray(np.clip(np.asarray(coarse, np.int16) + noise, 0, 255).astype(np.uint8))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoencoder", choices=["sdxl", "embedded"], default="sdxl")
    parser.add_argument("--side", type=int, default=512, help="px")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    autoencoder, files = autoencoder_of(asked.autoencoder, device), pictures(asked.batch, asked.side)
    pixels = np.random.default_rng(1).integers(0, 255, (asked.batch, asked.side, asked.side, 3), np.uint8)
    there = to_unit(pixels, device)
    view, presets = View(sizes=((asked.side, asked.side),), kept=(0,)), [0] * asked.batch
    works = {
        "alone": lambda: torch.no_grad()(encode_pixels)(autoencoder, there),
        "batch": lambda: [to_bytes(latents) for latents in pixel_latents(pixels, autoencoder)],
        "in_turn": lambda: encode_view(files, presets, view, autoencoder, asked.batch),
    }
    took = {name: statistics.median(all_s) for name, all_s in in_turns(works, ROUNDS, device).items()}
    speeds = {name: asked.batch / seconds for name, seconds in took.items()}
    claim("encode_batch", speeds["batch"] / speeds["alone"], side=asked.side, images_per_s=speeds)


if __name__ == "__main__":
    main()
