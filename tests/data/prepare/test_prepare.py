"""From real raw shards to a dataset version: every image accounted for, killed anywhere without harm, never added twice."""

import io
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from PIL import Image

from pangu.data.card import Card
from pangu.data.images import decode_rgb
from pangu.data.ingest.raw import RawFolder
from pangu.data.prepare import publish
from pangu.data.prepare.stage import PrepareOutcome, prepare
from pangu.data.table.admission_levels import AdmissionLevels
from pangu.data.table.delta import SCHEMA, data_files, latest_version, read_rows
from pangu.data.table.versions import admission_of
from pangu.errors import UserError
from pangu.progress import Progress
from pangu.storage import Home
from tests import subtests
from tests.data.conftest import DRAWINGS, Ingested

checks = subtests.Checks()


@dataclass(frozen=True)
class Prepared:
    card: Card
    home: Home
    ingest_id: str
    outcome: PrepareOutcome

    def rows(self, **options: object):  # type: ignore[no-untyped-def]
        return read_rows(self.home, self.card.name, self.outcome.version, **options)  # type: ignore[arg-type]


def home_with_ingest(ingested: Ingested, folder: Path) -> Home:
    """A home of its own that holds a copy of the finished ingest."""
    home, name = Home(folder), ingested.card.name
    source = ingested.home.raw(name, ingested.outcome.ingest_id)
    shutil.copytree(source, home.raw(name, ingested.outcome.ingest_id))
    return home


@pytest.fixture(scope="module")
def prepared(ingested: Ingested, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    home = home_with_ingest(ingested, tmp_path_factory.mktemp("prepared"))
    outcome = prepare(ingested.card, ingested.outcome.ingest_id, home)
    return Prepared(ingested.card, home, ingested.outcome.ingest_id, outcome)


@checks
def every_ingested_image_is_a_row_or_dropped_for_one_reason(ingested: Ingested, prepared: Prepared) -> None:
    outcome = prepared.outcome
    assert outcome.rows == DRAWINGS and outcome.originals == outcome.upscaled == DRAWINGS // 2
    assert outcome.dropped == {"duplicate": 1, "missing_caption": 1, "undecodable": 1}
    assert outcome.rows + sum(outcome.dropped.values()) == ingested.outcome.ok


@checks
def rows_say_what_was_done_to_them(prepared: Prepared) -> None:
    table = prepared.rows()
    assert table.schema.equals(SCHEMA)
    rows = table.to_pylist()
    assert len({row["key"] for row in rows}) == len(rows)
    for row in rows:
        image = Image.open(io.BytesIO(row["image"]))
        assert image.size == (row["width"], row["height"]) and image.format == "PNG" and image.mode == "RGB"
        assert row["caption_en"] and row["caption_zh"] and row["license"] == "CC BY-SA 4.0"
        assert row["split"] == "train" and row["bucket"] == 0 and len(row["phash"]) == 16
        original = (row["original_width"], row["upscale_factor"], row["upscaler"], row["min_timestep"])
        assert (row["width"], *original) == (
            (96, 48, 2.0, "spanx4", 300) if row["upscaled"] else (128, 128, 1.0, None, 0)
        )


@checks
def originals_keep_the_bytes_that_were_downloaded(prepared: Prepared) -> None:
    raw = RawFolder(prepared.home.raw("openmoji", prepared.ingest_id), prepared.card.limits.rows_per_shard)
    downloaded = {data for shard in (0, 1) for _, data, _ in raw.images(shard)}
    assert all(image in downloaded for image in prepared.rows(columns=["image"], upscaled=False)["image"].to_pylist())


@checks
def the_log_says_in_which_noise_levels_rows_were_admitted(prepared: Prepared) -> None:
    found = admission_of(prepared.home, "openmoji", 0)
    settings = prepared.card.upscale.admission
    estimated = prepared.card.upscale.min_timestep is None
    assert found == AdmissionLevels(
        schedule=settings.noise_schedule, autoencoder=settings.autoencoder if estimated else None
    )


@checks
def the_same_ingest_again_adds_nothing_and_says_so(prepared: Prepared) -> None:
    files = sorted(prepared.home.table("openmoji").rglob("*.parquet"))
    again = prepare(prepared.card, prepared.ingest_id, prepared.home)
    assert again == prepared.outcome.model_copy(update={"already_done": True})
    assert sorted(prepared.home.table("openmoji").rglob("*.parquet")) == files
    assert latest_version(prepared.home, "openmoji") == prepared.outcome.version == 0


@checks
def nothing_is_written_behind_the_commit_where_a_kill_would_leave_half_of_it(
    ingested: Ingested, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, name = home_with_ingest(ingested, tmp_path), ingested.card.name
    committed: list[set[tuple[str, int, int]]] = []

    def files() -> set[tuple[str, int, int]]:
        found = (path for path in home.root.rglob("*") if path.is_file())
        return {(str(path), path.stat().st_ino, path.stat().st_mtime_ns) for path in found}

    def commit(*given: object) -> int:
        version = real(*given)
        committed.append(files())
        return version

    real = publish.commit
    monkeypatch.setattr(publish, "commit", commit)
    outcome = prepare(ingested.card, ingested.outcome.ingest_id, home)
    assert committed == [files()] and list((home.dataset(name) / "outcomes").iterdir())
    assert prepare(ingested.card, ingested.outcome.ingest_id, home).version == outcome.version == 0


@checks
def texture_rows_are_read_without_opening_a_file_of_upscaled_rows(prepared: Prepared, tmp_path: Path) -> None:
    shutil.copytree(prepared.home.root, tmp_path / "home")
    home = Home(tmp_path / "home")
    images = home.table("openmoji").glob("_images/*/upscaled/*.parquet")
    for file in [*data_files(home, "openmoji", 0, upscaled=True), *images]:
        Path(file).write_bytes(b"not to be opened")
    originals = read_rows(home, "openmoji", 0, upscaled=False)
    assert originals.num_rows == DRAWINGS // 2 and not any(originals["upscaled"].to_pylist())
    with pytest.raises(Exception, match=r"(?i)parquet"):
        read_rows(home, "openmoji", 0)


@checks
def pandas_and_deltalake_read_it_without_us(prepared: Prepared) -> None:
    ours, table = prepared.rows().to_pandas().set_index("key").sort_index(), prepared.home.table("openmoji")
    theirs = DeltaTable(str(table)).to_pandas().merge(pd.read_parquet(table / "_images"), on=["key", "image_file"])
    pd.testing.assert_frame_equal(ours, theirs.set_index("key").sort_index()[ours.columns])
    plain = pd.concat(pd.read_parquet(file) for file in data_files(prepared.home, "openmoji", 0))
    assert sorted(plain["key"]) == sorted(ours.index)


@checks
def files_are_laid_out_for_training_reads(prepared: Prepared) -> None:
    for image_file in prepared.home.table("openmoji").glob("_images/*/*/*.parquet"):
        group = pq.ParquetFile(image_file).metadata.row_group(0)
        [image] = [group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == "image"]
        assert image.compression == "UNCOMPRESSED" and not image.is_stats_set
    for file in data_files(prepared.home, "openmoji", 0):
        group = pq.ParquetFile(file).metadata.row_group(0)
        columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
        assert columns["caption_en"].compression == "ZSTD" and columns["width"].is_stats_set
        assert group.column(list(columns).index("upscaled")).statistics.min == ("upscaled=true" in file)
    actions = pa.table(DeltaTable(str(prepared.home.table("openmoji"))).get_add_actions(flatten=True))
    assert sum(actions["num_records"].to_pylist()) == DRAWINGS
    assert set(actions["min.width"].to_pylist()) == {96, 128}


def same_but_place(one: PrepareOutcome, other: PrepareOutcome) -> bool:
    """Whether two outcomes differ only in where their reports lie."""
    return one.model_copy(update={"report": ""}) == other.model_copy(update={"report": ""})


def interrupted_after(shards: int):  # type: ignore[no-untyped-def]
    def report(progress: Progress) -> None:
        nonlocal shards
        shards -= 1
        if shards == 0:
            raise KeyboardInterrupt

    return report


@checks
def a_run_stopped_between_shards_shows_nothing_and_goes_on_after_the_last_one(
    ingested: Ingested, prepared: Prepared, tmp_path: Path
) -> None:
    home = home_with_ingest(ingested, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        prepare(ingested.card, prepared.ingest_id, home, interrupted_after(1))
    with pytest.raises(UserError, match="no dataset 'openmoji'"):
        latest_version(home, "openmoji")
    finished = list((home.dataset("openmoji") / "work").rglob("00000.parquet"))
    assert len(finished) == 1
    # What is finished is not made again: that would overwrite a file that nobody may write.
    finished[0].parent.joinpath("00000.json").chmod(0o400)
    written = finished[0].stat().st_mtime_ns
    seen: list[int] = []

    def look(progress: Progress) -> None:
        if finished[0].is_file():
            seen.append(finished[0].stat().st_mtime_ns)

    outcome = prepare(ingested.card, prepared.ingest_id, home, look)
    assert same_but_place(outcome, prepared.outcome)
    assert set(seen) == {written}
    assert read_rows(home, "openmoji", 0).equals(prepared.rows())


KILLED_AT_COMMIT = """
import os, signal, sys
from pathlib import Path
from deltalake import DeltaTable
from pangu.data.table import delta
from pangu.data.card import Card
from pangu.data.prepare.stage import prepare
from pangu.storage import Home

def dying(commit):
    def wrapper(*args, **kwargs):
        if sys.argv[1] == "after":
            commit(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    return wrapper

DeltaTable.create_write_transaction = dying(DeltaTable.create_write_transaction)
delta.create_table_with_add_actions = dying(delta.create_table_with_add_actions)
prepare(Card.model_validate_json(sys.argv[2]), sys.argv[3], Home(Path(sys.argv[4])))
"""


@pytest.mark.long
@subtests.parametrize("moment", ["before", "after"])
@subtests.parametrize("first", [True, False])
def test_killed_at_the_commit_leaves_the_old_version_or_the_new_one(
    ingested: Ingested, prepared: Prepared, tmp_path: Path, moment: str, first: bool
) -> None:
    home = home_with_ingest(ingested, tmp_path)
    if not first:
        shutil.copytree(prepared.home.dataset("openmoji"), home.dataset("openmoji"), dirs_exist_ok=True)
    card = ingested.card if first else changed(ingested.card)
    arguments = [moment, card.model_dump_json(), prepared.ingest_id, str(home.root)]
    killed = subprocess.run([sys.executable, "-c", KILLED_AT_COMMIT, *arguments], env={**os.environ, "PYTHONPATH": "."})
    assert killed.returncode == -signal.SIGKILL

    version = 0 if first else 1
    if moment == "after":
        assert latest_version(home, "openmoji") == version
    elif not first:
        assert latest_version(home, "openmoji") == 0 and read_rows(home, "openmoji", 0).equals(prepared.rows())
    outcome = prepare(card, prepared.ingest_id, home)
    assert (outcome.version, outcome.already_done) == (version, moment == "after")
    assert latest_version(home, "openmoji") == version
    assert read_rows(home, "openmoji", version).num_rows == DRAWINGS
    assert prepare(card, prepared.ingest_id, home).version == version == latest_version(home, "openmoji")


def changed(card: Card) -> Card:
    return card.model_copy(update={"upscale": card.upscale.model_copy(update={"upscaler": "lanczos"})})


@checks
def a_changed_card_makes_a_version_of_its_own_and_the_old_one_stays(prepared: Prepared, tmp_path: Path) -> None:
    shutil.copytree(prepared.home.root, tmp_path / "home")
    home, card = Home(tmp_path / "home"), changed(prepared.card)
    outcome = prepare(card, prepared.ingest_id, home)
    assert outcome.version == 1 and outcome.rows == DRAWINGS
    assert set(read_rows(home, "openmoji", 1, upscaled=True)["upscaler"].to_pylist()) == {"lanczos"}
    assert read_rows(home, "openmoji", 0).equals(prepared.rows())
    back = prepare(prepared.card, prepared.ingest_id, home)
    assert back.already_done and back.version == 0


@checks
def held_out_rows_are_marked_and_can_be_read_apart(prepared: Prepared, tmp_path: Path) -> None:
    shutil.copytree(prepared.home.root, tmp_path / "home")
    chosen = prepared.rows()["caption_en"][3].as_py()
    splits = {"held_out": {"captions_en": [chosen]}}
    card = Card.model_validate(prepared.card.model_dump() | {"splits": splits})
    outcome = prepare(card, prepared.ingest_id, Home(tmp_path / "home"))
    assert outcome.held_out == 1
    rows = read_rows(Home(tmp_path / "home"), "openmoji", outcome.version, columns=["caption_en"], split="held_out")
    assert rows["caption_en"].to_pylist() == [chosen]


@checks
def bad_input_is_one_sentence(prepared: Prepared) -> None:
    with pytest.raises(UserError, match=r"no finished ingest 'nope'.*pangu ingest"):
        prepare(prepared.card, "nope", prepared.home)
    upscale = {"target_side": 130, "upscaler": "lanczos"}
    high = Card.model_validate(prepared.card.model_dump() | {"texture_min_side": 130, "upscale": upscale})
    with pytest.raises(UserError, match=r"No image .* 130 px.*lower texture_min_side"):
        prepare(high, prepared.ingest_id, prepared.home)
    impossible = Card.model_validate(
        prepared.card.model_dump() | {"texture_min_side": 4000, "upscale": {"target_side": 4000}}
    )
    with pytest.raises(UserError, match=r"Nothing of 'openmoji' is usable.*too_small"):
        prepare(impossible, prepared.ingest_id, prepared.home)
    with pytest.raises(UserError, match=r"no version 7.*0 to 0"):
        read_rows(prepared.home, "openmoji", 7)
    with pytest.raises(UserError, match="no column 'colour'"):
        read_rows(prepared.home, "openmoji", 0, columns=["colour"])
    assert latest_version(prepared.home, "openmoji") == 0


@checks
def stored_images_decode_to_what_their_row_says(prepared: Prepared) -> None:
    for row in prepared.rows(columns=["image", "width", "height"]).to_pylist():
        assert decode_rgb(row["image"]).image_hwc.shape == (row["height"], row["width"], 3)


test_prepare = checks.test()
