"""A pool loads only what was released, and only a pair."""

import shutil
from pathlib import Path

import pytest

from pangu.errors import UserError
from pangu.recipes import tiny
from pangu.registry import Manifest
from pangu.serve.inference.messages import Release
from pangu.serve.inference.parts import PARTS, STYLE_FOLDERS, load_part, part_hashes
from pangu.storage import read_json, write_json
from tests import subtests
from tests.serve.served_pair import write_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pair(tmp_path_factory.mktemp("parts"), tiny(), seed=0)[0]


def released(folder: Path) -> Release:
    """As `fetch_pair` would leave it: a manifest beside the files, its hash in the registry."""
    manifest = Manifest.of(folder)
    manifest.save(folder)
    versions = dict.fromkeys(("pair_version", "structure_version", "texture_version"), 1)
    return Release(folder=folder, sha256=manifest.sha256, created=0, **versions)


@subtests.parametrize("part", sorted(PARTS))
def test_a_pool_holds_its_own_part_and_nothing_else(pair: Path, part: str) -> None:
    pipeline = load_part(released(pair), part)
    loaded = {name for name, component in pipeline.components.items() if component is not None}
    assert loaded == set(PARTS[part]) - {"tokenizer_2", "text_encoder_2", *STYLE_FOLDERS}, "this pair has none of these"


def test_a_changed_weight_is_refused_by_the_pool_that_would_load_it(pair: Path) -> None:
    release = released(pair)
    weights = pair / "texture" / "diffusion_pytorch_model.safetensors"
    original = weights.read_bytes()
    weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    try:
        with pytest.raises(UserError, match="differs from what was released"):
            load_part(release, "texture")
        load_part(release, "structure")
    finally:
        weights.write_bytes(original)


def test_generators_that_do_not_make_a_pair_are_refused_by_every_pool(pair: Path) -> None:
    index = pair / "model_index.json"
    original = read_json(index)
    changed = read_json(index)
    changed["contracts"]["texture"]["high"] = 400
    write_json(index, changed)
    try:
        release = released(pair)
        for part in PARTS:
            with pytest.raises(UserError, match=r"Gap in the pair: .*\[400, 500\)"):
                load_part(release, part)
    finally:
        write_json(index, original)


def test_a_cache_that_was_emptied_says_how_to_fill_it(pair: Path, tmp_path: Path) -> None:
    release = released(pair).model_copy(update={"folder": tmp_path / "gone"})
    with pytest.raises(UserError, match="pangu deploy"):
        load_part(release, "decoder")


def test_releases_that_share_a_generator_share_the_hash_of_its_part_and_of_no_other(pair: Path, tmp_path: Path) -> None:
    one = part_hashes(pair, Manifest.of(pair))
    other = shutil.copytree(pair, tmp_path / "other")
    weights = other / "texture" / "diffusion_pytorch_model.safetensors"
    changed = weights.read_bytes()
    weights.write_bytes(changed[:-1] + bytes([changed[-1] ^ 1]))
    index = read_json(other / "model_index.json")
    index["contracts"]["texture"]["trained_steps"] = 12345
    write_json(other / "model_index.json", index)
    two = part_hashes(other, Manifest.of(other))
    assert {part for part in PARTS if one[part] != two[part]} == {"texture", "coop"}
    index["contracts"]["texture"]["high"] = index["contracts"]["structure"]["low"] = 400
    write_json(other / "model_index.json", index)
    moved = part_hashes(other, Manifest.of(other))
    assert all(moved[part] != one[part] for part in PARTS)
