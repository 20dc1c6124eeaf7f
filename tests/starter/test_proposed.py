"""Every proposal asks for a drawing of the list, as people would."""

import re

from pangu.data.example.openmoji import catalogue
from pangu.starter.proposed import DRAWINGS, proposed
from tests import subtests

checks = subtests.Checks()

LISTED = {one.caption_en: one for one in catalogue()}


@checks
def each_proposal_names_its_drawing_by_name_or_as_emoji_in_both_languages() -> None:
    texts = proposed()
    assert set(texts) == {"en", "zh"} and len(set(DRAWINGS)) == len(DRAWINGS)
    for name, english, chinese in zip(DRAWINGS, texts["en"], texts["zh"], strict=True):
        one = LISTED[name]
        assert english == one.text or re.search(rf"\b{name}\b", english)
        assert chinese == one.text or one.caption_zh in chinese


@checks
def they_are_worded_as_people_write() -> None:
    for language, texts in proposed().items():
        assert len(set(texts)) == len(texts)
        names = {one.caption_en if language == "en" else one.caption_zh for one in LISTED.values()}
        emoji = {one.text for one in LISTED.values()}
        assert sum(text in emoji for text in texts) >= 2
        assert sum(text not in names | emoji for text in texts) >= len(texts) / 2
    assert "画一只狐狸" in proposed()["zh"]
    english = proposed()["en"]
    assert {"a fox", "an umbrella, please"} <= set(english) and not re.search(r"\ba [aeiou]", " ".join(english))


@checks
def every_call_proposes_the_same() -> None:
    assert proposed() == proposed()


test_proposed = checks.test()
