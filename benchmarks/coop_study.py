"""What `coop_trained.py` measures: pictures of each setting, kept as files, and the figures read off them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from torch.utils.flop_counter import FlopCounterMode

from pangu.data.encode.edges import agreement, edge_picture, find_edges
from pangu.evaluate import distribution
from pangu.evaluate.eval_set import Material
from pangu.evaluate.features import similarity, thumbnails
from pangu.evaluate.generate import noise_sources
from pangu.evaluate.retrieval import rank_of_truth, retrieval
from pangu.image_grid import FAINT, INK, sample_grid, write
from pangu.pipelines.coop import CoopPipeline
from pangu.storage import read_json, write_json

BATCH, SEED, STEPS, GUIDANCE = 8, 1234, 20, 3.0
LOW, HIGH = 48, 96

Draw = Callable[[slice, list[torch.Generator]], list[Image.Image]]
"""Draws the prompts of a slice, each from its own source of noise."""


@dataclass(frozen=True)
class Study:
    """Held-out prompts, their true drawings, and where the pictures of each setting are kept."""

    material: Material
    folder: Path

    @property
    def count(self) -> int:
        return len(self.material.prompts["held_out"])

    @property
    def truth(self) -> list[Image.Image]:
        """(N) true drawings at 96 px."""
        return [self.material.images[key] for key in self.material.prompts["held_out"].keys]

    def controls(self, mirrored: bool = False) -> list[Image.Image]:
        """(N) control images: the edges of each true drawing at 48 px, as it is or mirrored, which no caption tells."""
        return [edge_picture(resized(ImageOps.mirror(one) if mirrored else one, LOW)) for one in self.truth]

    def captions(self, language: str) -> list[str]:
        return list(self.material.prompts["held_out"].captions[language])

    def drawn(self, name: str, draw: Draw) -> list[Image.Image]:
        """The pictures of one setting, drawn where they are not there yet; the core-seconds of each are kept beside."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        for start in range(0, self.count, BATCH):
            part = range(start, min(start + BATCH, self.count))
            if all((folder / f"{place:03d}.png").is_file() for place in part):
                continue
            began = time.process_time()
            pictures = draw(slice(part.start, part.stop), noise_sources(SEED + part.start, len(part)))
            write_json(folder / f"{start:03d}.json", (time.process_time() - began) / len(part))
            for place, picture in zip(part, pictures, strict=True):
                picture.save(folder / f"{place:03d}.png")
            print(name, part.stop, flush=True)
        return [Image.open(folder / f"{place:03d}.png").convert("RGB") for place in range(self.count)]

    def core_seconds(self, name: str) -> float:
        """Mean core-seconds of one picture of a setting."""
        return float(np.mean([read_json(path) for path in sorted((self.folder / name).glob("*.json"))]))

    def against_controls(self, pictures: Sequence[Image.Image], mirrored: bool = False) -> dict[str, float]:
        """F1 of the pictures' edges and the control images, to the pixel and within one, at the control's 48 px."""
        wanted = [np.asarray(image)[..., 0] > 0 for image in self.controls(mirrored)]
        drawn = [find_edges(np.asarray(resized(image, LOW))) for image in pictures]
        return {
            name: float(np.mean([agreement(one, other, px) for one, other in zip(drawn, wanted, strict=True)]))
            for name, px in (("edges", 0), ("edges within 1 px", 1))
        }

    def found_by_caption(self, pictures: Sequence[Image.Image]) -> float:
        """Top-1: the share of pictures whose nearest of all held-out drawings, either way round, is that of their caption."""
        pool = self.material.pool("understanding")
        truth = np.array([list(pool).index(key) for key in self.material.prompts["held_out"].keys])
        near = [
            similarity(thumbnails([turn(image) for image in pictures]), thumbnails(list(pool.values())))
            for turn in (ImageOps.mirror, lambda image: image)
        ]
        return float((rank_of_truth(np.maximum(*near), truth) < 1).mean())

    def figures(self, pictures: Sequence[Image.Image]) -> dict[str, float]:
        """Retrieval among all held-out drawings, distance of thumbnails and of pixels, and sharpness."""
        keys, pool = self.material.prompts["held_out"].keys, self.material.pool("understanding")
        found = retrieval(pictures, keys, pool)
        large = [np.asarray(resized(image, HIGH), np.float32) for image in pictures]
        true = [np.asarray(image, np.float32) for image in self.truth]
        return {
            "top1": found.top1,
            "similarity": found.similarity,
            "fid": distribution.fid(
                torch.from_numpy(thumbnails(self.truth)), torch.from_numpy(thumbnails(list(pictures)))
            ),
            "psnr": float(np.mean([psnr(one, other) for one, other in zip(large, true, strict=True)])),
            "sharpness": float(np.mean([gradient(one) for one in large]) / np.mean([gradient(one) for one in true])),
        }


def resized(image: Image.Image, side: int) -> Image.Image:
    return image if image.width == side else image.resize((side, side), Image.Resampling.LANCZOS)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """dB of two pictures of 0 to 255."""
    return float(10 * np.log10(255**2 / max(1e-9, float(np.square(one - other).mean()))))


def gradient(pixels_hwc: np.ndarray) -> float:
    """Mean size of the steps between neighbouring pixels."""
    return float(np.abs(np.diff(pixels_hwc, axis=0)).mean() + np.abs(np.diff(pixels_hwc, axis=1)).mean())


def gflops(call: Callable[[], Any]) -> float:
    """Counted floating-point operations of one call, in 10^9."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def table(figures: dict[str, dict[str, float]], columns: dict[str, str]) -> str:
    """Markdown, one row a setting; `columns` are title -> format."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, values in figures.items():
        cells = [format(values[title], shape) if title in values else "" for title, shape in columns.items()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sheet(columns: dict[str, Sequence[Image.Image]], places: Sequence[int], side: int = 96) -> Image.Image:
    """One row a prompt, one titled column a setting; 'NAME|SMALL PRINT' is a title."""
    rows = [[resized(pictures[place], side) for pictures in columns.values()] for place in places]
    grid, top, width = sample_grid(rows, 8), 40, side + 8
    page = Image.new("RGB", (grid.width, grid.height + top), "white")
    page.paste(grid, (0, top))
    draw = ImageDraw.Draw(page)
    for place, title in enumerate(columns):
        name, under = [*title.split("|"), ""][:2]
        write(draw, (8 + place * width, 6), name, 12, INK)
        write(draw, (8 + place * width, 23), under, 10, FAINT)
    return page


def quiet(coop: CoopPipeline) -> CoopPipeline:
    coop.set_progress_bar_config(disable=True)
    return coop


def call(**more: Any) -> dict[str, Any]:
    """How every picture is asked for."""
    return {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE} | more
