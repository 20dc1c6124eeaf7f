"""Edge maps: kept to the bit, the same when encoded and when read, and an agreement that behaves like an F1."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pangu.config import EdgeControl, Execution, Recipe
from pangu.data.encode.edges import agreement, control_image, edge_picture, find_edges, packed, packed_width, unpacked
from pangu.data.encode.encoded import EncodedManifest, check_encoded, parts
from pangu.data.encode.pixels import fit_pixels
from pangu.data.encode.stage import encode
from pangu.data.example.openmoji import selection
from pangu.data.rows.load import load_rows
from pangu.data.table.delta import read_rows
from pangu.errors import UserError
from pangu.recipes import tiny
from pangu.storage import Home
from tests import subtests
from tests.small_dataset import NAME, commit_rows, row, small_dataset
from tests.train.control import control_recipe

maps = st.tuples(st.integers(1, 20), st.integers(1, 20)).flatmap(lambda shape: arrays(bool, shape))


@given(maps)
def test_packing_loses_nothing(edges: np.ndarray) -> None:
    height, width = edges.shape
    bits = np.frombuffer(packed(edges), np.uint8).reshape(1, height, packed_width(width))
    assert np.array_equal(unpacked(bits, width)[0], edges)


@given(maps, st.integers(0, 3))
def test_agreement_is_symmetric_within_0_and_1_and_1_with_itself(edges: np.ndarray, tolerance_px: int) -> None:
    other = np.roll(edges, 1, axis=0)
    there, back = agreement(edges, other, tolerance_px), agreement(other, edges, tolerance_px)
    assert there == pytest.approx(back)
    assert 0 <= there <= 1
    assert agreement(edges, edges, tolerance_px) == 1


def test_agreement_is_the_f1_of_its_definition() -> None:
    wanted, found = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    wanted[4, :], found[5, :3], found[0, 0] = True, True, True
    assert agreement(found, wanted, 0) == 0
    precision, recall = 3 / 4, 4 / 9  # within a pixel, the found ones at columns 0 to 2 meet those of columns 0 to 3
    assert agreement(found, wanted, 1) == pytest.approx(2 * precision * recall / (precision + recall))
    assert agreement(np.zeros_like(wanted), wanted) == 0


def test_edges_of_a_square_lie_on_its_rim() -> None:
    image = np.full((32, 32, 3), 255, np.uint8)
    image[8:24, 8:24] = (255, 0, 0)  # two of its channels change, one does not
    edges = find_edges(image)
    rim = np.zeros((32, 32), bool)
    rim[7:25, 7:25] = True
    rim[9:23, 9:23] = False
    assert edges.any()
    assert not edges[~rim].any()
    shown = np.asarray(edge_picture(Image.fromarray(image)))
    assert np.array_equal(shown[..., 0] == 255, edges)
    assert set(np.unique(shown)) == {0, 255}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> tuple[Home, int]:
    home = Home(tmp_path_factory.mktemp("home"))
    return home, small_dataset(home)


def rows_of(home: Home, version: int, recipe: Recipe) -> tuple[Path, object]:
    folder = home.encoded(NAME, encode(NAME, version, recipe, home).encode_id)
    return folder, load_rows(folder, "control", recipe)


@subtests.parametrize("latents", ["precomputed", "on_the_fly"])
def test_a_row_comes_with_the_edges_of_its_own_image(latents, encoded) -> None:
    home, version = encoded
    recipe = control_recipe().model_copy(update={"execution": Execution(latents=latents, prefetch=0)})
    _, rows = rows_of(home, version, recipe)
    images = {one["key"]: one["image"] for one in read_rows(home, NAME, version, columns=["key", "image"]).to_pylist()}
    shown = rows.control(range(len(rows)))
    assert shown.shape == (len(rows), 3, 96, 96)
    for key, one in zip(rows.keys, shown, strict=True):
        expected = control_image(find_edges(fit_pixels(images[key], 96))[None])[0]
        assert torch.equal(one, expected)
        assert 0.01 < float(one.float().mean()) < 0.5


def test_a_width_that_fills_no_whole_byte_is_read_back(tmp_path) -> None:
    home = Home(tmp_path)
    version = commit_rows(home, [row(one, False) for one in selection(4)])
    job = control_recipe().jobs["control"].model_copy(update={"resolution": 72})
    _, rows = rows_of(home, version, control_recipe().model_copy(update={"jobs": {"control": job}}))
    assert rows.control([0, 1]).shape == (2, 3, 72, 72)


def test_data_encoded_without_edges_or_with_others_is_refused(encoded) -> None:
    home, version = encoded
    folder, _ = rows_of(home, version, control_recipe())
    other = control_recipe(control=EdgeControl(low_threshold=20))
    with pytest.raises(UserError, match="trains control with control low_threshold=20"):
        check_encoded(EncodedManifest.load(folder), other, "control")


def test_jobs_without_control_keep_the_ids_of_their_data(encoded) -> None:
    home, version = encoded
    folder = home.encoded(NAME, encode(NAME, version, tiny(), home).encode_id)
    assert "control" not in (folder / "manifest.json").read_text()
    assert load_rows(folder, "structure").control([0]) is None
    assert all("control" not in str(path) for path in parts(folder, "structure"))
