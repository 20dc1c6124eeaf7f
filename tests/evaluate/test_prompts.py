"""What a pair is asked for: every prompt in a template, by a keyword with all that answer it, and spread evenly over styles."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.data.table.schema import SCHEMA
from pangu.errors import UserError
from pangu.evaluate.pools import choose_pools
from pangu.evaluate.prompts import by_keyword, choose_prompts, in_templates
from pangu.evaluate.protocol import Protocol
from tests import subtests

checks = subtests.Checks()

TEMPLATES = {"en": ("draw {a}", "my {}", "{}, please"), "zh": ("一幅{}",)}
STYLES = st.lists(st.sampled_from([None, "noto", "blob", "unknown"]), min_size=8, max_size=40)


def table(styles: list[str | None], words: list[list[str]] | None = None) -> pa.Table:
    """Rows that differ in nothing but key, caption, style and keywords; the last two are held out."""
    rows = [
        {
            "key": f"{index:04d}", "caption_en": f"thing {index}", "caption_zh": f"东西{index}", "style": style,
            "split": "held_out" if index >= len(styles) - 2 else "train",
            "keywords_en": words[index] if words else None, "keywords_zh": words[index] if words else None,
        }
        for index, style in enumerate(styles)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def protocol(**changes: object) -> Protocol:
    return Protocol.model_validate({"num_inference_steps": 2, "guidance_scale": 3.0} | changes)


@checks
@given(styles=STYLES, count=st.integers(1, 40), seed=st.integers(0, 3))
def prompts_are_spread_as_evenly_over_styles_as_there_are_rows(styles, count, seed) -> None:
    found = choose_prompts(table(styles), "train", ("zh", "en"), count, seed, ("noto", "blob"))
    there = Counter(style if style in ("noto", "blob") else "" for style in styles[:-2])
    asked = Counter(found.styles)
    assert len(found) == min(count, len(styles) - 2) and list(found.keys) == sorted(found.keys)
    most = max(asked.values())
    assert all(asked[style] >= min(there[style], most - 1) for style in there)


@given(styles=STYLES, count=st.integers(1, 12))
def test_an_image_competes_within_its_style_and_its_true_one_is_among_them(styles, count) -> None:
    rows = table(styles)
    asked = protocol(styles={"noto": 1.0}, memory_candidates=count, candidates=count, templates=TEMPLATES)
    chosen = {"train": choose_prompts(rows, "train", ("zh", "en"), 4, 0, ("noto",))}
    pools = choose_pools(rows, chosen, asked)
    assert set(pools) == {"retrieval", "templates"}
    own = {key: style if style == "noto" else "" for key, style in zip(rows["key"].to_pylist(), styles, strict=True)}
    for pool in pools.values():
        assert set(chosen["train"].keys) <= set(pool) and list(pool) == sorted(set(pool))
        for style in set(own.values()):
            prompts, there = chosen["train"].by_style().get(style, []), sum(own[key] == style for key in pool)
            assert there <= max(count, len(prompts))


@checks
def prompts_take_templates_in_turn_in_the_order_of_their_keys() -> None:
    prompts = in_templates(choose_prompts(table([None] * 7), "train", ("zh", "en"), None, 0), TEMPLATES)
    assert prompts.captions["en"] == (
        "draw a thing 0", "my thing 1", "thing 2, please", "draw a thing 3", "my thing 4",
    )  # fmt: skip
    assert prompts.captions["zh"][:2] == ("一幅东西0", "一幅东西1")
    one = in_templates(choose_prompts(table([None] * 7), "train", ("zh", "en"), None, 0), {"zh": ("画{}",)})
    assert list(one.captions) == ["zh"]
    with pytest.raises(UserError, match="No template is in a language of the captions; those are in zh"):
        in_templates(choose_prompts(table([None] * 7), "train", ("zh",), None, 0), {"en": ("a {}",)})


def test_every_candidate_with_the_keyword_is_as_right_as_the_row_itself() -> None:
    words = [["fruit", "red"], ["Fruit"], ["thing 0"], [], ["red"], ["fruit"], ["fruit"]]
    rows = table([None] * 7, words)
    prompts = choose_prompts(rows, "train", ("zh", "en"), None, 0)
    pool = [key for key in rows["key"].to_pylist() if key != "0005"]
    found = by_keyword(rows, prompts, pool[:5], seed=0)
    assert found.keys == ("0000", "0001", "0002", "0004")  # the fourth row has no keywords
    for key, word, truths in zip(found.keys, found.captions["en"], found.truths["en"], strict=True):
        named = {k for k, name, own in zip(rows["key"].to_pylist(), rows["caption_en"].to_pylist(), words, strict=True)
                 if word.lower() in {each.lower() for each in (name, *own)}}  # fmt: skip
        assert key in truths == named & set(pool[:5])
    assert by_keyword(rows, prompts, pool, seed=0).captions == found.captions
    assert len({by_keyword(rows, prompts, pool, seed).captions["en"] for seed in range(8)}) > 1


@checks
def the_same_word_in_another_style_is_not_right() -> None:
    rows = table([None, "noto", None, "noto", None, None], [["fruit"]] * 6)
    prompts = choose_prompts(rows, "train", ("zh", "en"), None, 0, ("noto",))
    found = by_keyword(rows, prompts, prompts.keys, seed=0)
    assert dict(zip(found.keys, found.truths["zh"], strict=True)) == {
        "0000": {"0000", "0002"}, "0002": {"0000", "0002"}, "0001": {"0001", "0003"}, "0003": {"0001", "0003"},
    }  # fmt: skip


@checks
def a_dataset_without_keywords_is_refused() -> None:
    rows = table([None] * 5)
    prompts = choose_prompts(rows, "train", ("zh", "en"), None, 0)
    with pytest.raises(UserError, match="No row that prompts are made of has keywords in zh and en"):
        by_keyword(rows, prompts, prompts.keys, seed=0)


@checks
def protocols_of_before_keep_their_hash() -> None:
    assert protocol(num_inference_steps=20).digest() == "cfbad40001e9df3a"
    asked = [{}, {"templates": TEMPLATES}, {"keywords": True}, {"styles": {"noto": 1.0}}, {"styles": {"noto": 3.0}}]
    assert len({protocol(**one).digest() for one in asked}) == len(asked)


@subtests.parametrize(
    ("templates", "sentence"),
    [
        ({"en": ["a"]}, "must hold exactly one of"),
        ({"de": ["ein {}"]}, "'de' is no language of captions, which are en, zh"),
    ],
)
def test_bad_templates_get_one_sentence(templates, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        protocol(templates=templates)


test_prompts = checks.test()
