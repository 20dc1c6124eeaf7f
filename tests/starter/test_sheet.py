"""Prompts without a true image, and the sheet that shows what is drawn for them."""

import numpy as np
import pytest
from PIL import Image

from pangu.data.example.openmoji import every_drawing
from pangu.errors import UserError
from pangu.lettering import CELL, MARGIN, captioned
from pangu.pipelines.assemble import untrained_pair
from pangu.recipes import tiny
from pangu.starter.prompt_sheet import prompt_sheet
from pangu.starter.sheet_prompts import colours, two_things
from tests import subtests


@subtests.parametrize("listed", [two_things, colours])
def test_no_drawing_answers_them_and_half_are_chinese(listed) -> None:
    prompts = listed()
    assert len(set(prompts)) == 32
    assert sum(text.isascii() for text in prompts) == 16
    known = {name for one in every_drawing() for name in (one.caption_en, one.caption_zh)}
    assert not known & {text.removeprefix("a ").removeprefix("an ") for text in prompts}


def test_every_picture_stands_above_its_caption() -> None:
    colours = ["red", "green", "blue", "black", "orange"]
    sheet = np.asarray(captioned([Image.new("RGB", (96, 96), one) for one in colours], ["a caption"] * 5, columns=2))
    places = [(MARGIN, MARGIN), (MARGIN + CELL + 12, MARGIN)]
    assert [tuple(sheet[y + CELL // 2, x + CELL // 2]) for x, y in places] == [(255, 0, 0), (0, 128, 0)]
    for x, y in places:
        assert (sheet[y + CELL + 2 : y + CELL + 30, x : x + CELL] < 128).any()


def test_a_picture_is_what_the_pipeline_draws_for_its_prompt_style_and_seed() -> None:
    pair = untrained_pair(tiny().model_copy(update={"styles": {"noto": "noto"}}))
    pair.set_progress_bar_config(disable=True)
    asked = [("fox", None), ("狐狸", "noto"), ("owl", None)]
    sheets = [np.asarray(prompt_sheet(pair, own, seed=3, num_inference_steps=2)) for own in (asked, asked[:1])]
    whole, alone = (sheet[MARGIN : MARGIN + CELL, MARGIN : MARGIN + CELL].astype(int) for sheet in sheets)
    assert abs(whole - alone).max() <= 2  # another batch size rounds otherwise
    with pytest.raises(UserError, match="Unknown style 'blob'; this pair knows noto"):
        prompt_sheet(pair, [("fox", "blob")])
