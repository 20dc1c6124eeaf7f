"""A card is read whole or refused in one sentence; its digests and splits depend on what they should, and on no more."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pangu.data.card import Card, load_card
from pangu.errors import UserError
from pangu.storage import Home
from tests import subtests

checks = subtests.Checks()


GOOD = {
    "name": "birds",
    "source": "birds.parquet",
    "columns": {"url": "URL", "caption_en": "TEXT"},
    "licence": {"name": "CC BY 4.0"},
}


def write(folder: Path, content: object) -> Path:
    path = folder / "birds.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


@checks
def a_minimal_card_is_read_and_its_source_lies_beside_it(tmp_path: Path) -> None:
    card = load_card(write(tmp_path, GOOD))
    assert card.source_uri(Home(tmp_path / "home")) == str(tmp_path / "birds.parquet")


@checks
def every_card_in_the_repository_can_be_read() -> None:
    cards = sorted((Path(__file__).parents[2] / "datasets").glob("*.yaml*"))
    assert {"openmoji.yaml", "url_table.yaml.example"} <= {path.name for path in cards}
    for path in cards:
        assert load_card(path).licence.name
    assert load_card("openmoji").name == "openmoji"


@subtests.parametrize(
    ("change", "said"),
    [
        ({"colour": "red"}, "'colour'"),
        ({"upscale": {"target": 3}}, "'upscale.target'"),
        ({"columns": {"url": "URL"}}, "caption"),
        ({"licence": None}, "'licence'"),
        ({"name": "../etc"}, "'name'"),
        ({"texture_min_side": 2}, "'texture_min_side'"),
        ({"upscale": {"target_side": 100}}, "texture_min_side"),
        ({"upscale": {"upscaler": "magic"}}, "'upscale.upscaler'"),
        ({"limits": {"max_pixels": 10**12}}, "'limits.max_pixels'"),
    ],
)
def test_a_bad_value_is_one_sentence_naming_the_card_and_the_key(tmp_path: Path, change: dict, said: str) -> None:
    path = write(tmp_path, GOOD | change)
    with pytest.raises(UserError) as error:
        load_card(path)
    sentence = str(error.value)
    assert str(path) in sentence and said in sentence
    assert sentence.endswith(".") and "\n" not in sentence and "pydantic" not in sentence


@subtests.parametrize("content", ["a: [1, 2", "- just\n- a list", "", "\t: x"])
def test_what_is_no_yaml_mapping_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UserError) as error:
        load_card(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@checks
def a_missing_key_and_a_missing_card_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, {key: value for key, value in GOOD.items() if key != "columns"})
    with pytest.raises(UserError, match=r"no key 'columns' \(add it\)"):
        load_card(path)
    with pytest.raises(UserError, match=r"no card 'nowhere'.*openmoji"):
        load_card("nowhere")


@checks
def thresholds_change_the_dataset_but_not_what_is_downloaded() -> None:
    card = Card.model_validate(GOOD)
    other = card.model_copy(update={"texture_min_side": 256})
    assert card.digest() != other.digest()
    assert card.download_digest() == other.download_digest()
    less = card.model_copy(update={"limits": card.limits.model_copy(update={"max_bytes": 10})})
    assert less.download_digest() != card.download_digest()


def card_with(**held_out: object) -> Card:
    return Card.model_validate(GOOD | {"splits": {"held_out": held_out}})


@checks
def rows_are_held_out_by_key_by_caption_and_by_combination() -> None:
    card = card_with(keys=["k1"], captions_en=["Red Apple"], combinations=[["cat", "heart"]])
    assert card.split_of("green apple", "k1") == "held_out"
    assert card.split_of(" red apple ", "k2") == "held_out"
    assert card.split_of("smiling cat with heart eyes", "k2") == "held_out"
    assert card.split_of("smiling cat", "k2") == "train"
    assert card.split_of("green apple", "k2") == "train"


@checks
def what_is_held_out_may_stand_in_a_file_beside_the_card(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("Red Apple\n\n  狐狸 \n", encoding="utf-8")
    said = {name: GOOD | {"splits": {"held_out": {"captions_en": value}}} for name, value in HELD_OUT.items()}
    in_a_file, in_the_card = (load_card(write(tmp_path, said[name])) for name in ("file", "card"))
    assert in_a_file == in_the_card and in_a_file.digest() == in_the_card.digest()
    with pytest.raises(UserError, match=r"'splits.held_out.captions_en': the file .*nowhere.txt cannot be read"):
        load_card(write(tmp_path, said["missing"]))


HELD_OUT = {"file": {"file": "kept.txt"}, "card": ["Red Apple", "狐狸"], "missing": {"file": "nowhere.txt"}}


@given(caption=st.text(), key=st.text(min_size=1))
def test_without_rules_nothing_is_held_out(caption: str, key: str) -> None:
    assert Card.model_validate(GOOD).split_of(caption, key) == "train"


@checks
def a_fraction_holds_out_about_that_share_of_captions_whatever_their_images() -> None:
    card = card_with(fraction=0.2)
    split = [card.split_of(f"caption {number}", "a") for number in range(2000)]
    assert 0.16 < split.count("held_out") / 2000 < 0.24
    assert split == [card.split_of(f"Caption {number}", "b") for number in range(2000)]


test_card = checks.test()
