"""What the embedded text encoder learns from: wordings that suit their drawings, and words around them that mean nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pangu.data.example.openmoji import Emoji
from pangu.sentences import ALL_TEMPLATES, UNTRAINED_TEMPLATES
from pangu.starter.spare_styles import SPARE_STYLES, looked
from pangu.starter.text_encoder import build_encoder, contrastive_loss, masked_error, settle
from pangu.starter.tokenizer import build_tokenizer
from pangu.starter.wordings import Fillers, Wordings
from tests import subtests

checks = subtests.Checks()

DRAWINGS = [
    Emoji("🍎", "red apple", "红苹果", "1F34E", None, ("apple", "fruit", "🍎"), ("苹果", "水果", "🍎")),
    Emoji("🍏", "green apple", "青苹果", "1F34F", None, ("apple", "fruit", "🍏"), ("苹果", "水果", "🍏")),
    Emoji("🍎", "red apple", "红苹果", "1F34E", "noto", ("apple", "fruit", "🍎"), ("苹果", "水果", "🍎")),
    Emoji("🦊", "fox", "狐狸", "1F98A", None, ("animal", "🦊"), ("动物", "🦊")),
]


@checks
def no_sentence_that_judges_is_one_that_is_trained_with() -> None:
    for language, untrained in UNTRAINED_TEMPLATES.items():
        assert len(untrained) == 6 and not set(untrained) & set(ALL_TEMPLATES[language])


@subtests.parametrize("language", ["en", "zh"])
def test_fillers_are_nothing_that_a_drawing_is_called(language: str) -> None:
    fillers, random = Fillers(DRAWINGS), np.random.default_rng(0)
    drawn = {fillers.draw(language, random) for _ in range(500)}
    called = {
        "en": {"red", "apple", "green", "fox", "fruit", "animal"},
        "zh": {"红苹果", "苹果", "水果", "狐狸", "动物"},
    }
    assert len(drawn) > 100 and not drawn & called[language]


@given(st.integers(0, 2**20))
def test_a_wording_suits_its_own_drawing_and_means_a_caption_or_keyword(seed: int) -> None:
    wordings = Wordings(DRAWINGS, seed, filler_share=0.5, most_fillers=3)
    for row, one in enumerate(DRAWINGS):
        prefix = wordings.prefix(row)
        assert prefix == "noto" if one.style else prefix in {"", *SPARE_STYLES}
        text, means, suits = wordings.draw(row, prefix)
        assert one.caption_en in suits
        assert not prefix or (text.startswith(f"{prefix} ") and means.startswith(f"{prefix} "))
        bare = means.removeprefix(f"{prefix} ") if prefix else means
        assert bare in {one.caption_en, one.caption_zh, *one.keywords_en, *one.keywords_zh}
        assert bare != one.text  # an emoji means its caption


@checks
def a_shared_keyword_suits_both_but_not_another_style() -> None:
    wordings = Wordings(DRAWINGS, 0, filler_share=0, most_fillers=0)
    apple, fox = {"red apple", "green apple"}, {"fox"}
    suits = wordings.suits([apple, apple, apple, fox], [0, 1, 2, 3], ["", "", "noto", ""])
    assert suits.tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]


@subtests.parametrize("text", ["red apple", "红苹果", "", "🦊", "ß", "щука"])
def test_any_text_has_tokens_between_the_marks_of_its_ends(text: str) -> None:
    tokenizer = build_tokenizer(DRAWINGS)
    ids = tokenizer(text).input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


@checks
def han_characters_have_the_same_tokens_wherever_they_stand_and_marks_of_variation_none() -> None:
    tokenizer = build_tokenizer(DRAWINGS)
    apple = tokenizer("苹果", add_special_tokens=False).input_ids
    for text in ("红苹果", "画一个苹果。", "一个苹果"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert any(ids[start : start + len(apple)] == apple for start in range(len(ids)))
    assert tokenizer("❤️").input_ids == tokenizer("❤").input_ids
    assert tokenizer("A Fox").input_ids == tokenizer("a fox").input_ids


@checks
def emoji_have_the_same_tokens_wherever_they_stand() -> None:
    tokenizer = build_tokenizer(DRAWINGS)

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    assert ids("🦊🍎") == ids("🦊") + ids("🍎")


@subtests.parametrize("style", SPARE_STYLES)
def test_a_spare_style_is_a_look_of_its_own_and_the_same_of_a_thumbnail_as_of_the_drawing(style: str) -> None:
    pixels = 2 * torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    small = torch.nn.functional.avg_pool2d(pixels, 4)
    torch.testing.assert_close(
        looked(small, style), torch.nn.functional.avg_pool2d(looked(pixels, style), 4), rtol=0, atol=1e-5
    )
    assert (looked(pixels, style) - pixels).abs().mean() > 0.15


@checks
def what_suits_a_text_beside_its_own_is_no_negative() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    twins = vectors[[0, 0, 2, 3]]
    alone, known = torch.eye(4, dtype=torch.bool), torch.eye(4, dtype=torch.bool)
    known[0, 1] = known[1, 0] = True
    scale = torch.tensor(20.0)
    assert contrastive_loss(twins, twins, scale, known) < contrastive_loss(twins, twins, scale, alone) - 0.1


@checks
def padding_counts_for_nothing_in_the_error_of_hidden_states() -> None:
    then, mask = torch.ones(1, 3, 2), torch.tensor([[1, 1, 0]])
    now = then.clone()
    now[0, 2] = 100
    assert masked_error(now, then, mask) == 0
    now[0, 0] = 2
    assert masked_error(now, then, mask) == pytest.approx(0.5)


@pytest.mark.long
def test_settling_draws_wordings_to_captions_that_stay() -> None:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(DRAWINGS)
    encoder = build_encoder(len(tokenizer))

    def embedded(text: str) -> torch.Tensor:
        batch = tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            return encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask).text_embeds[0]

    before, asked = embedded("fox"), embedded("please draw a fox")
    settle(encoder, tokenizer, DRAWINGS, minutes=0.3)
    after = embedded("please draw a fox")
    assert (after - before).norm() < 0.75 * (asked - before).norm()
    assert (embedded("fox") - before).norm() < 0.3 * before.norm()


test_wordings = checks.test()
