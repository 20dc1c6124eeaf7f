"""Mapped rows: bit for bit what the Parquet files hold, made once however many come first, and never half."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu.data.captions import Caption
from pangu.data.encode.encoded import parts
from pangu.data.encode.stage import encode
from pangu.data.example.openmoji import selection
from pangu.data.rows.load import load_rows
from pangu.data.rows.local_cache import Column, cache_folder, made_once, mapped
from pangu.data.rows.local_copy import FORMAT
from pangu.errors import UserError
from pangu.storage import Home
from tests.data.shaped import cropped, shaped_recipe, styled_row
from tests.small_dataset import NAME, commit_rows

PREFIXES = {"photo": "A photo of", "cartoon": "A cartoon of"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two shapes, some rows of each with a style."""
    home = Home(tmp_path_factory.mktemp("home"))
    drawings = selection(12)
    cropped(home, {(96, 96): 3})
    rows = [styled_row(one, style) for one, style in zip(drawings, ["photo", None, "cartoon"] * 4, strict=True)]
    for index, values in enumerate(rows):
        values |= {"width": 128 if index % 2 else 64}  # every other one is cropped to a tall shape
    version = commit_rows(home, rows, key="styled")
    recipe = shaped_recipe().model_copy(update={"styles": PREFIXES})
    return home.encoded(NAME, encode(NAME, version, recipe, home).encode_id)


@pytest.fixture(scope="module")
def in_memory(folder: Path) -> pa.Table:
    """The truth: what the Parquet files of the structure job hold, by key."""
    return pa.concat_tables([pq.read_table(part) for part in parts(folder, "structure")]).sort_by("key")


def stored(table: pa.Table, column: str, row: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(table[column][row].as_py(), np.float16).reshape(shape).copy())


def test_rows_encoded_before_there_could_be_several_captions_have_one(folder, in_memory, tmp_path) -> None:
    older = tmp_path / folder.name
    shutil.copytree(folder, older)
    for part in parts(older, "structure"):
        pq.write_table(pq.read_table(part).drop_columns(["captions"]), part)
    before, now = load_rows(older, "structure"), load_rows(folder, "structure")
    assert before.wordings(range(len(now))) == now.wordings(range(len(now)))
    assert {wording.captions for wording in now.wordings(range(len(now)))} == {1}
    everything = range(len(now)), [Caption(variant) for variant in (0, 1, -1, *([0] * (len(now) - 3)))]
    assert all(map(torch.equal, before.captions(*everything), now.captions(*everything)))


def test_every_row_is_to_the_bit_what_the_files_hold(folder, in_memory) -> None:
    rows = load_rows(folder, "structure")
    assert list(rows.keys) == in_memory["key"].to_pylist()
    assert rows.min_timestep_n.tolist() == in_memory["min_timestep"].to_pylist()
    assert rows.preset_n.tolist() == in_memory["preset"].to_pylist()
    styled = [wording.styled for wording in rows.wordings(range(len(rows)))]
    assert styled == [value is not None for value in in_memory["tokens_styled_en"].to_pylist()]
    assert 0 < sum(styled) < len(rows)
    for row in range(len(rows)):
        latents = rows.latents([row])[0]
        assert torch.equal(latents, stored(in_memory, "latents", row, latents.shape))
        names = ["en", "zh", *(["styled_en", "styled_zh"] if styled[row] else [])]
        for variant, name in enumerate(names):
            tokens, pooled = rows.captions([row], [Caption(variant)])
            assert torch.equal(tokens[0], stored(in_memory, f"tokens_{name}", row, tokens.shape[1:]))
            assert torch.equal(pooled[0], stored(in_memory, f"pooled_{name}", row, pooled.shape[1:]))


@given(data=st.data())
@settings(max_examples=20)
def test_a_batch_is_its_rows_in_the_order_asked_for(folder, data) -> None:
    rows = load_rows(folder, "structure")
    preset = data.draw(st.sampled_from(rows.preset_n.unique().tolist()))
    bucket = torch.nonzero(rows.preset_n == preset).flatten().tolist()
    chosen = data.draw(st.lists(st.sampled_from(bucket), min_size=1, max_size=6))
    wordings = rows.wordings(chosen)
    variants = [data.draw(st.sampled_from([-1, 0, 1, *([2, 3] if own.styled else [])])) for own in wordings]
    alone = [rows.captions([row], [Caption(variant)]) for row, variant in zip(chosen, variants, strict=True)]
    tokens, pooled = rows.captions(chosen, list(map(Caption, variants)))
    assert torch.equal(tokens, torch.cat([one for one, _ in alone]))
    assert torch.equal(pooled, torch.cat([one for _, one in alone]))
    assert torch.equal(rows.latents(chosen), torch.cat([rows.latents([row]) for row in chosen]))


@pytest.mark.long
def test_rows_that_two_processes_open_at_once_are_made_once_and_whole(folder) -> None:
    shutil.rmtree(cache_folder(folder), ignore_errors=True)
    code = (
        "import sys; from pathlib import Path; from pangu.data.rows.mapped import open_mapped\n"
        "rows = open_mapped(Path(sys.argv[1]), 'structure')\n"
        "print(float(rows.latents([0]).sum()), len(rows), end='')"
    )
    command = [sys.executable, "-c", code, str(folder)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=120)[0] for process in both]
    rows = load_rows(folder, "structure")
    assert answers == [f"{float(rows.latents([0]).sum())} {len(rows)}"] * 2
    assert [path.name for path in cache_folder(folder).iterdir() if not path.name.startswith(".")] == [
        f"structure-{FORMAT}"
    ]


def test_a_copy_that_was_not_finished_does_not_count(tmp_path) -> None:
    def killed(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_once(tmp_path / "copy", killed, 0)
    assert not (tmp_path / "copy").exists()
    made_once(tmp_path / "copy", lambda folder: (folder / "whole").touch(), 0)
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["whole"]


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path) -> None:
    with pytest.raises(UserError, match=r"need 1000000.0 GB .*set PANGU_CACHE"):
        made_once(tmp_path / "copy", lambda folder: None, 10**15)
    assert not list(tmp_path.glob("copy*"))


def test_the_copy_lies_where_the_machine_says(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PANGU_CACHE", str(tmp_path))
    rows = load_rows(folder, "texture")
    assert (tmp_path / folder.name / f"texture-{FORMAT}" / "rows.arrow").is_file()
    monkeypatch.delenv("PANGU_CACHE")
    assert torch.equal(rows.latents([0]), load_rows(folder, "texture").latents([0]))


@given(rows=st.integers(0, 5), shape=st.lists(st.integers(1, 4), max_size=3))
def test_a_column_written_row_by_row_is_the_array(rows: int, shape: list[int], tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("column") / "c.npy"
    values = np.random.default_rng(0).standard_normal((rows, *shape)).astype(np.float16)
    column = Column(path, rows, shape)
    column.extend(value.tobytes() for value in values)
    column.close()
    assert np.array_equal(np.load(path), values)
    assert rows == 0 or np.array_equal(mapped(path), values)
