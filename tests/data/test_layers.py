"""OpenMoji's layers as styles: outlines above colours are the drawing, and the card lists both."""

import io

import numpy as np
import pytest
from PIL import Image

from pangu.data.card import load_card
from pangu.data.example.layers import FLAT, OUTLINE, STYLES, in_style, with_layers
from pangu.data.example.openmoji import Emoji, render_png, selection
from pangu.data.example.origin import Origin
from pangu.errors import UserError
from pangu.starter.learning_material import drawn_in


def rendered(one: Emoji) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(render_png(one, 96)))).astype(int)


def test_colours_show_where_there_is_no_outline_and_outlines_where_there_is() -> None:
    """Not everywhere: some drawings have white among their lines, or colours above them."""
    shown, black = [], []
    for one in selection(20):
        (lines,), (colours,) = (in_style([one], style) for style in STYLES)
        whole, outline, flat = rendered(one), rendered(lines), rendered(colours)
        blank, line = outline.min(-1) == 255, outline.max(-1) < 5
        shown.append((np.abs(whole - flat)[blank].max(-1) <= 2).mean())
        black.append((np.abs(whole - outline)[line].max(-1) <= 2).mean() if line.any() else 1.0)
        assert 0.3 < blank.mean() < 1 and (flat != whole).any()
        assert lines.style == OUTLINE and colours.style == FLAT
    assert np.mean(shown) > 0.95 and np.mean(black) > 0.95, (shown, black)


def test_the_card_lists_every_drawing_in_each_style() -> None:
    card, origin = load_card("openmoji_layers"), Origin(30, in_layers=True)
    origin.start()
    styles = [row.get("style") for row in origin.rows() if "/broken/" not in row["url"]]
    origin.close()
    assert styles == [None] * 30 + [OUTLINE] * 30 + [FLAT] * 30
    assert card.columns.style == "style" and "Changed" in card.licence.attribution
    assert [one.style for one in with_layers(selection(2))] == [None, None, OUTLINE, OUTLINE, FLAT, FLAT]


def test_blank_pages_are_not_learnt_from_and_unknown_styles_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [one for one in selection() if one.caption_en in ("nine-thirty", "bicycle", "hammer", "lotus")] + selection(6)
    monkeypatch.setattr("pangu.starter.learning_material.material", lambda: few)
    drawings, images = drawn_in(FLAT, None, 96)
    assert len(drawings) == len(images) < len(few) or all((image < 245).any() for image in images)
    assert all((image.min(-1) < 245).mean() > 0.02 for image in images)
    with pytest.raises(
        UserError, match="one of outline, flat, or with --artists one of twemoji, noto, blob, not 'noto'"
    ):
        drawn_in("noto", None, 96)
