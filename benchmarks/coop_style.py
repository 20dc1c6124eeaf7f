"""A style partner for `coop_trained.py`: the small partner, tuned to the same drawings printed in two tones, navy on cream."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coop_study import LOW, Study, call, psnr, quiet, sheet
from PIL import Image

from pangu.config import InitialWeights, Recipe, RoleTraining
from pangu.data.card import load_card
from pangu.data.ingest import ingest
from pangu.data.openmoji import Emoji, render_png
from pangu.data.origin import Origin
from pangu.data.prepare import prepare
from pangu.evaluate.pictures import png
from pangu.pipelines.coop import CoopPipeline, Partner
from pangu.starter.pair import starter_pair
from pangu.storage import Home, write_atomically

INK, PAPER = (25, 35, 90), (250, 240, 215)
NAME, DRAWINGS = "openmoji_ink", 420


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


def style_corpus(home: Home) -> tuple[str, int]:
    """Name and version of the dataset: some drawings in two tones, with the same combinations held out."""
    source = home.root / "demo" / f"{NAME}.parquet"
    card = load_card("openmoji_all").model_copy(update={"name": NAME, "source": str(source)})
    if home.table(NAME).is_dir():
        return NAME, 0
    origin = Origin(DRAWINGS, 0, 0.0, printed_png)
    origin.start()
    try:
        origin.write_table(Path(source))
        return NAME, prepare(card, ingest(card, home).ingest_id, home).version
    finally:
        origin.close()


def style_recipe(partner: Recipe, generator: Path, steps: int) -> Recipe:
    """The partner, tuned to the style; latents, text and schedule stay."""
    learning = {"lr_peak": 4e-4, "warmup_steps": 20, "ema_decays": (0.98,)}
    return partner.model_copy(
        update={
            "name": "style_partner",
            "init_from": InitialWeights(source=str(generator)),
            "jobs": {"single": RoleTraining(resolution=LOW, steps=steps, batch_size=16)},
            "optimization": partner.optimization.model_copy(update=learning),
        }
    )


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
