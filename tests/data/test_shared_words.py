"""The name of a subject is what all captions of a few pictures share, whatever stands around it."""

import pyarrow as pa

from pangu.data.captions import TEXT_COLUMNS, keywords_of
from pangu.data.rows.worded_texts import WordedTexts
from pangu.data.shared_words import shared_words
from pangu.recipes import few_pictures
from tests import subtests

checks = subtests.Checks()

EN = ["zimble with a red hat looking right", "zimble looking left", "a jumping zimble, looking left"]
ZH = ["戴红帽子泽宝向右", "泽宝向左", "跳跃的泽宝向左"]


@checks
def the_longest_run_of_words_is_it_and_small_words_at_its_ends_are_not() -> None:
    assert shared_words(EN, "en") == "zimble"
    assert shared_words(ZH, "zh") == "泽宝"
    dog = ["a photo of my dog Rex on a sofa", "my dog rex, in the snow", "The beach and my dog Rex"]
    assert shared_words(dog, "en") == "dog Rex"
    assert shared_words(["O'Neil's boat"] * 3, "en") == "O'Neil's boat"


@checks
def captions_without_anything_in_common_or_too_few_of_them_name_nothing() -> None:
    assert shared_words(["a red cat", "a dog", "a tree"], "en") is None
    assert shared_words(["红色的猫", "蓝色的狗", "白的鸟"], "zh") is None
    assert shared_words(EN[:2], "en") is None and shared_words([], "zh") is None
    assert shared_words(["zimbles", "zimble", "a zimble"], "en") is None, "words are whole"


def table(**changes: list[object]) -> pa.Table:
    columns = {"caption_en": EN, "caption_zh": ZH, **changes}
    return pa.table({name: pa.array(columns[name]) for name in TEXT_COLUMNS if name in columns})


@checks
def rows_without_keywords_are_asked_for_by_the_name_and_those_with_some_by_their_own() -> None:
    recipe = few_pictures()
    named = WordedTexts.of(table(), recipe, ()).table
    assert keywords_of(named, "en") == [["zimble"]] * 3 and keywords_of(named, "zh") == [["泽宝"]] * 3
    own = [["pet"], [], ["pet", "toy"]]
    assert keywords_of(WordedTexts.of(table(keywords_en=own), recipe, ()).table, "en") == own
    plain = recipe.optimization.model_copy(update={"keyword_share": 0.0})
    without = WordedTexts.of(table(), recipe.model_copy(update={"optimization": plain}), ()).table
    assert keywords_of(without, "en") == [[]] * 3


test_what_captions_share = checks.test()
