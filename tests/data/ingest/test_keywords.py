"""Keywords come into the dataset from any kind of table, each once, and stay with their image through everything that follows."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.data.captions import keywords_of
from pangu.data.card import Card
from pangu.data.example.openmoji import render_png, selection
from pangu.data.ingest.any_source import read_source
from pangu.data.ingest.source import content_digest, listing
from pangu.data.ingest.stage import ingest
from pangu.data.prepare.refilter import refilter
from pangu.data.prepare.stage import prepare
from pangu.data.table.delta import read_rows
from pangu.data.table.export import export_parquet, export_webdataset
from pangu.errors import UserError
from pangu.storage import Home

WORDS = ["", "fruit", " fruit ,red;  apple ", "水果，红；苹果、果", "🍎|apple|| ;,", "a\x00 b", "\ufffd|fox"]
TAKEN = [None, ["fruit"], ["fruit", "red", "apple"], ["水果", "红", "苹果", "果"], ["🍎", "apple"], ["a b"], ["fox"]]
NAMED = {"keywords_en": "en_words", "keywords_zh": "zh_words"}


def card(source: Path | str, name: str = "local", **columns: str | None) -> Card:
    return Card.model_validate(
        {
            "name": name, "source": str(source), "columns": {"caption_en": "en", **columns}, "licence": {"name": "CC0"},
            "texture_min_side": 32, "upscale": {"target_side": 48, "upscaler": "lanczos", "min_timestep": 300},
        }
    )  # fmt: skip


def taken(source: Path) -> list[list[str] | None]:
    return read_source(card(source, url="u", keywords_en="words"), Home(source.parent))["keywords_en"].to_pylist()


def test_keywords_are_read_from_every_kind_of_table(tmp_path: Path) -> None:
    rows = [{"u": f"http://a.org/{number}.png", "en": "x", "words": words} for number, words in enumerate(WORDS)]
    cells = ["\t".join(row.values()).replace("\x00", "\x01") for row in rows]
    (tmp_path / "t.tsv").write_text("\n".join(["u\ten\twords", *cells]))
    (tmp_path / "t.csv").write_text("\n".join(["u,en,words", *(f'{row["u"]},x,"{row["words"]}"' for row in rows)]))
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    mixed = [
        row | {"words": [row["words"], None, row["words"]] if at % 2 else row["words"]} for at, row in enumerate(rows)
    ]
    (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, mixed)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "text.parquet")
    lists = pa.Table.from_pylist([row | {"words": row["words"].split("|")} for row in rows])
    pq.write_table(
        lists.cast(lists.schema.set(2, pa.field("words", pa.large_list(pa.string())))), tmp_path / "t.parquet"
    )
    for path in sorted(tmp_path.iterdir()):
        assert taken(path) == TAKEN, path


@given(st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.text(max_size=9)), max_size=5)), min_size=1))
def test_no_keyword_is_empty_doubled_or_holds_a_separator(lists: list[list[str | None] | None]) -> None:
    table = pa.table(
        {"u": ["x"] * len(lists), "en": ["x"] * len(lists), "words": pa.array(lists, pa.list_(pa.string()))}
    )
    found = listing(card("t", url="u", keywords_en="words"), "t", table)["keywords_en"].to_pylist()
    assert len(found) == len(lists) and [] not in found
    for words in filter(None, found):
        assert len(set(words)) == len(words)
        assert all(word.strip() == word != "" and not set(word) & set("|,;，；、") for word in words)


def test_a_missing_column_is_one_sentence_and_lists_without_keywords_stay_what_they_were(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("u,en,kind\nhttp://a.org/1.png,a cat,\nhttp://a.org/2.png,a dog,\n")
    with pytest.raises(UserError, match="has no column 'words'; it has u, en, kind"):
        taken(tmp_path / "t.csv")
    without = read_source(card(tmp_path / "t.csv", url="u"), Home(tmp_path))
    empty = read_source(card(tmp_path / "t.csv", url="u", keywords_en="kind"), Home(tmp_path))
    assert content_digest(without) == content_digest(empty)


def test_digests_of_cards_without_keywords_are_what_they_were() -> None:
    columns = {"url": "URL", "caption_en": "TEXT"}
    birds = {"name": "birds", "source": "birds.parquet", "columns": columns, "licence": {"name": "CC BY 4.0"}}
    mine = Card.model_validate(birds)
    assert (mine.digest(), mine.work_digest()) == ("564a6888284b1587", "1f006c54f9063d02")
    other = Card.model_validate(birds | {"columns": columns | {"keywords_en": "TAGS"}})
    assert other.work_digest() != mine.work_digest() and other.download_digest() == mine.download_digest()


def test_keywords_stay_with_their_image_through_every_stage_and_every_way_back(tmp_path: Path) -> None:
    home, source = Home(tmp_path / "home"), tmp_path / "source"
    source.mkdir()
    images = [render_png(one, side) for one, side in zip(selection(4), (64, 64, 24, 64), strict=True)]
    facts = [
        {"en": "red apple", "en_words": ["fruit", "🍎"], "zh_words": "水果，果"},
        {"en": "fox", "en_words": None},
        {"en": "cat", "en_words": "animal", "zh_words": "动物"},  # too small: enlarged
        {"en": "dog", "en_words": "pet, animal"},
        {"en": "hound", "en_words": "animal|hunter", "zh_words": ["狗"]},  # the same image as the dog's
    ]
    for number, (image, words) in enumerate(zip([*images, images[3]], facts, strict=True)):
        (source / f"{number}.png").write_bytes(image)
        (source / f"{number}.json").write_text(json.dumps(words))
    mine = card(source, **NAMED)
    outcome = prepare(mine, ingest(mine, home).ingest_id, home)
    assert outcome.dropped == {"duplicate": 1}
    expected = {
        "red apple": (["fruit", "🍎"], ["水果", "果"]), "fox": (None, None), "cat": (["animal"], ["动物"]),
        "dog": (["pet", "animal", "hunter"], ["狗"]),
    }  # fmt: skip
    assert words_of(home, "local", 0) == expected
    stricter = mine.model_copy(update={"filters": mine.filters.model_copy(update={"max_aspect": 9.0})})
    assert words_of(home, "local", refilter(stricter, home, 0).version) == expected

    export_webdataset(home, "local", 0, tmp_path / "tars")
    export_parquet(home, "local", 0, tmp_path / "files")
    same = {"caption_en": "caption_en", "keywords_en": "keywords_en", "keywords_zh": "keywords_zh"}
    for name, back, only_originals in (
        ("borrowed", card("dataset://local@0", "borrowed", **same), True),
        ("archived", card(tmp_path / "tars" / "*.tar", "archived", **same), False),
        ("filed", card(tmp_path / "files" / "data" / "*.parquet", "filed", image="image", **same), False),
    ):
        prepare(back, ingest(back, home).ingest_id, home)
        assert words_of(home, name, 0) == {
            en: words for en, words in expected.items() if en != "cat" or not only_originals
        }


def words_of(home: Home, name: str, version: int) -> dict[str, tuple[list[str] | None, ...]]:
    rows = read_rows(home, name, version)
    found = zip(*(keywords_of(rows, language) for language in ("en", "zh")), strict=True)
    return {
        en: tuple(words or None for words in own) for en, own in zip(rows["caption_en"].to_pylist(), found, strict=True)
    }
