"""A table gives the same listed rows whatever its format, or one sentence about what is wrong with it."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from pangu.data.card import Card, load_card
from pangu.data.ingest.any_source import read_source
from pangu.data.ingest.source import LISTED, content_digest
from pangu.errors import UserError
from pangu.storage import Home
from tests import subtests

ROWS = [("http://a.org/1.png", "a cat", "猫"), ("http://a.org/2.png", " a dog\n", None), (None, None, "鸟")]
CSV = 'u,en,zh\nhttp://a.org/1.png,a cat,猫\nhttp://a.org/2.png," a dog\n",\n,,鸟\n'
JSONL = """{"u": "http://a.org/1.png", "en": "a cat", "zh": "猫"}
{"u": "http://a.org/2.png", "en": " a dog\\n", "zh": null}
{"u": null, "en": null, "zh": "鸟"}
"""


def card_for(path: Path, **columns: str) -> Card:
    columns = columns or {"url": "u", "caption_en": "en", "caption_zh": "zh"}
    return Card.model_validate({"name": "t", "source": str(path), "columns": columns, "licence": {"name": "CC0"}})


def listed(path: Path, **columns: str) -> pa.Table:
    return read_source(card_for(path, **columns), Home(path.parent))


def write_parquet(path: Path) -> Path:
    pq.write_table(pa.table({name: [row[i] for row in ROWS] for i, name in enumerate(("u", "en", "zh"))}), path)
    return path


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text(CSV, encoding="utf-8")
    (tmp_path / "t.jsonl").write_text(JSONL, encoding="utf-8")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    tables = [listed(tmp_path / f"t.{suffix}") for suffix in ("parquet", "csv.gz", "jsonl")]
    assert all(table.schema.equals(LISTED) for table in tables)
    assert tables[0].to_pylist() == tables[1].to_pylist() == tables[2].to_pylist()
    assert tables[0]["caption_en"].to_pylist() == ["a cat", "a dog", ""]
    assert tables[0]["license"].to_pylist() == ["CC0"] * 3
    assert len({content_digest(table) for table in tables}) == 1


def test_the_digest_tells_another_order_and_another_caption(tmp_path: Path) -> None:
    table = listed(write_parquet(tmp_path / "t.parquet"))
    assert content_digest(table) != content_digest(table.take([1, 0, 2]))
    changed = table.set_column(2, "caption_en", pa.array(["a cat", "a hog", ""]))
    assert content_digest(table) != content_digest(changed)


def test_bad_tables_are_one_sentence_each(tmp_path: Path) -> None:
    good = write_parquet(tmp_path / "t.parquet")
    (tmp_path / "torn.parquet").write_bytes(good.read_bytes()[:-20])
    (tmp_path / "binary.csv").write_bytes(b'\xff\x00\x01,\n"')
    (tmp_path / "broken.jsonl").write_text('{"u": "x"')
    (tmp_path / "empty.csv").write_text("u,en,zh\n")
    (tmp_path / "nothing.csv").write_text("")
    (tmp_path / "broken.csv.gz").write_bytes(b"no gzip")
    pq.write_table(pa.table({"u": [["a list"]], "en": ["x"], "zh": ["y"]}), tmp_path / "types.parquet")
    for name in ("torn.parquet", "binary.csv", "broken.jsonl", "empty.csv", "nothing.csv", "broken.csv.gz", "types.parquet",
                 "missing.csv", "table.xlsx"):  # fmt: skip
        with pytest.raises(UserError) as error:
            listed(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value), name


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column 'TEXT'; it has u, en, zh"):
        listed(write_parquet(tmp_path / "t.parquet"), url="u", caption_en="TEXT")


SHAPES = {
    "laion": {
        "URL": "http://a.org/1.jpg",
        "TEXT": "a cat",
        "LICENSE": "?",
        "similarity": 0.3,
        "WIDTH": 10,
        "HEIGHT": 10,
    },
    "noah_wukong": {"url": "http://a.org/1.jpg", "caption": "一只猫"},
    "coco_cn": {"coco_url": "http://a.org/1.jpg", "caption_en": ["a cat", "a pet"], "caption_zh": ["一只猫"]},
    "datacomp": {"uid": "0", "url": "http://a.org/1.jpg", "text": "a cat", "original_width": 10, "sha256": "00"},
}


@subtests.parametrize("shape", sorted(SHAPES))
def test_each_template_reads_a_table_of_its_shape(tmp_path: Path, shape: str) -> None:
    template = Path(__file__).parents[3] / "datasets" / f"{shape}.yaml.example"
    (tmp_path / "card.yaml").write_bytes(template.read_bytes())
    card = load_card(tmp_path / "card.yaml")
    table = pa.Table.from_pylist([SHAPES[shape]])
    for number in range(2 if "*" in card.source else 1):
        path = tmp_path / card.source.replace("*", str(number))
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pq.write_table(table, path)
        elif path.suffix == ".jsonl":
            path.write_text(json.dumps(SHAPES[shape]))
        else:
            pyarrow.csv.write_csv(table, path)
    rows = read_source(card, Home(tmp_path)).to_pylist()
    assert len(rows) == (2 if "*" in card.source else 1) and rows[0]["url"] == "http://a.org/1.jpg"
    assert (rows[0]["caption_en"] or "a cat", rows[0]["caption_zh"] or "一只猫") == ("a cat", "一只猫")


def test_captions_lose_what_no_reader_sees_and_keep_joined_emoji(tmp_path: Path) -> None:
    table = pa.table(
        {"u": ["x"] * 3, "en": ["a\x00 \u202efox\u202c", "x" * 5000, "\x07"], "zh": ["👩‍🚀 一\ufeff只", "", "猫"]}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    rows = listed(tmp_path / "t.parquet")
    assert rows["caption_en"].to_pylist() == ["a fox", "", ""]
    assert rows["caption_zh"].to_pylist() == ["👩‍🚀 一 只", "", "猫"]
