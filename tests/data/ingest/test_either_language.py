"""A column of captions in either language, and tables of captions that lie elsewhere than in the folder of images."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.data.captions import language_of
from pangu.data.ingest.any_source import read_source
from pangu.data.ingest.stage import ingest
from pangu.errors import UserError
from pangu.storage import Home
from tests import subtests
from tests.data.ingest.test_local_sources import IMAGES, card

TEXTS = st.text(st.sampled_from("fox 狐狸の马1🍎"), min_size=1, max_size=8)


@subtests.parametrize(
    ("text", "language"),
    [
        ("a fox", "en"), ("狐狸", "zh"), ("iPhone 手机", "zh"), ("the character 马", "en"), ("ネコと犬", "en"), ("여우", "en"),
        ("狐", "zh"), ("🍎", None), ("123 !", None), ("", None),
    ],
)  # fmt: skip
def test_a_text_is_chinese_by_its_characters_against_the_words_of_other_scripts(
    text: str, language: str | None
) -> None:
    assert language_of(text) == language


@given(st.lists(st.tuples(st.lists(TEXTS, max_size=4), TEXTS), min_size=1, max_size=5))
def test_each_caption_of_either_language_stands_once_in_its_own_behind_those_that_say_theirs(rows: list) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "rows.jsonl")
        table.write_text(
            "\n".join(json.dumps({"url": "http://a.org", "text": either, "zh": zh}) for either, zh in rows)
        )
        mixed = card(table, columns={"caption": "text", "caption_zh": "zh"})
        listed = read_source(mixed, Home(Path(folder))).to_pylist()
    for (either, zh), row in zip(rows, listed, strict=True):
        clean = [" ".join(text.split()) for text in either if text.strip()]
        english = list(dict.fromkeys(text for text in clean if language_of(text) != "zh"))
        chinese = list(
            dict.fromkeys([*filter(None, [" ".join(zh.split())]), *(t for t in clean if language_of(t) == "zh")])
        )
        for language, expected in (("en", english), ("zh", chinese)):
            assert row[f"caption_{language}"] == (expected[0] if expected else "")
            assert (row[f"more_captions_{language}"] or []) == expected[1:]


def test_a_card_names_the_table_of_a_folders_captions_wherever_it_lies(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(IMAGES[:3]):
        (folder / f"{number}.png").write_bytes(image)
    (tmp_path / "said.csv").write_text("picture,en\n0.png,one\n1.png,two\ngone.png,three\n")
    (folder / "own.csv").write_text("picture,en\n./0.png,one\n1.png,two\n2.png,three\n")
    columns, home = {"caption_en": "en"}, Home(tmp_path / "home")
    outside = card(folder, columns=columns, metadata={"file": str(tmp_path / "said.csv"), "file_name": "picture"})
    listed = read_source(outside, home)
    assert listed["caption_en"].to_pylist() == ["one", "two", "", "", "three"]
    assert ingest(outside, home).failed == {"missing_file": 1, "not_an_image_file .csv": 1}
    inside = card(folder, columns=columns, metadata={"file": str(folder / "own.csv"), "file_name": "picture"})
    assert read_source(inside, home)["caption_en"].to_pylist() == ["one", "two", "three"], "and is no row of its own"
    with pytest.raises(UserError, match="has no column 'file_name'; it has picture, en"):
        read_source(card(folder, columns=columns, metadata={"file": str(folder / "own.csv")}), home)
    with pytest.raises(UserError, match="does not exist"):
        read_source(card(folder, columns=columns, metadata={"file": str(folder / "no.csv")}), home)


def test_every_folder_may_have_metadata_of_its_own_pictures(tmp_path: Path) -> None:
    for split, image in zip(("train", "test/small"), IMAGES, strict=False):
        (tmp_path / split).mkdir(parents=True)
        (tmp_path / split / "0.png").write_bytes(image)
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "en": split}))
    listed = read_source(card(tmp_path, columns={"caption_en": "en"}), Home(tmp_path / "home"))
    assert sorted(listed["caption_en"].to_pylist()) == ["test/small", "train"]
