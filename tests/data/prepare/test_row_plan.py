"""Which rows are made: with a caption, of equal bytes one with all their captions, each under its shard; checked against a plain
loop."""

import pickle
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu.data.ingest.raw import ROWS
from pangu.data.prepare import row_plan
from pangu.data.prepare.row_plan import RowPlan, plan_rows
from pangu.data.table import sorting

CAPTIONS = st.sampled_from(["", "a cat", "a dog", "a fox", None])
MORE_CAPTIONS = st.sampled_from([None, None, ["a fox"], ["a cat", "a hen"]])
LISTINGS = st.lists(
    st.fixed_dictionaries(
        {
            "reason": st.sampled_from(["", "", "", "http_404"]),
            "caption_en": CAPTIONS,
            "caption_zh": CAPTIONS,
            "more_captions_en": MORE_CAPTIONS,
            "more_captions_zh": MORE_CAPTIONS,
            "keywords_en": MORE_CAPTIONS,
            "keywords_zh": MORE_CAPTIONS,
            "sha256": st.sampled_from("abcdef"),
            "ingest": st.sampled_from(["", "earlier"]),
            "shard": st.integers(0, 3),
            "raw_row": st.integers(0, 1000),
        }
    ),
    max_size=40,
)


def planned(rows: list[dict[str, Any]], describes: bool = False) -> tuple[RowPlan, dict[tuple[str, int], list[dict]]]:
    """The plan, and its rows by ingest and shard."""
    listed = pa.Table.from_pylist([{"row": number, **row} for number, row in enumerate(rows)], schema=ROWS)
    with tempfile.TemporaryDirectory(prefix="it's [a] ") as folder, pytest.MonkeyPatch.context() as patch:
        pq.write_table(listed, Path(folder) / "listed.parquet", row_group_size=7)
        patch.setattr(sorting, "PART_ROWS", max(9, len(rows) // 4))
        plan = plan_rows(Path(folder) / "listed.parquet", Path(folder) / "plan.parquet", describes)
        return plan, {(shard.ingest, shard.shard): shard.rows().to_pylist() for shard in plan.shards}


def captions_of(row: dict[str, Any], language: str) -> list[str]:
    return [text for text in (row[f"caption_{language}"], *(row[f"more_captions_{language}"] or [])) if text]


@settings(max_examples=20, deadline=None)
@given(LISTINGS, st.booleans())
def test_it_keeps_what_a_plain_loop_keeps(rows: list[dict[str, Any]], describes: bool) -> None:
    kept: dict[tuple[str, int], list[int]] = {}
    dropped, seen = Counter[str](), set[str]()
    captions: dict[tuple[str, str], list[str]] = {}
    words: dict[tuple[str, str], list[str]] = {}
    for number, row in enumerate(rows):
        if row["reason"]:
            continue
        if not (describes or row["caption_en"] or row["caption_zh"]):
            dropped["missing_caption"] += 1
            continue
        for language in ("en", "zh"):
            captions.setdefault((row["sha256"], language), []).extend(captions_of(row, language))
            words.setdefault((row["sha256"], language), []).extend(row[f"keywords_{language}"] or [])
        if row["sha256"] in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(row["sha256"])
            kept.setdefault((row["ingest"], row["shard"]), []).append(number)
    plan, made = planned(rows, describes)
    assert {shard: [row["row"] for row in found] for shard, found in made.items()} == kept
    assert list(made) == sorted(kept)
    assert [shard.count for shard in plan.shards] == [len(kept[place]) for place in sorted(kept)]
    assert plan.dropped == dropped
    for row in (row for found in made.values() for row in found):
        for language in ("en", "zh"):
            merged = dict.fromkeys(captions[row["sha256"], language])
            assert list(dict.fromkeys(captions_of(row, language))) == list(merged)
            assert (row[f"keywords_{language}"] or []) == list(dict.fromkeys(words[row["sha256"], language]))


def test_the_languages_of_rows_of_equal_bytes_come_together() -> None:
    common = {"reason": "", "sha256": "a", "ingest": "", "shard": 0, "raw_row": 0}
    rows = [common | {"caption_en": "a cat", "caption_zh": ""}, common | {"caption_en": "", "caption_zh": "猫"}]
    rows += [
        common | {"caption_en": "a cat", "more_captions_en": ["a pet"]},
        common | {"caption_zh": "猫", "sha256": "b"},
    ]
    first, other = planned(rows)[1]["", 0]
    assert (first["caption_en"], first["caption_zh"]) == ("a cat", "猫")
    assert (first["more_captions_en"], first["more_captions_zh"]) == (["a pet"], None)
    assert (other["sha256"], other["caption_zh"], other["more_captions_en"]) == ("b", "猫", None)


def test_the_rows_of_a_shard_travel_without_those_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"reason": "", "caption_en": "x" * 100, "sha256": str(n), "ingest": "", "shard": n // 10, "raw_row": n}
        for n in range(1000)
    ]
    plan, made = planned(rows)
    assert len(plan.shards) == 100 and [row["raw_row"] for row in made["", 7]] == list(range(70, 80))
    assert len(pickle.dumps(plan.shards[7])) < 1000
    monkeypatch.setattr(row_plan, "FILE_ROWS", 25)
    in_files, same = planned(rows)
    assert same == made and len({shard.file for shard in in_files.shards}) == 34, "a file has three shards or more rows"


def test_a_list_that_names_one_picture_ever_again_is_one_row_with_every_caption_once() -> None:
    common = {"reason": "", "sha256": "a", "ingest": "", "shard": 0, "raw_row": 0}
    plan, made = planned([common | {"caption_en": f"caption {number % 3}"} for number in range(20_000)])
    [only] = made["", 0]
    assert (only["caption_en"], only["more_captions_en"]) == ("caption 0", ["caption 1", "caption 2"])
    assert plan.dropped == {"duplicate": 19_999}
