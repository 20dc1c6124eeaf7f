"""The table refuses what does not fit, lets two writers in one after the other, and is read without us."""

import json
import os
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from deltalake import DeltaTable
from typer.testing import CliRunner

from pangu.cli import dataset
from pangu.data.example.openmoji import selection
from pangu.data.ingest.local_sources import local_images
from pangu.data.table.delta import commit, data_files, latest_version, read_rows
from pangu.data.table.export import export_parquet, export_webdataset
from pangu.data.table.schema import SCHEMA
from pangu.data.table.store import TableStore
from pangu.data.table.version_files import write_part
from pangu.data.table.versions import diff, key_of, log, show, vacuum
from pangu.errors import UserError
from pangu.storage import Home
from tests import subtests
from tests.data.ingest.test_source import card_for
from tests.small_dataset import NAME, commit_as_before, commit_rows, row, small_dataset

checks = subtests.Checks()


ROWS = [row(one, index % 2 == 1) for index, one in enumerate(selection(8))]


@checks
def a_column_that_is_missing_or_of_another_type_is_refused_by_name(tmp_path: Path) -> None:
    store, good = TableStore(str(tmp_path)), pa.Table.from_pylist(ROWS, schema=SCHEMA)
    with pytest.raises(UserError, match="lack the column 'phash'"):
        write_part(store, "a", good.drop_columns(["phash"]), False)
    with pytest.raises(UserError, match="'width' of dataset rows has type string; it must be int32"):
        write_part(store, "a", good.set_column(2, "width", good["width"].cast(pa.string())), False)
    with pytest.raises(UserError, match="no column 'colour'"):
        write_part(store, "a", good.append_column("colour", good["width"]), False)
    assert not list(tmp_path.rglob("*.parquet"))


@checks
def two_writers_at_once_both_land_and_neither_is_lost(tmp_path: Path) -> None:
    home = Home(tmp_path)
    small_dataset(home, 4)
    keys = [f"writer-{number}" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda key: commit_rows(home, ROWS[: 2 + keys.index(key)], key), keys))
    assert sorted(versions) == [1, 2, 3, 4]
    for number, version in enumerate(versions):
        assert read_rows(home, NAME, version, columns=["key"]).num_rows == 2 + number
    assert commit_rows(home, ROWS, "writer-2") == versions[2] and latest_version(home, NAME) == 4


@checks
def a_table_from_before_the_scores_gets_them_with_its_next_version(tmp_path: Path) -> None:
    later = ("colours", "aspect", "caption_en_by", "more_captions_en", "more_captions_zh")
    home, old = Home(tmp_path), [field for field in SCHEMA if field.name not in later]
    commit_as_before(home, pa.Table.from_pylist(ROWS, pa.schema(old)))
    before = read_rows(home, NAME, 0)
    assert before["colours"].null_count == before["more_captions_en"].null_count == len(ROWS)
    # Missing text was "" in its files, and was not said to be upscaled there.
    assert before["upscaler"].null_count == len(ROWS) / 2 and sum(before["upscaled"].to_pylist()) == len(ROWS) / 2
    more = {"more_captions_en": ["another"]}
    assert commit_rows(home, [ROWS[0] | more, *ROWS[1:4]], "new") == 1
    assert read_rows(home, NAME, 1).num_rows == 4 and read_rows(home, NAME, 0).num_rows == len(ROWS)
    assert diff(home, NAME, 0, 1).changed == {"more_captions_en": 1}
    whole = DeltaTable(str(home.table(NAME))).to_pyarrow_table()
    assert sorted(zip(whole["key"].to_pylist(), whole["upscaled"].to_pylist(), strict=True)) == sorted(
        (one["key"], one["upscaled"]) for one in ROWS[:4]
    )
    assert export_webdataset(home, NAME, 0, tmp_path / "old").rows == len(ROWS)
    assert export_parquet(home, NAME, 0, tmp_path / "old").rows == len(ROWS)
    exported = pq.read_table(tmp_path / "old" / "data")
    assert sum(exported["upscaled"].to_pylist()) == len(ROWS) / 2 and exported["upscaler"].null_count == len(ROWS) / 2


OTHERS = """
import json, sys
images, files = sys.argv[1], json.loads(sys.argv[2])
found = {}
if sys.argv[3] == "duckdb":
    import duckdb
    rows = duckdb.sql(f"from read_parquet({files}) r join read_parquet('{images}/**/*.parquet') i using (key, image_file)")
    found = duckdb.sql("select count(*), sum(width), min(caption_zh), count(*) filter (upscaled), count(upscaler), count(style),"
                       " count(more_captions_en), min(more_captions_en[1]) from rows").fetchall()[0]
    pictures = duckdb.sql("select width, image from rows").fetchall()
elif sys.argv[3] == "polars":
    import polars
    frame = polars.read_parquet(files).join(polars.read_parquet(f"{images}/**/*.parquet"), on=["key", "image_file"])
    more = frame["more_captions_en"]
    found = (frame.height, int(frame["width"].sum()), frame["caption_zh"].min(), int(frame["upscaled"].sum()),
             frame["upscaler"].count(), frame["style"].count(), more.count(), more.list.first().drop_nulls()[0])
    pictures = list(zip(frame["width"], frame["image"]))
else:
    import datasets, pandas
    frame = pandas.concat(map(pandas.read_parquet, files)).merge(pandas.read_parquet(images), on=["key", "image_file"])
    rows = datasets.Dataset.from_pandas(frame, preserve_index=False)
    there = lambda name: [value for value in rows[name] if value is not None]
    found = (len(rows), sum(rows["width"]), min(rows["caption_zh"]), sum(rows["upscaled"]), len(there("upscaler")),
             len(there("style")), len(there("more_captions_en")), there("more_captions_en")[0][0])
    shown = rows.cast_column("image", datasets.Image())
    assert [picture.width for picture in shown["image"]] == rows["width"]
    pictures = list(zip(rows["width"], rows["image"]))
    alone = datasets.load_dataset("parquet", data_files=f"{images}/**/*.parquet", split="train")
    alone = alone.cast_column("image", datasets.Image())
    assert sorted(picture.width for picture in alone["image"]) == sorted(rows["width"])
import io, PIL.Image
assert [PIL.Image.open(io.BytesIO(image)).width for _, image in pictures] == [width for width, _ in pictures]
print(json.dumps(list(found)))
"""


@pytest.mark.long
@subtests.parametrize("reader", ["duckdb", "polars", "datasets"])
def test_others_read_the_same_rows_without_us(tmp_path: Path, reader: str) -> None:
    home = Home(tmp_path)
    commit_rows(home, [*ROWS[:5], ROWS[5] | {"more_captions_en": ["another"], "style": ""}])
    version = 0
    ours = read_rows(home, NAME, version)
    files = json.dumps(data_files(home, NAME, version))
    command = [sys.executable, "-c", OTHERS, str(home.table(NAME) / "_images"), files, reader]
    # In a process of its own: one that loads deltalake and duckdb aborts at its end.
    quiet = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "POLARS_MAX_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [
        6, sum(ours["width"].to_pylist()), min(ours["caption_zh"].to_pylist()), 3, 3, 0, 1, "another"
    ]  # fmt: skip


UNSCORED = {"aspect": 1.0, "english": None}
MIXED = [
    ROWS[0] | UNSCORED | {"image": b"\xff\xd8" + ROWS[0]["image"], "caption_zh": "", "style": None},
    *(one | UNSCORED for one in ROWS[2:7:2]),
    ROWS[0] | UNSCORED | {"key": "f" * 64, "more_captions_en": ["a", "b"], "split": "held_out"},
    *(one | {"aspect": 1.0, "english": 0.5, "text_area": 0.25} for one in ROWS[1::2]),
]
"""Readers look at the first five: none of them has a score that the others have, and only the first is a JPEG."""
EXPORTS = """
import datasets, json, sys
kind, folder, cache = sys.argv[1:]
if kind == "webdataset":
    files = sorted(str(path) for path in __import__("pathlib").Path(folder).glob("*.tar"))
    rows = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=cache)
    image = next(name for name, feature in rows.features.items() if isinstance(feature, datasets.Image))
    facts = rows["json"]
    found = {fact["key"]: {**fact, **{one["name"]: one["value"] for one in fact["scores"]}} for fact in facts}
    pictures = dict(zip(found, rows.cast_column(image, datasets.Image(decode=False))[image]))
    captions = {key: [one["text"] for one in row["captions"] if one["language"] == "en"] for key, row in found.items()}
else:
    splits = datasets.load_dataset(folder, cache_dir=cache)
    assert isinstance(splits["train"].features["image"], datasets.Image)
    every = [row for split in splits.values() for row in split.cast_column("image", datasets.Image(decode=False))]
    assert {row["split"] for row in splits["held_out"]} == {"held_out"}
    assert splits["held_out"][0]["image"].size == (128, 128)
    found = {row["key"]: row for row in every}
    pictures = {key: row["image"] for key, row in found.items()}
    captions = {key: [row["caption_en"], *(row["more_captions_en"] or [])] for key, row in found.items()}
print(json.dumps([[key, row["upscaled"], row.get("english"), captions[key], row["caption_zh"] or None,
                   len(pictures[key]["bytes"])] for key, row in sorted(found.items())]))
"""


@subtests.parametrize("kind", ["webdataset", "parquet"])
@pytest.mark.long
def test_an_export_is_read_by_hugging_face_with_every_row_score_and_caption(tmp_path: Path, kind: str) -> None:
    home = Home(tmp_path)
    commit_rows(home, MIXED)
    export = {"webdataset": export_webdataset, "parquet": export_parquet}[kind]
    export(home, NAME, 0, tmp_path / "out", 5)
    command = [sys.executable, "-c", EXPORTS, kind, str(tmp_path / "out"), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    expected = [
        [row["key"], row["upscaled"], row["english"], [row["caption_en"], *row.get("more_captions_en", [])],
         row["caption_zh"] or None, len(row["image"])]
        for row in sorted(MIXED, key=lambda row: row["key"])
    ]  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == expected
    for path in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(path) as archive:
            names = archive.getnames()
            facts = [archive.extractfile(name).read().decode() for name in names if name.endswith(".json")]
        assert {name.rpartition(".")[2] for name in names} == {"jpg", "txt", "json"}
        assert all("NaN" not in fact and "null" not in fact for fact in facts)
    with pytest.raises(UserError, match="already; name an empty one"):
        export(home, NAME, 0, tmp_path / "out", 5)


@pytest.fixture
def three_versions(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    commit_rows(home, ROWS[:6], "a")
    commit_rows(home, [{**one, "caption_en": "changed"} if at == 0 else one for at, one in enumerate(ROWS[:6])], "b")
    commit_rows(home, ROWS[2:], "c")
    return home


def test_log_show_and_diff_say_what_a_version_is(three_versions: Home) -> None:
    entries = log(three_versions, NAME)
    assert [(entry.version, entry.key, entry.readable) for entry in entries] == [
        (2, "c", True),
        (1, "b", True),
        (0, "a", True),
    ]
    facts = show(three_versions, NAME, 0)
    assert (
        facts.rows == 6 and facts.counts["upscaled"] == {"False": 3, "True": 3} and facts.quantiles["width"][2] == 128
    )
    changed = diff(three_versions, NAME, 0, 1)
    assert (changed.added, changed.removed, changed.changed) == (0, 0, {"caption_en": 1})
    moved = diff(three_versions, NAME, 0, 2)
    assert (moved.added, moved.removed, moved.changed) == (2, 2, {})
    assert set(moved.examples["added"]) == {one["source_url"] for one in ROWS[6:]}
    assert [key_of(three_versions, NAME, entry.version) for entry in entries] == [entry.key for entry in entries]
    assert key_of(three_versions, NAME, 99) == key_of(three_versions, "nowhere", 0) == ""


def test_vacuum_keeps_what_it_says_and_an_older_version_is_one_sentence(three_versions: Home) -> None:
    assert vacuum(three_versions, NAME, keep=2, dry_run=True)
    assert len(log(three_versions, NAME)) == 3 and all(entry.readable for entry in log(three_versions, NAME))
    gone = vacuum(three_versions, NAME, keep=2, dry_run=False)
    assert gone and not any("c-" in file or "b-" in file for file in gone)
    assert {file.split("/")[1] for file in gone if file.startswith("_images/")} == {"a-False", "a-True"}
    for version in (1, 2):
        assert read_rows(three_versions, NAME, version).num_rows == 6
    with pytest.raises(UserError, match=r"Version 0 of dataset 'small' was vacuumed.*pangu dataset log"):
        read_rows(three_versions, NAME, 0)
    assert [entry.readable for entry in log(three_versions, NAME)] == [True, True, False]


def test_an_export_comes_back_as_a_source_with_the_same_bytes_and_captions(
    three_versions: Home, tmp_path: Path
) -> None:
    outcome = export_webdataset(three_versions, NAME, 2, tmp_path / "tars", rows_per_archive=4)
    assert (outcome.rows, outcome.archives) == (6, 2)
    card = card_for(tmp_path / "tars" / "*.tar", caption_en="caption_en", caption_zh="caption_zh")
    local = local_images(card, three_versions)
    assert local is not None
    back = {
        image: caption for (image, _), caption in zip(local.read(), local.table["caption_zh"].to_pylist(), strict=True)
    }
    rows = read_rows(three_versions, NAME, 2).to_pylist()
    assert back == {one["image"]: one["caption_zh"] for one in rows}
    with pytest.raises(UserError, match="holds archives already"):
        export_webdataset(three_versions, NAME, 2, tmp_path / "tars")


@checks
def a_full_disk_is_one_sentence_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    home = Home(tmp_path)
    small_dataset(home, 4)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"disk of .* is full; make room and run the same command again"):
        write_part(TableStore.of(home, NAME), "x", pa.Table.from_pylist(ROWS, schema=SCHEMA), False)
    assert latest_version(home, NAME) == 0 and not list(home.table(NAME).rglob("x*.parquet"))
    assert DeltaTable(str(home.table(NAME))).to_pyarrow_table().num_rows == 4


@checks
def the_same_key_commits_once(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert [commit_rows(home, ROWS, "k"), commit_rows(home, ROWS, "k")] == [0, 0]
    assert commit(home, NAME, "k", [], {}) == 0


def test_commands_say_what_the_functions_return(
    three_versions: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PANGU_HOME", str(three_versions.root))
    app = typer.Typer()
    dataset.register(app)
    app.command()(lambda: None)  # a second command, as in the whole program

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["dataset", *arguments], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    assert [json.loads(line)["version"] for line in run("log", NAME).splitlines()] == [2, 1, 0]
    assert json.loads(run("show", NAME, "--version", "1"))["key"] == "b"
    assert json.loads(run("diff", NAME, "0", "2"))["added"] == 2
    run("export", NAME, "--webdataset", str(tmp_path / "tars"), "--result", str(tmp_path / "result.json"))
    assert json.loads((tmp_path / "result.json").read_text())["archives"] == 1
    assert '"rows": 6' in run("export", NAME, "--parquet", str(tmp_path / "parquet"))
    with pytest.raises(UserError, match="Name one folder"):
        run("export", NAME)
    assert json.loads(run("vacuum", NAME, "--keep", "1", "--dry-run"))["deleted_files"] > 0
    assert len([entry for entry in log(three_versions, NAME) if entry.readable]) == 3


test_table = checks.test()
