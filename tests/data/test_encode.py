"""Encoding: self-contained files per role, resumable, and never mixed between encoders."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pangu.data.batches import load_rows
from pangu.data.encode import Manifest, encode, parts
from pangu.data.openmoji import selection
from pangu.errors import UserError
from pangu.models.autoencoders import decode_latents, load_autoencoder
from pangu.models.text import embed_captions, load_text_tower
from pangu.recipes import tiny
from pangu.storage import Home
from tests.small_dataset import NAME, commit_rows, row, small_dataset


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    version = small_dataset(home)
    return home, version, encode(NAME, version, tiny(), home)


def test_structure_gets_all_rows_and_texture_only_originals(encoded) -> None:
    home, _, outcome = encoded
    assert (outcome.structure_rows, outcome.texture_rows) == (12, 6)
    structure, texture = (load_rows(home.encoded(NAME, outcome.encode_id), role) for role in ("structure", "texture"))
    assert structure.latents_nchw.shape[1:] == (16, 12, 12)
    assert texture.latents_nchw.shape[1:] == (16, 12, 12)  # windows are cut at every step
    assert set(texture.keys) < set(structure.keys)
    assert texture.min_timestep_n.tolist() == [0] * 6
    assert sorted(structure.min_timestep_n.tolist()) == [0] * 6 + [300] * 6


def test_latents_and_embeddings_are_those_of_the_row(encoded) -> None:
    home, _, outcome = encoded
    rows = load_rows(home.encoded(NAME, outcome.encode_id), "structure")
    one = next(one for index, one in enumerate(selection(12)) if index == 4)
    index = rows.keys.index(row(one, False)["key"])
    tokens, pooled = embed_captions([load_text_tower(tiny().text_encoders[0])], [one.caption_zh], tiny().max_tokens)
    torch.testing.assert_close(rows.tokens_lnsc[1, index].float(), tokens[0], atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(rows.pooled_lnp[1, index].float(), pooled[0], atol=1e-2, rtol=1e-2)
    pixels = decode_latents(load_autoencoder(tiny().autoencoder), rows.latents_nchw[index : index + 1].float())
    assert pixels.shape == (1, 3, 96, 96)
    assert pixels.mean() > 0  # mostly white


def test_encoding_again_does_nothing_and_says_so(encoded) -> None:
    home, version, outcome = encoded
    before = {path: path.stat().st_mtime_ns for path in home.encoded(NAME, outcome.encode_id).rglob("*")}
    again = encode(NAME, version, tiny(), home)
    assert again.already_done
    assert again.encode_id == outcome.encode_id
    assert before == {path: path.stat().st_mtime_ns for path in home.encoded(NAME, outcome.encode_id).rglob("*")}


def test_what_a_stopped_run_had_done_is_kept(encoded) -> None:
    home, version, outcome = encoded
    folder = home.encoded(NAME, outcome.encode_id)
    kept = parts(folder, "structure")[0]
    stamp, content = kept.stat().st_mtime_ns, kept.read_bytes()
    (folder / "manifest.json").unlink()
    parts(folder, "texture")[0].unlink()
    again = encode(NAME, version, tiny(), home)
    assert not again.already_done
    assert (kept.stat().st_mtime_ns, kept.read_bytes()) == (stamp, content)
    assert again.texture_rows == 6


def test_other_text_length_or_resolution_is_another_encoded_dataset(encoded) -> None:
    home, version, outcome = encoded
    longer = encode(NAME, version, tiny().model_copy(update={"max_tokens": 20}), home)
    smaller = tiny().texture.model_copy(update={"crop_from": None})
    other = encode(NAME, version, tiny().model_copy(update={"texture": smaller}), home)
    assert len({outcome.encode_id, longer.encode_id, other.encode_id}) == 3


def test_a_missing_caption_is_the_other_languages(tmp_path) -> None:
    home, one = Home(tmp_path), selection(12)[0]
    version = commit_rows(home, [row(one, False, caption_zh="")])
    rows = load_rows(home.encoded(NAME, encode(NAME, version, tiny(), home).encode_id), "texture")
    assert torch.equal(rows.tokens_lnsc[0], rows.tokens_lnsc[1])


def test_held_out_rows_are_encoded_but_not_trained(tmp_path) -> None:
    home, drawings = Home(tmp_path), selection(12)
    version = commit_rows(home, [row(drawings[0], False), row(drawings[1], False, split="held_out")])
    outcome = encode(NAME, version, tiny(), home)
    assert (outcome.structure_rows, outcome.texture_rows) == (1, 1)
    folder = home.encoded(NAME, outcome.encode_id)
    stored = pq.read_table(parts(folder, "structure")[0], columns=["split"])["split"].to_pylist()
    assert sorted(stored) == ["held_out", "train"]
    assert len(load_rows(folder, "structure")) == 1


def test_a_dataset_without_originals_is_refused(tmp_path) -> None:
    home = Home(tmp_path)
    version = commit_rows(home, [row(one, True) for one in selection(3)])
    with pytest.raises(UserError, match=r"No image of dataset 'small' is above its size threshold.*texture_min_side"):
        encode(NAME, version, tiny(), home)


def test_an_unfinished_encoded_dataset_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="run `pangu encode` first"):
        Manifest.load(tmp_path)


def test_bytes_on_disk_are_half_precision(encoded) -> None:
    home, _, outcome = encoded
    latents = pq.read_table(parts(home.encoded(NAME, outcome.encode_id), "texture")[0])["latents"][0].as_py()
    assert np.frombuffer(latents, np.float16).size == 16 * 12 * 12
