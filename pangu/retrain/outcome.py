"""What came out of a retraining: where to draw, the pictures before and after, and the gate's sentence."""

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from pydantic import Field

from pangu.config import Frozen
from pangu.data.card import load_card
from pangu.data.images import read_comments, read_rgb
from pangu.image_grid import FAINT, INK, PAPER, png, whole_columns
from pangu.lettering import text
from pangu.retrain.button import RunView
from pangu.storage import Home, read_json, write_atomically

MARGIN, HEAD = 16, 30
"""px around all, and above each strip for its heading."""
LARGEST_SIDE = 8000
"""Of a strip, px."""


class RetrainOutcome(Frozen):
    """How a retraining ended."""

    run_id: str
    card: str
    state: str = Field(description="COMPLETED, FAILED, CRASHED, CANCELLED; of a run that goes on, where it is")
    sentence: str = Field("", description="The gate's reason, or why the run ended before it")
    page: str = Field("", description="Address of the page to draw with; empty where nothing is served by this run")
    sheet: str = Field("", description="Picture of the same prompts before and after; empty where none was drawn")
    pair: str = Field("", description="Folder of the new pair")
    pair_version: int | None = None

    @property
    def is_served(self) -> bool:
        return self.state == "COMPLETED"


def outcomes_of(home: Home, run_id: str) -> dict[str, Any]:
    """Stage -> what it left, of the stages of a flow run that are done."""
    found = {path.stem: read_json(path) for path in (home.root / "flows" / run_id).glob("*.json")}
    return {stage: left for stage, left in found.items() if stage != "recipe"}


def outcome_of(home: Home, run_id: str, card: str, view: RunView) -> RetrainOutcome:
    """How it ended, from the files of its stages; draws the sheet of before and after beside them."""
    stages = outcomes_of(home, run_id)
    decided, evaluated = stages.get("gate") or {}, stages.get("evaluate") or {}
    served, released = stages.get("deploy") or {}, stages.get("release") or {}
    return RetrainOutcome(
        run_id=run_id,
        card=card,
        state=view.state,
        sentence=decided.get("reason", "") if view.state == "COMPLETED" else view.message,
        page=f"{served['url']}/studio" if served else "",
        sheet=_sheet(home, load_card(card).name, evaluated, decided),
        pair=evaluated.get("pair", ""),
        pair_version=released.get("pair_version"),
    )


def _sheet(home: Home, name: str, evaluated: dict[str, Any], decided: dict[str, Any]) -> str:
    """The file of the sheet. A pair that is the champion already keeps the sheet that was drawn when it was new."""
    if not evaluated:
        return ""
    path = home.dataset(name) / f"before_after-{evaluated['pair_id']}.png"
    before = decided.get("champion_grid")
    if not path.is_file() or before:
        strips = [(f"BEFORE: {decided.get('compared_with') or 'what serves now'}", Path(before))] if before else []
        strips.append(("AFTER, above the true pictures", Path(evaluated["sample_grid"])))
        there = [(words, _columns(file)) for words, file in strips if file.is_file()]
        if not there:
            return ""
        write_atomically(path, png(before_and_after(there)))
    return str(path)


def _columns(grid: Path) -> Image.Image:
    """As many whole columns of a grid as a sheet is wide."""
    data = grid.read_bytes()
    image = read_rgb(data)
    image.info.update(dict[Any, str](read_comments(data)[0]))
    return whole_columns(image, LARGEST_SIDE)[0]


def before_and_after(strips: list[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures below each other, each under its heading, none wider than `LARGEST_SIDE`."""
    pictures = [
        (words, picture.crop((0, 0, min(picture.width, LARGEST_SIDE), picture.height))) for words, picture in strips
    ]
    width = 2 * MARGIN + max(picture.width for _, picture in pictures)
    height = 2 * MARGIN + sum(picture.height + HEAD for _, picture in pictures)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw, y = ImageDraw.Draw(sheet), MARGIN
    for place, (words, picture) in enumerate(pictures):
        text(draw, (MARGIN, y + 4), words, 16, INK if place else FAINT)
        sheet.paste(picture, (MARGIN, y + HEAD))
        y += picture.height + HEAD
    return sheet
