"""What a table says is what is read, whatever its format, how many files it has, and how much of it is read at a time."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pangu.data.ingest import coco_list, table_files
from pangu.data.ingest.any_source import read_source
from pangu.data.ingest.source import read_tables
from pangu.data.ingest.stage import check_source
from pangu.data.table import sorting
from pangu.errors import UserError
from pangu.storage import Home
from tests import subtests
from tests.data.ingest.test_source import card_for, listed

checks = subtests.Checks()


NAMES = ["u", "en", "zh"]
AS_WRITTEN = [
    "",
    "NA",
    "null",
    "NULL",
    "nan",
    "None",
    "007",
    "1.10",
    "1e5",
    "true",
    '"',
    '""',
    "a\nb",
    "\r\n",
    ",;\t",
    "a\rb",
    "#x",
    "猫\n",
]
TEXT = st.one_of(st.sampled_from(AS_WRITTEN), st.text(max_size=12))
ROWS = st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=8)
KINDS = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()]


def write(path: Path, rows: list[tuple[str, ...]], number: int) -> None:
    """The rows under these names, beside a column that nobody asks for; `number` chooses among the ways to write them."""
    rows = [(str(at), *row) for at, row in enumerate(rows)]
    names = ["other", *NAMES]
    if path.suffix in (".csv", ".tsv"):
        mark = "\t" if path.suffix == ".tsv" else ",;\t"[number % 3]
        with path.open("w", encoding="utf-8" if number % 2 else "utf-8-sig", newline="") as file:
            # Python before 3.13 leaves a lone \r unquoted unless it is told to quote all.
            writer = csv.writer(
                file, delimiter=mark, lineterminator="\n" if number % 2 else "\r\n", quoting=csv.QUOTE_ALL
            )
            writer.writerows([names, *rows])
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=bool(number % 2)) for row in rows]
        path.write_text("\n\n".join(lines), encoding="utf-8")
    else:
        columns = {name: pa.array([row[at] for row in rows]).cast(KINDS[number % 4]) for at, name in enumerate(names)}
        pq.write_table(pa.table(columns), path, row_group_size=2)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shards=st.lists(ROWS, min_size=1, max_size=3), suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]),
       at_once=st.integers(1, 4), style=st.integers(0, 11))  # fmt: skip
def test_any_table_is_read_as_it_was_written(shards, suffix, at_once, style, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(table_files, "ROWS_AT_ONCE", at_once)
    paths = [tmp_path / f"{number}{suffix}" for number in range(len(shards))]
    for number, (path, rows) in enumerate(zip(paths, shards, strict=True)):
        write(path, rows, style + number)
    found = read_tables(card_for(tmp_path), [str(path) for path in paths], NAMES)
    assert [tuple(row.values()) for row in found.to_pylist()] == [row for rows in shards for row in rows]
    assert found.schema.types == [pa.string()] * 3


@checks
def quoted_lines_are_kept_in_a_file_that_no_reader_holds_at_once(tmp_path: Path) -> None:
    rows = [
        (f"http://a.org/{at}.png", f'one, "{at}"\nhttp://b.org/{at}.png,two\n' * 5, f"猫,\n{at}") for at in range(6200)
    ]
    write(tmp_path / "t.csv", rows, 3)
    write(tmp_path / "t.jsonl", rows, 0)
    assert (tmp_path / "t.csv").stat().st_size > 1 << 20
    for suffix in ("csv", "jsonl"):
        found = listed(tmp_path / f"t.{suffix}")
        assert found["url"].to_pylist() == [row[0] for row in rows]
        assert found["caption_en"][6199].as_py().count("two") == 5


def captions(path: Path) -> list[str]:
    return listed(path)["caption_en"].to_pylist()


@checks
def values_are_text_as_they_are_written_and_nothing_is_no_caption(tmp_path: Path) -> None:
    head = '{"u": "x", "zh": null, "en": '
    values = ["null", "7", "1.10", '"007"', "true", "NaN", '"NA"', "123456789012345678901234567890", '"\\ud83e\\udd8a"']
    (tmp_path / "t.jsonl").write_text("".join(f"{head}{value}}}\n" for value in values))
    expected = ["", "7", "1.10", "007", "true", "", "NA", "123456789012345678901234567890", "🦊"]
    assert captions(tmp_path / "t.jsonl") == expected
    for name, array in {
        "nan": pa.array([float("nan"), None, 1.5]), "int": pa.array([7, None, 8]), "null": pa.nulls(3),
        "codes": pa.array([float("nan"), None, 1.5]).dictionary_encode(), "bytes": pa.array([b"a", None, "猫".encode()]),
    }.items():  # fmt: skip
        pq.write_table(pa.table({"u": ["x"] * 3, "en": array, "zh": ["猫"] * 3}), tmp_path / f"{name}.parquet")
    assert captions(tmp_path / "nan.parquet") == captions(tmp_path / "codes.parquet") == ["", "", "1.5"]
    assert captions(tmp_path / "int.parquet") == ["7", "", "8"]
    assert captions(tmp_path / "null.parquet") == [""] * 3
    assert captions(tmp_path / "bytes.parquet") == ["a", "", "猫"]
    # A column that is numbers, or lists, or nothing, in one shard only
    pq.write_table(pa.table({"u": ["x"], "en": [["a", "b"]], "zh": ["猫"]}), tmp_path / "list.parquet")
    found = listed(tmp_path / "*.parquet")
    assert {"7", "8", "1.5", "a", "猫", ""} == set(found["caption_en"].to_pylist())
    assert found["more_captions_en"].drop_null().to_pylist() == [["b"]]


@checks
def a_list_of_captions_is_taken_each_once_and_clean(tmp_path: Path) -> None:
    lists = [["a cat", " a cat\n", None, "", "a\x00 dog", "x" * 5000], [], None, ["one"]]
    expected = [("a cat", ["a dog"]), ("", None), ("", None), ("one", None)]
    lines = [json.dumps({"u": "x", "en": texts, "zh": "猫"}) for texts in lists]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    for name, kind in {
        "a": pa.list_(pa.string()),
        "b": pa.large_list(pa.large_string()),
        "c": pa.list_view(pa.string()),
    }.items():
        pq.write_table(
            pa.table({"u": ["x"] * 4, "en": pa.array(lists, kind), "zh": ["猫"] * 4}), tmp_path / f"{name}.parquet"
        )
    for path in tmp_path.iterdir():
        found = listed(path)
        pairs = zip(found["caption_en"].to_pylist(), found["more_captions_en"].to_pylist(), strict=True)
        assert list(pairs) == expected, path
        assert found["more_captions_zh"].null_count == 4


@checks
def bytes_that_are_no_text_cost_their_caption_and_name_their_row(tmp_path: Path, caplog) -> None:
    lines = [
        b"u,en,zh,other",
        b"1,a cat,\xe7\x8c\xab,x",
        b"2,caf\xe9,\xe7\x8c\xab,x",
        b"3,a dog,\xb9,x",
        b"4,a fox,,\xff",
    ]
    (tmp_path / "t.csv").write_bytes(b"\n".join(lines))
    rows = [b'{"u": "%s", "en": "%s", "zh": "%s"}' % tuple(line.split(b",")[:3]) for line in lines[1:]]
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(rows))
    columns = [pa.array([line.split(b",")[at] for line in lines[1:]]) for at in range(3)]
    pq.write_table(pa.table(columns, NAMES), tmp_path / "t.parquet")
    for suffix in ("csv", "jsonl", "parquet"):
        caplog.clear()
        found = listed(tmp_path / f"t.{suffix}")
        assert found["caption_en"].to_pylist() == ["a cat", "", "a dog", "a fox"], suffix
        assert found["caption_zh"].to_pylist() == ["猫", "猫", "", ""]
        assert [f"t.{suffix}" in line and "not UTF-8" in line for line in caplog.messages] == [True, True]
        assert "the first in row 1 " in caplog.messages[0] and "the first in row 2 " in caplog.messages[1]
    (tmp_path / "urls.csv").write_bytes(b"u,en,zh\nhttp://a.org/\xb9.png,a cat,\nhttp://a.org/1.png,a cat,\n")
    card = card_for(tmp_path / "urls.csv")
    assert check_source(card, listed(tmp_path / "urls.csv"), Home(tmp_path)) == {0: "bad_url"}


@checks
def folders_of_shards_and_unusual_names_are_read(tmp_path: Path) -> None:
    rows = [("http://a.org/1.png", "a cat", "猫"), ("http://a.org/2.png", "a dog", "狗")]
    spark = tmp_path / "x.parquet"
    (spark / "_temporary").mkdir(parents=True)
    for place in ("part-00000", ".part-00000", "_temporary/part"):
        write(spark / f"{place}.parquet", rows[:1], 0)
    write(spark / "part-00001.parquet", rows[1:], 1)
    (spark / "_SUCCESS").touch()
    (tmp_path / "shards").mkdir()
    for number in range(2):
        write(tmp_path / "shards" / f"{number}.csv", rows[number : number + 1], number)
    write(tmp_path / "t.csv", rows, 0)
    data = (tmp_path / "t.csv").read_bytes()
    (tmp_path / "T.CSV").write_bytes(data)
    (tmp_path / "u.Csv.GZ").write_bytes(gzip.compress(data))
    (tmp_path / "excel.csv").write_bytes(data.decode("utf-8-sig").replace(",", "\t").encode("utf-16"))
    write(tmp_path / "t.tsv", rows, 0)
    sources = ["x.parquet", "x.parquet/", "shards", "T.CSV", "u.Csv.GZ", "excel.csv", "t.tsv", "shards/*.csv"]
    for source in [*sources, f"file://{spark}"]:
        card = card_for(tmp_path).model_copy(update={"source": source if "://" in source else f"{tmp_path}/{source}"})
        found = read_source(card, Home(tmp_path))
        assert found["caption_zh"].to_pylist() == ["猫", "狗"], source


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        listed(path)
    assert path.name in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@checks
def what_cannot_be_read_is_named_by_line_or_column(tmp_path: Path) -> None:
    for name, text, sentence in [
        ("twice.csv", "u,en,zh,en\n1,2,3,4\n", "has 2 columns called 'en'; give the others another name"),
        ("short.csv", 'u,en,zh\n1,"a\nb",3\n1,2\n', "has 3 columns, but 2 fields in the record that begins in line 4"),
        ("open.csv", 'u,en,zh\n1,2,3\n4,"5,6\n7,8,9\n', "broken record that begins in line 3"),
        ("lines.jsonl", '{"u": "x", "en": "a", "zh": "b"}\n\n{"u": "x"', "holds no JSON in line 3"),
        ("list.jsonl", '["x"]\n', "holds no JSON object in line 1"),
        ("object.jsonl", '{"u": "x", "en": {"a": 1}, "zh": "b"}\n', "holds an object in line 1"),
        ("deep.jsonl", '{"u": "x", "en": [["a"]], "zh": "b"}\n', "holds a list of lists in line 1"),
        ("urls.jsonl", '{"u": ["x"], "en": "a", "zh": "b"}\n', "must hold text"),
        ("none.jsonl", '{"u": "x", "en": "a"}\n', "has no column 'zh'; it has u, en"),
        ("table.json", "{}", "is no list of captions as COCO has it"),
            ("boxes.json", '{"images": [{"id": 1}], "annotations": [{"image_id": 1}]}', "holds no `caption`"),
            ("table.xml", "<a/>", "must end in .parquet, .csv, .tsv, .jsonl"),
    ]:  # fmt: skip
        (tmp_path / name).write_text(text)
        assert sentence in refusal(tmp_path / name), name
    sink = io.BytesIO(gzip.compress(b"u,en,zh\n" + b"1,2,3\n" * 9999))
    (tmp_path / "torn.csv.gz").write_bytes(sink.getvalue()[:-40])
    assert "cannot be read as .csv" in refusal(tmp_path / "torn.csv.gz")
    both = pa.Table.from_arrays([pa.array(["x"])] * 4, names=["u", "en", "zh", "u"])
    pq.write_table(both, tmp_path / "twice.parquet")
    assert "has 2 columns called 'u'" in refusal(tmp_path / "twice.parquet")
    pq.write_table(pa.table({"u": ["x"], "en": [{"a": "b"}], "zh": ["y"]}), tmp_path / "struct.parquet")
    assert "holds struct<a: string> in its column 'en'" in refusal(tmp_path / "struct.parquet")


@settings(max_examples=40, deadline=None)
@given(st.permutations(["images", "annotations", "licenses", "info"]), st.booleans(), st.data())
def test_cocos_list_is_read_in_pieces_as_whole(order: list[str], is_spaced: bool, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, 30), unique=True, min_size=1, max_size=20))
    words = data.draw(
        st.lists(st.tuples(st.sampled_from([*numbers, 99]), st.text(max_size=9)), min_size=1, max_size=30)
    )
    whole: dict[str, Any] = {
        "images": [{"id": number, "u": f'{number}图"]', "license": number % 3, "height": 1.50} for number in numbers],
        "annotations": [{"image_id": number, "caption": text} for number, text in words],
        "licenses": [{"id": 0, "name": "CC0"}, {"id": 1, "name": "MIT"}],
        "info": {"nested": [1, {"a": []}], "year": 2014},
    }
    text = json.dumps({name: whole[name] for name in order}, indent=2 if is_spaced else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_list, "BYTES_AT_ONCE", 7)
        patch.setattr(sorting, "PART_ROWS", 5)
        found = list(coco_list.coco_rows(io.BytesIO(text.encode())))
    assert found == [
        {
            **image,
            "height": "1.5",
            "license": ["CC0", "MIT", None][image["license"]],
            "caption": [caption for number, caption in words if number == image["id"]],
        }
        for image in whole["images"]
    ]
    for torn in (text[:-1], text[: len(text) // 2], f"{text} {{}}"):
        with pytest.raises((ValueError, LookupError)):
            list(coco_list.coco_rows(io.BytesIO(torn.encode())))


test_table_files = checks.test()
