"""Evaluation reads the images that it shows and compares, and of a dataset ten times as large no byte more."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pangu.data.example.openmoji import selection
from pangu.data.table import delta, version_files
from pangu.data.table.chosen_images import chosen_images
from pangu.data.table.delta import read_rows
from pangu.errors import UserError
from pangu.evaluate.eval_set import gather
from pangu.evaluate.probe_latents import originals
from pangu.evaluate.protocol import Protocol
from pangu.storage import Home
from tests.small_dataset import NAME, commit_rows, row

GROUP = 4
ASKED = Protocol(
    split="held_out", prompts_per_language=3, candidates=1, memory_candidates=1, num_inference_steps=1, guidance_scale=1.0,
    metrics=("retrieval", "style"), styles={"photo": 1.0},
)  # fmt: skip


class Reads:
    """What was read of the column `image`: row groups, and bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups, self.bytes, read = 0, 0, pq.ParquetFile.read_row_group

        def counted(source: pq.ParquetFile, group: int, columns: list[str], **options: object) -> pa.Table:
            found = read(source, group, columns=columns, **options)
            if "image" in columns:
                self.groups += 1
                self.bytes += found["image"].nbytes
            return found

        monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)

        def nothing(*_: object, **__: object) -> None:
            raise AssertionError("images of all rows are read")

        whole = delta._read_partition
        monkeypatch.setattr(
            delta,
            "_read_partition",
            lambda files, up, names, split: nothing() if "image" in names else whole(files, up, names, split),
        )


def dataset(home: Home, times: int) -> int:
    """Rows of equally many bytes, of which every third is upscaled, with two held out and one style, and copies of them."""
    data, rows = row(selection(1)[0], False), []
    for number in range(30 * times):
        rows.append(
            data
            | {"key": f"{number % 30:02d}{number // 30:02d}".ljust(64, "0"), "upscaled": number % 3 == 2}
            | {"split": "held_out" if number in (0, 1) else "train", "style": "photo" if number % 2 else None}
            | {"caption_en": f"{number}", "caption_zh": f"{number}"}
        )
    return commit_rows(home, rows)


@pytest.mark.long
def test_ten_times_the_rows_cost_no_byte_of_images_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_files, "rows_per_group", lambda stored: 1)
    monkeypatch.setattr("pangu.evaluate.eval_set.STYLE_EXAMPLES", 5)
    found = []
    for times in (1, 10):
        home = Home(tmp_path / str(times))
        version = dataset(home, times)
        with monkeypatch.context() as patched:
            reads = Reads(patched)
            material = gather(home, NAME, version, ASKED, 16)
            images, _ = originals(home, NAME, version, "train", 4, 0)
        one = len(images[0])
        assert len(material.images) == len(set().union(*material.pools.values())) and len(images) == 4
        assert reads.groups == len(material.images) + 2 * 5 + 4
        assert reads.bytes < reads.groups * (one + 64)
        found.append((reads.groups, reads.bytes))
    assert found[0] == found[1]


def test_chosen_images_are_those_of_the_table_and_of_no_group_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_files, "rows_per_group", lambda stored: GROUP)
    home = Home(tmp_path)
    version = commit_rows(home, [row(one, index % 3 == 0) for index, one in enumerate(selection(24))])
    table = read_rows(home, NAME, version, columns=["key", "image", "upscaled"])
    expected = dict(zip(table["key"].to_pylist(), table["image"].to_pylist(), strict=True))
    reads = Reads(monkeypatch)
    for keys in (list(expected), list(expected)[::7], list(expected)[:1], []):
        assert dict(chosen_images(home, NAME, version, keys)) == {key: expected[key] for key in keys}
    assert reads.groups <= 24 // GROUP + 4 + 1
    upscaled = table.filter(table["upscaled"])["key"].to_pylist()
    assert dict(chosen_images(home, NAME, version, upscaled[:2], upscaled=True)).keys() == set(upscaled[:2])
    with pytest.raises(UserError, match=f"Version 0 of dataset 'small' has no row {upscaled[0]}"):
        list(chosen_images(home, NAME, version, upscaled[:1], upscaled=False))
