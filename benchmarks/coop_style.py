"""A style partner for `coop_trained.py`: the small partner, tuned to the same drawings printed in two tones, navy on cream."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from coop_study import LOW, Study, call, psnr, quiet, sheet
from PIL import Image

from pangu.data.example.openmoji import Emoji, render_png
from pangu.image_grid import png
from pangu.pipelines.coop import CoopPipeline, Partner
from pangu.starter.pair import starter_pair
from pangu.storage import write_atomically

INK, PAPER = (25, 35, 90), (250, 240, 215)
DRAWINGS = 420
"""So many drawings are shown in print."""


def printed(picture: Image.Image) -> Image.Image:
    """Navy where the picture is dark, cream where it is light."""
    dark = np.asarray(picture.convert("L"))[..., None] < 110
    return Image.fromarray(np.where(dark, INK, PAPER).astype(np.uint8))


def printed_png(one: Emoji, side: int) -> bytes:
    return png(printed(Image.open(io.BytesIO(render_png(one, side)))))


def likeness(pictures: Sequence[Image.Image], wanted: Sequence[Image.Image]) -> float:
    """Mean PSNR in dB."""
    pairs = zip(pictures, wanted, strict=True)
    return float(np.mean([psnr(*(np.asarray(image, np.float32) for image in pair)) for pair in pairs]))


def style_and_content(study: Study, stylist: Any, places: Sequence[int]) -> dict[str, dict[str, float]]:
    """The pair says what is drawn, the style partner in which tones, as d goes from 0 to 1."""
    coop = quiet(CoopPipeline(starter_pair(), Partner(stylist, height=LOW, width=LOW, upsample="lanczos")))
    captions, found = study.captions("en"), {}
    prints = [printed(image) for image in study.truth]
    columns: dict[str, Any] = {"the drawing": study.truth, "in print": prints}
    for d in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):

        def draw(part: slice, noise: list[torch.Generator], d: float = d) -> Any:
            return coop(captions[part], partners=[{"strength": d}], generator=noise, **call()).images

        drawn = study.drawn(f"style d = {d:.1f}", draw)
        dbs = {"psnr": likeness(drawn, study.truth), "like the print": likeness(drawn, prints)}
        found[f"d = {d:.1f}"] = study.against_controls(drawn) | dbs
        columns[f"d = {d:.1f}|print {dbs['like the print']:.1f} dB"] = drawn
    write_atomically(study.folder / "coop_style.png", png(sheet(columns, places)))
    return found
