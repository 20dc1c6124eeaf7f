"""The demo's style: what chalk makes of a drawing, and what the origin serves and `prepare` keeps of it."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pangu.cli.data import example_server
from pangu.data.card import load_card
from pangu.data.example.chalk import BOARD, CHALK, STYLE, chalked, in_chalk, render_styled
from pangu.data.example.openmoji import render_png, selection
from pangu.data.example.origin import Origin
from pangu.data.ingest.stage import ingest
from pangu.data.prepare.stage import prepare
from pangu.data.table.delta import read_rows
from pangu.errors import UserError
from pangu.storage import Home

Colour = st.tuples(*[st.integers(0, 255)] * 3)
DRAWINGS = 8


def one_pixel(colour: tuple[float, ...]) -> np.ndarray:
    return chalked(np.rint(np.array([[colour]])).astype(np.uint8))[0, 0].astype(int)


def test_white_becomes_board_and_black_becomes_chalk() -> None:
    assert tuple(one_pixel((255, 255, 255))) == BOARD
    assert tuple(one_pixel((0, 0, 0))) == CHALK


@given(st.integers(0, 254))
def test_the_darker_a_grey_the_lighter_its_chalk(level: int) -> None:
    darker, lighter = one_pixel((level,) * 3), one_pixel((level + 1,) * 3)
    assert (darker >= lighter).all()


@given(Colour, st.sampled_from([(255, 255, 255), (0, 0, 0)]), st.floats(0, 1))
def test_edges_stay_as_smooth_as_they_were(colour, other, share: float) -> None:
    """What lies between a colour and white or black becomes what lies between their chalks."""
    between = one_pixel(tuple(share * a + (1 - share) * b for a, b in zip(colour, other, strict=True)))
    ends = share * one_pixel(colour) + (1 - share) * one_pixel(other)
    assert np.abs(between - ends).max() <= 2


@given(st.permutations(range(3)), st.integers(1, 255))
def test_a_tint_keeps_its_hue(order, strength: int) -> None:
    colour = np.array([255, 255 - strength, 255 - strength])[list(order)]
    found = one_pixel(tuple(colour)) - np.array(BOARD)
    assert found.argmax() == colour.argmax()


def test_rendering_repeats_itself_to_the_byte_at_every_size() -> None:
    drawing = in_chalk(selection(4))[0]
    for side in (48, 96):
        data = render_styled(drawing, side)
        assert data == render_styled(drawing, side)
        with Image.open(io.BytesIO(data)) as image:
            assert (image.size, image.mode) == ((side, side), "RGB")


def test_every_drawing_is_in_chalk() -> None:
    drawings = selection(30)
    shown = in_chalk(drawings)
    assert [(one.stem, one.style) for one in shown] == [(one.stem, STYLE) for one in drawings]
    assert all(render_styled(one, 48) != render_png(one, 48) for one in shown[:3])
    assert all(render_styled(one, 48) == render_png(one, 48) for one in drawings[:3])


def test_the_origin_serves_chalk_or_other_artists_but_not_both(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^The origin serves one of --artists, --chalk and --layers\.$"):
        example_server(artists=tmp_path, chalk=True)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What becomes of a few drawings by the card of the demo."""
    home = Home(tmp_path_factory.mktemp("chalk"))
    card = load_card("openmoji_chalk")
    limits = card.limits.model_copy(update={"max_seconds": 1.0, "stall_seconds": 120.0, "processes": 1})
    upscale = card.upscale.model_copy(update={"min_timestep": 300})
    source = str(home.root / "urls.parquet")
    card = card.model_copy(update={"limits": limits, "upscale": upscale, "source": source})
    origin = Origin(DRAWINGS, in_chalk=True)
    origin.start()
    try:
        origin.write_table(Path(source))
        outcome = prepare(card, ingest(card, home).ingest_id, home)
    finally:
        origin.close()
    return read_rows(home, card.name, outcome.version).to_pylist()


def test_the_dataset_has_the_look_in_both_sizes(rows: list[dict]) -> None:
    found = Counter((row["style"], row["upscaled"]) for row in rows)
    assert found == {(STYLE, False): DRAWINGS // 2, (STYLE, True): DRAWINGS // 2}


def test_upscaling_keeps_the_board_dark(rows: list[dict]) -> None:
    for row in rows:
        with Image.open(io.BytesIO(row["image"])) as image:
            ground = np.asarray(image.convert("RGB"))[:3, :3].reshape(-1, 3).astype(int)
        assert np.abs(ground - BOARD).max() <= 4, row["caption_en"]
