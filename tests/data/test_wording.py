"""Templates say a caption in other words, any caption, and never make something of nothing."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pangu.config import Recipe
from pangu.data.captions import Caption
from pangu.data.wording import chosen, keyword, listed, reworded, worded
from pangu.recipes import tiny
from pangu.sentences import TEMPLATES, UNTRAINED_TEMPLATES
from pangu.templates import trouble
from tests import subtests

FIELDS = ["{}", "{a}", "{plural}", "{turned}"]


def with_templates(templates: dict[str, list[str]]) -> Recipe:
    return Recipe.model_validate(tiny().model_dump() | {"caption_templates": templates})


@subtests.parametrize(
    ("template", "caption", "said"),
    [
        ("a picture of {a}", "umbrella", "a picture of an umbrella"),
        ("a picture of {a}", "eyes", "a picture of eyes"),
        ("two {plural}", "red apple", "two red apples"),
        ("{turned}", "red apple", "apple red"),
        ("{{{}}}", "fox", "{fox}"),
        ("{{}} {}", "fox", "{} fox"),
        ("画一个{}", "狐狸", "画一个狐狸"),
        ("{}", "{a} {plural}", "{a} {plural}"),
    ],
)
def test_a_caption_in_a_template(template: str, caption: str, said: str) -> None:
    assert worded(template, caption) == said


@given(st.sampled_from(FIELDS), st.text())
def test_any_text_can_be_put_into_any_template(field: str, caption: str) -> None:
    said = worded(f"draw {field} now", caption)
    if not caption.strip():
        assert said == caption
    else:
        assert said.startswith("draw ") and said.endswith(" now")
        assert field != "{}" or caption in said


@subtests.parametrize("template", ["", "a picture", "{} {}", "{b}", "{a!r}", "{:>9}", "{", "}", "{0}", "{a.b}", "{a"])
def test_what_is_no_template_is_refused_with_its_language_and_text(template: str) -> None:
    assert trouble(template)
    with pytest.raises(ValueError, match=r"template|must hold"):
        worded(template, "fox")
    with pytest.raises(ValidationError) as error:
        with_templates({"zh": ["{}"], "en": ["{}", template]})
    assert f"caption_templates.en: '{template}' " in str(error.value)


def test_articles_and_plurals_are_for_english() -> None:
    with pytest.raises(ValidationError, match=r"caption_templates.zh: '画{a}' must hold exactly one of {}"):
        with_templates({"zh": ["画{a}"]})
    with pytest.raises(ValidationError, match="fr"):
        with_templates({"fr": ["{}"]})


def test_every_template_of_the_starter_is_one_and_those_of_the_judge_are_none_of_them() -> None:
    for templates in (TEMPLATES, UNTRAINED_TEMPLATES):
        assert with_templates(templates).rewords
    assert not any(set(TEMPLATES[language]) & set(UNTRAINED_TEMPLATES[language]) for language in TEMPLATES)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=9, unique=True))
def test_chance_picks_each_as_often_as_the_others(words: list[str]) -> None:
    chances = [number / 360 for number in range(360)]
    counts = Counter(keyword(words, chance) for chance in chances)
    assert set(counts) == set(words) and max(counts.values()) - min(counts.values()) <= 1
    templates = [f"{number} {{}}" for number in range(len(words))]
    assert Counter(Counter(chosen(templates, "x", chance) for chance in chances).values()) == Counter(counts.values())


def test_without_words_or_templates_a_caption_stays() -> None:
    asked = Caption(keyword=0.5, template=0.5)
    assert reworded("red apple", asked, [], []) == "red apple"
    assert reworded("red apple", asked, ["fruit"], ["draw {a}"]) == "draw a fruit"
    assert reworded("red apple", Caption(), ["fruit"], ["draw {a}"]) == "red apple"


@given(
    st.permutations(["a fox", "it sits " * 13, "狐狸", "a red fox", "it runs " * 20]), st.floats(0, 1, exclude_max=True)
)
def test_a_length_is_asked_for_among_captions_of_that_length(captions: list[str], chance: float) -> None:
    for shown, lengths in ((Caption(short=chance), (0, 24)), (Caption(long=chance), (25, 99))):
        assert lengths[0] <= len(listed(captions, shown, "en").split()) <= lengths[1]
    assert {listed(captions, Caption(number=number), "en") for number in range(9)} == set(captions)


def test_digests_of_recipes_without_wordings_are_what_they_were() -> None:
    assert (tiny().digest(), tiny().learning_digest()) == ("6e5089519b987fd6", "6c59f8e43eb7c3f4")
    optimization = tiny().optimization
    others = [
        with_templates({"en": ["{a}"]}),
        *(
            tiny().model_copy(update={"optimization": optimization.model_copy(update={name: 0.25})})
            for name in ("template_share", "keyword_share", "long_caption_share")
        ),
    ]
    assert len({one.learning_digest() for one in (tiny(), *others)}) == 5
    assert [one.rewords for one in (tiny(), *others)] == [False, True, False, True, True]
    assert all(Recipe.model_validate_json(one.model_dump_json()) == one for one in others)
