"""Folders, archives, Parquet with bytes and other datasets become the same raw shards that downloads do."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pangu.data.card import Card
from pangu.data.example.openmoji import render_png, selection
from pangu.data.ingest.any_source import read_source
from pangu.data.ingest.stage import check_source, ingest
from pangu.data.prepare.stage import prepare
from pangu.data.table.delta import read_rows
from pangu.errors import UserError
from pangu.storage import Home
from tests import subtests
from tests.small_dataset import NAME, commit_rows, row

DRAWINGS = selection(7)
IMAGES = [render_png(one, 64 if index % 2 else 24) for index, one in enumerate(DRAWINGS)]


def card(source: Path | str, **changes: object) -> Card:
    values = {
        "name": "local", "source": str(source), "columns": {"caption_en": "en", "caption_zh": "zh"}, "licence": {"name": "CC0"},
        "texture_min_side": 32, "limits": {"rows_per_shard": 3},
        "upscale": {"target_side": 48, "upscaler": "lanczos", "min_timestep": 300},
    }  # fmt: skip
    return Card.model_validate(values | changes)


def folder(root: Path) -> Path:
    """Images in two levels; captions of the first half in JSON beside them, of the others in one table."""
    rows = []
    for index, (one, image) in enumerate(zip(DRAWINGS, IMAGES, strict=True)):
        path = root / ("deep/er" if index > 4 else ".") / f"{index}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
        facts = {"en": one.caption_en, "zh": one.caption_zh}
        if index < 4:
            path.with_suffix(".json").write_text(json.dumps(facts))
        else:
            rows.append({"file_name": path.relative_to(root).as_posix(), **facts})
    pq.write_table(pa.Table.from_pylist(rows), root / "metadata.parquet")
    return root


def archives(root: Path) -> Path:
    root.mkdir()
    for number in range(2):
        with tarfile.open(root / f"{number}.tar", "w") as archive:
            for index in range(number * 4, min(7, number * 4 + 4)):
                one = DRAWINGS[index]
                facts = json.dumps({"en": one.caption_en, "zh": one.caption_zh}).encode()
                for suffix, data in (("json", facts), ("png", IMAGES[index])):
                    member = tarfile.TarInfo(f"samples/{index:03d}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return root / "*.tar"


def parquet(path: Path) -> Path:
    rows = [
        {"picture": {"bytes": image, "path": f"{one.stem}.png"}, "en": one.caption_en, "zh": one.caption_zh}
        for one, image in zip(DRAWINGS, IMAGES, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@subtests.parametrize("kind", ["folder", "archives", "parquet"])
def test_every_kind_of_source_gives_the_same_dataset(tmp_path: Path, kind: str) -> None:
    home = Home(tmp_path / "home")
    source = {"folder": folder, "archives": archives, "parquet": parquet}[kind](tmp_path / "source")
    columns = {"caption_en": "en", "caption_zh": "zh", "image": "picture" if kind == "parquet" else None}
    if kind == "parquet":
        source = source.rename(tmp_path / "source.parquet")
    mine = card(source, columns=columns)
    assert check_source(mine, read_source(mine, home), home) == {}
    done = ingest(mine, home)
    assert (done.listed, done.ok, done.failed) == (7, 7, {})
    prepare(mine, done.ingest_id, home)
    rows = read_rows(home, "local", 0).to_pylist()
    assert {(row["caption_en"], row["caption_zh"]) for row in rows} == {
        (one.caption_en, one.caption_zh) for one in DRAWINGS
    }
    assert {row["image"] for row in rows if not row["upscaled"]} == set(IMAGES[1::2])
    again = ingest(mine, home)
    assert again.already_done and again.ingest_id == done.ingest_id


def test_all_captions_of_an_image_come_into_the_dataset_once(tmp_path: Path) -> None:
    home, source = Home(tmp_path / "home"), tmp_path / "source"
    source.mkdir()
    facts = [
        {"en": ["a fox", "a fox", "red animal", None], "zh": 7},
        {"en": "a dog", "zh": ""},
        {"en": None, "zh": ["狗", "犬"]},
    ]
    for number, (image, words) in enumerate(zip((IMAGES[1], IMAGES[3], IMAGES[3]), facts, strict=True)):
        (source / f"{number}.png").write_bytes(image)
        (source / f"{number}.json").write_text(json.dumps(words))
    done = ingest(card(source), home)
    outcome = prepare(card(source, splits={"held_out": {"captions_en": ["Red animal"]}}), done.ingest_id, home)
    assert (outcome.rows, outcome.held_out, outcome.dropped) == (2, 1, {"duplicate": 1})
    columns = ["caption_en", "more_captions_en", "caption_zh", "more_captions_zh", "split"]
    rows = sorted(tuple(row.values()) for row in read_rows(home, "local", 0, columns=columns).to_pylist())
    assert rows == [("a dog", None, "狗", ["犬"], "train"), ("a fox", ["red animal"], "7", None, "held_out")]


def test_a_changed_file_is_another_ingest_and_an_unfinished_one_goes_on(tmp_path: Path) -> None:
    home, source = Home(tmp_path / "home"), folder(tmp_path / "source")
    done = ingest(card(source), home)
    raw = home.raw("local", done.ingest_id)
    for name in ("outcome.json", "rows.parquet", "shards/00001.parquet", "shards/00001_stats.json"):
        (raw / name).unlink()
    kept = (raw / "shards/00000.parquet").stat().st_mtime_ns
    assert ingest(card(source), home).model_copy(update={"seconds": 0}) == done.model_copy(update={"seconds": 0})
    assert (raw / "shards/00000.parquet").stat().st_mtime_ns == kept
    (source / "0.PNG").write_bytes(IMAGES[1])
    assert ingest(card(source), home).ingest_id != done.ingest_id


def test_another_dataset_lends_its_originals_only(tmp_path: Path) -> None:
    home = Home(tmp_path)
    rows = [row(one, index % 2 == 1) for index, one in enumerate(selection(8))]
    version = commit_rows(home, [rows[0] | {"more_captions_zh": ["别的"]}, *rows[1:]])
    columns = {"caption_en": "caption_en", "caption_zh": "caption_zh", "license": "license"}
    mine = card(f"dataset://{NAME}@{version}", columns=columns)
    done = ingest(mine, home)
    prepare(mine, done.ingest_id, home)
    ours, theirs = read_rows(home, "local", 0), read_rows(home, NAME, version, upscaled=False)
    assert ours["key"].to_pylist() == theirs["key"].to_pylist()
    assert ours["more_captions_zh"].to_pylist() == theirs["more_captions_zh"].to_pylist()
    assert ours["more_captions_zh"].drop_null().to_pylist() == [["别的"]]
    assert ours["source_url"].to_pylist() == theirs["source_url"].to_pylist()
    assert set(ours["license"].to_pylist()) == {"CC BY-SA 4.0"}


def test_too_large_and_missing_bytes_cost_their_row(tmp_path: Path) -> None:
    home, source = Home(tmp_path / "home"), parquet(tmp_path / "source.parquet")
    table = pq.read_table(source)
    rows = table.to_pylist()
    rows[0]["picture"] = None
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), source)
    limits = {"rows_per_shard": 3, "max_bytes": max(map(len, IMAGES[1:])) - 1}
    columns = {"caption_en": "en", "caption_zh": "zh", "image": "picture"}
    done = ingest(card(source, columns=columns, limits=limits), home)
    assert done.failed == {"missing_bytes": 1, "too_many_bytes": 1} and done.ok == 5


def test_bad_sources_are_one_sentence_each(tmp_path: Path) -> None:
    home, good = Home(tmp_path / "home"), parquet(tmp_path / "good.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.tar").write_bytes(b"no archive at all" * 100)
    shapes = pq.read_table(good)
    pq.write_table(shapes.append_column("en", shapes["en"]), tmp_path / "twice.parquet")
    image = {"caption_en": "en", "image": "picture"}
    for source, columns, sentence in [
        (tmp_path / "empty", None, "holds no image"),
        (tmp_path / "torn.tar", None, "cannot be read as a tar archive"),
        (tmp_path / "gone.tar", None, "gone.tar of card 'local' does not exist"),
        (tmp_path / "*.jsonl", None, r"No file matches .*\*.jsonl"),
        (tmp_path / "twice.parquet", image, "has 2 columns called 'en'"),
        (good, {"caption_en": "en", "image": "pixels"}, "no column 'pixels'; it has picture, en, zh"),
        (folder(tmp_path / "f"), {"caption_en": "TEXT"}, "no column 'TEXT'"),
        ("dataset://nothing", None, "no dataset 'nothing'"),
        ("dataset://a@b", None, "must be dataset://NAME@VERSION"),
    ]:
        mine = card(source, **({"columns": columns} if columns else {}))
        with pytest.raises(UserError, match=sentence) as error:
            ingest(mine, home)
        assert "\n" not in str(error.value)
