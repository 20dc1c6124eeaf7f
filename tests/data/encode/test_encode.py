"""Encoding: rows per job, files that originals and upscaled rows never share, resumable, and never mixed between encoders."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pangu.config import Recipe, RoleTraining
from pangu.data.captions import Caption
from pangu.data.encode import chunks, merging
from pangu.data.encode.encoded import MERGED, EncodedManifest, check_encoded, parts
from pangu.data.encode.fidelity import LOST_BELOW_DB
from pangu.data.encode.stage import encode
from pangu.data.example.openmoji import selection
from pangu.data.rows.load import load_rows
from pangu.data.table.delta import read_rows
from pangu.errors import UserError
from pangu.image_grid import png
from pangu.models.autoencoders import decode_latents, load_autoencoder
from pangu.models.text import embed_captions, load_text_tower, styled_caption
from pangu.recipes import tiny
from pangu.storage import Home
from tests import subtests
from tests.data.shaped import cropped, shaped_recipe, styled_row
from tests.small_dataset import NAME, commit_rows, row, small_dataset

checks = subtests.Checks()


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    version = small_dataset(home)
    return home, version, encode(NAME, version, tiny(), home)


def with_job(role: str, **changes: object) -> Recipe:
    """The tiny recipe with another job."""
    return tiny().model_copy(update={"jobs": tiny().jobs | {role: tiny().jobs[role].model_copy(update=changes)}})


@checks
def structure_gets_all_rows_and_texture_only_originals(encoded) -> None:
    home, _, outcome = encoded
    assert outcome.rows == {"structure": 12, "texture": 6}
    structure, texture = (load_rows(home.encoded(NAME, outcome.encode_id), role) for role in ("structure", "texture"))
    assert structure.latents([0, 1]).shape[1:] == (16, 12, 12)
    assert texture.latents([0, 1]).shape[1:] == (16, 12, 12)  # windows are cut at every step
    assert set(texture.keys) < set(structure.keys)
    assert texture.min_timestep_n.tolist() == [0] * 6
    assert sorted(structure.min_timestep_n.tolist()) == [0] * 6 + [300] * 6


@checks
def texture_opens_no_file_that_holds_an_upscaled_row(encoded) -> None:
    home, _, outcome = encoded
    folder = home.encoded(NAME, outcome.encode_id)
    held = {key for file in parts(folder, "texture") for key in pq.read_table(file)["key"].to_pylist()}
    assert held == set(load_rows(folder, "texture").keys)


@checks
def parts_are_joined_to_large_files_before_anybody_reads_them(encoded, tmp_path, monkeypatch) -> None:
    home, version, outcome = encoded
    before = load_rows(home.encoded(NAME, outcome.encode_id), "structure")
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 1)
    monkeypatch.setattr(merging, "FILE_BYTES", 150_000)
    other = Home(tmp_path)
    assert small_dataset(other) == version
    assert encode(NAME, version, tiny(), other).encode_id == outcome.encode_id
    folder = other.encoded(NAME, outcome.encode_id)
    files = {role: parts(folder, role) for role in ("structure", "texture")}
    assert [len(own) for own in files.values()] == [4, 2], "three parts each"
    assert all(file.parent.name == MERGED and file.stat().st_size >= 150_000 for file in files["structure"])
    rows = load_rows(folder, "structure")
    assert list(rows.keys) == list(before.keys)
    torch.testing.assert_close(rows.latents(range(12)), before.latents(range(12)), atol=4e-3, rtol=4e-3)
    assert encode(NAME, version, tiny(), other).already_done
    files["texture"][0].unlink()
    assert not encode(NAME, version, tiny(), other).already_done, "what is gone is made again"
    assert len(parts(folder, "texture")) == 4, "in a dataset that somebody may read, no file changes its place"


@checks
def jobs_that_look_at_images_alike_share_the_files(encoded) -> None:
    home, _, outcome = encoded
    folder = home.encoded(NAME, outcome.encode_id)
    assert set(parts(folder, "texture")) < set(parts(folder, "structure"))
    assert len(list(folder.glob("view-*"))) == 1


@checks
def latents_and_embeddings_are_those_of_the_row(encoded) -> None:
    home, _, outcome = encoded
    rows = load_rows(home.encoded(NAME, outcome.encode_id), "structure")
    one = selection(12)[4]
    index = rows.keys.index(row(one, False)["key"])
    captions = [one.caption_en, one.caption_zh, ""]
    tokens, pooled = embed_captions([load_text_tower(tiny().text_encoders[0])], captions, tiny().max_tokens)
    found = rows.captions([index] * 3, list(map(Caption, (0, 1, -1))))
    torch.testing.assert_close(found[0].float(), tokens, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(found[1].float(), pooled, atol=1e-2, rtol=1e-2)
    pixels = decode_latents(load_autoencoder(tiny().autoencoder), rows.latents([index]).float())
    assert pixels.shape == (1, 3, 96, 96)
    assert pixels.mean() > 0  # mostly white


@checks
def encoding_again_does_nothing_and_says_so(encoded) -> None:
    home, version, outcome = encoded
    before = {path: path.stat().st_mtime_ns for path in home.encoded(NAME, outcome.encode_id).rglob("*")}
    again = encode(NAME, version, tiny(), home)
    assert again.already_done
    assert again.encode_id == outcome.encode_id
    assert before == {path: path.stat().st_mtime_ns for path in home.encoded(NAME, outcome.encode_id).rglob("*")}


@checks
def what_a_stopped_run_had_done_is_kept(encoded) -> None:
    home, version, outcome = encoded
    folder = home.encoded(NAME, outcome.encode_id)
    lost, kept = parts(folder, "texture")[0], parts(folder, "structure")[-1]
    stamp, content = kept.stat().st_mtime_ns, kept.read_bytes()
    (folder / "manifest.json").unlink()
    for _ in ("killed before its end", "lost a file after it"):
        lost.unlink()
        again = encode(NAME, version, tiny(), home)
        assert not again.already_done
        assert (kept.stat().st_mtime_ns, kept.read_bytes()) == (stamp, content)
        assert lost.is_file()
        assert again.rows == outcome.rows


@pytest.mark.long
def test_whatever_decides_the_content_makes_another_encoded_dataset(encoded) -> None:
    home, version, outcome = encoded
    others = [
        tiny().model_copy(update={"max_tokens": 20}),
        tiny().model_copy(update={"styles": {"photo": "a photo of"}}),
        with_job("texture", crop_from=None),
        with_job("structure", rows="originals"),
        with_job("structure", min_original_side=64),
    ]
    ids = {encode(NAME, version, recipe, home).encode_id for recipe in others}
    assert len(ids | {outcome.encode_id}) == 6


@checks
def a_dataset_that_was_built_anew_under_the_same_number_never_meets_old_latents(tmp_path) -> None:
    home = Home(tmp_path)
    version = small_dataset(home, count=8)
    before = encode(NAME, version, tiny(), home)
    shutil.rmtree(home.dataset(NAME) / "table")
    assert commit_rows(home, [row(one, index % 2 == 0) for index, one in enumerate(selection(8))]) == version
    after = encode(NAME, version, tiny(), home)
    assert not after.already_done and after.encode_id != before.encode_id
    keys = set(read_rows(home, NAME, version, columns=["key"])["key"].to_pylist())
    assert set(load_rows(home.encoded(NAME, after.encode_id), "structure").keys) == keys


@checks
def images_that_were_too_small_are_left_out(tmp_path) -> None:
    home = Home(tmp_path)
    version = small_dataset(home)
    outcome = encode(NAME, version, with_job("structure", min_original_side=64), home)
    rows = load_rows(home.encoded(NAME, outcome.encode_id), "structure")
    assert outcome.rows["structure"] == len(rows) == 6
    assert rows.min_timestep_n.tolist() == [0] * 6  # those that were small were the upscaled ones
    with pytest.raises(UserError, match=r"smaller side of 999 px or more, so the structure .*lower min_original_side"):
        encode(NAME, version, with_job("structure", min_original_side=999), home)


@checks
def baselines_encode_a_set_per_stage(tmp_path) -> None:
    home = Home(tmp_path)
    version = small_dataset(home)
    stages = {
        "cascade_base": RoleTraining(resolution=32, steps=1, batch_size=1),
        "cascade_middle": RoleTraining(resolution=64, lower_side=32, rows="originals", steps=1, batch_size=1),
        "cascade_final": RoleTraining(resolution=96, lower_side=64, min_original_side=100, steps=1, batch_size=1),
    }
    recipe = Recipe(**tiny().model_dump(exclude={"jobs", "strategy"}), strategy="cascaded", jobs=stages)
    outcome = encode(NAME, version, recipe, home)
    folder = home.encoded(NAME, outcome.encode_id)
    assert outcome.rows == {"cascade_base": 12, "cascade_middle": 6, "cascade_final": 6}
    base, middle, final = (load_rows(folder, role) for role in recipe.roles)
    assert base.lower([0]) is None
    assert middle.lower([0, 1]).shape == middle.latents([0, 1]).shape == (2, 16, 8, 8)
    assert final.lower([0, 1]).shape == final.latents([0, 1]).shape == (2, 16, 12, 12)
    for role in recipe.roles:
        check_encoded(EncodedManifest.load(folder), recipe, role)


@checks
def the_earlier_stages_image_is_the_same_image_without_detail(tmp_path) -> None:
    home = Home(tmp_path)
    version = small_dataset(home)
    outcome = encode(NAME, version, with_job("structure", lower_side=24), home)
    rows = load_rows(home.encoded(NAME, outcome.encode_id), "structure")
    autoencoder = load_autoencoder(tiny().autoencoder)
    every = range(len(rows))
    whole, lower = (decode_latents(autoencoder, of(every).float()) for of in (rows.latents, rows.lower))

    def detail(pixels: torch.Tensor) -> float:
        return float(pixels.diff(dim=-1).abs().mean())

    coarse = torch.nn.functional.avg_pool2d
    assert detail(lower) < 0.9 * detail(whole)
    assert (coarse(whole, 16) - coarse(lower, 16)).abs().mean() < 0.1


@checks
def styled_rows_get_their_captions_under_the_prefix_of_their_style_too(tmp_path) -> None:
    home, drawings = Home(tmp_path), selection(12)
    styles = ["photo", None, "cartoon"]
    version = commit_rows(home, [styled_row(one, style) for one, style in zip(drawings, styles, strict=False)])
    prefixes = {"photo": "A photo of", "cartoon": "A cartoon of"}
    recipe = tiny().model_copy(update={"styles": prefixes})
    rows = load_rows(home.encoded(NAME, encode(NAME, version, recipe, home).encode_id), "texture")
    towers = [load_text_tower(tiny().text_encoders[0])]
    for one, style in zip(drawings, styles, strict=False):
        index = rows.keys.index(styled_row(one, style)["key"])
        assert rows.wordings([index])[0].styled == (style is not None)
        if style is not None:
            captions = [styled_caption(text, prefixes[style]) for text in (one.caption_en, one.caption_zh)]
            tokens, _ = embed_captions(towers, captions, tiny().max_tokens)
            torch.testing.assert_close(
                rows.captions([index] * 2, [Caption(2), Caption(3)])[0].float(), tokens, atol=1e-2, rtol=1e-2
            )


@checks
def a_style_that_the_recipe_does_not_know_is_refused_unless_it_knows_none(tmp_path) -> None:
    home = Home(tmp_path)
    version = commit_rows(home, [styled_row(selection(12)[0], "sketch")])
    with pytest.raises(UserError, match=r"have the style 'sketch', but the recipe's styles are photo"):
        encode(NAME, version, tiny().model_copy(update={"styles": {"photo": "A photo of"}}), home)
    rows = load_rows(home.encoded(NAME, encode(NAME, version, tiny(), home).encode_id), "texture")
    assert not any(own.styled for own in rows.wordings(range(len(rows))))


@checks
def every_shape_is_encoded_at_its_own_size_and_windows_fit(tmp_path) -> None:
    home = Home(tmp_path)
    version = cropped(home, {(96, 96): 4, (48, 120): 3, (120, 48): 2})
    recipe = shaped_recipe()
    outcome = encode(NAME, version, recipe, home)
    folder = home.encoded(NAME, outcome.encode_id)
    rows = load_rows(folder, "structure")
    shapes = {int(preset): rows.latents([index]).shape[2:] for index, preset in enumerate(rows.preset_n)}
    assert shapes == {2: (8, 18), 5: (12, 12), 8: (18, 8)}
    assert EncodedManifest.load(folder).buckets["structure"] == {2: 3, 5: 4, 8: 2}
    check_encoded(EncodedManifest.load(folder), recipe, "texture")


@checks
def a_shape_with_fewer_images_than_a_batch_is_named_by_its_size(tmp_path) -> None:
    home = Home(tmp_path)
    version = cropped(home, {(96, 96): 4, (48, 120): 3})
    recipe = shaped_recipe(batch_size=4)
    manifest = EncodedManifest.load(home.encoded(NAME, encode(NAME, version, recipe, home).encode_id))
    with pytest.raises(UserError, match="Only 3 images of structure have the shape 64x144"):
        check_encoded(manifest, recipe, "structure")


@checks
def images_of_starved_shapes_go_to_the_nearest_one_that_has_enough_if_asked(tmp_path) -> None:
    home = Home(tmp_path)
    version = cropped(home, {(96, 96): 4, (48, 120): 3, (48, 160): 1})
    recipe = shaped_recipe(batch_size=4, starved_presets="nearest")
    folder = home.encoded(NAME, encode(NAME, version, recipe, home).encode_id)
    rows = load_rows(folder, "structure")
    check_encoded(EncodedManifest.load(folder), recipe, "structure")
    assert sorted(rows.preset_n.tolist()) == [2] * 4 + [5] * 4


@checks
def a_missing_caption_is_the_other_languages(tmp_path) -> None:
    home, one = Home(tmp_path), selection(12)[0]
    version = commit_rows(home, [row(one, False, caption_zh="")])
    rows = load_rows(home.encoded(NAME, encode(NAME, version, tiny(), home).encode_id), "texture")
    assert torch.equal(rows.captions([0], [Caption(0)])[0], rows.captions([0], [Caption(1)])[0])


@checks
def held_out_rows_are_encoded_but_not_trained(tmp_path) -> None:
    home, drawings = Home(tmp_path), selection(12)
    version = commit_rows(home, [row(drawings[0], False), row(drawings[1], False, split="held_out")])
    outcome = encode(NAME, version, tiny(), home)
    assert outcome.rows == {"structure": 1, "texture": 1}
    folder = home.encoded(NAME, outcome.encode_id)
    stored = pq.read_table(parts(folder, "structure")[0], columns=["split"])["split"].to_pylist()
    assert sorted(stored) == ["held_out", "train"]
    assert len(load_rows(folder, "structure")) == 1


@checks
def a_dataset_without_originals_is_refused(tmp_path) -> None:
    home = Home(tmp_path)
    version = commit_rows(home, [row(one, True) for one in selection(3)])
    with pytest.raises(UserError, match=r"No image of dataset 'small' is above its size threshold.*texture_min_side"):
        encode(NAME, version, tiny(), home)


@checks
def an_unfinished_encoded_dataset_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="run `pangu encode` first"):
        EncodedManifest.load(tmp_path)


@checks
def a_recipe_that_the_dataset_was_not_encoded_for_is_refused(encoded) -> None:
    home, _, outcome = encoded
    manifest = EncodedManifest.load(home.encoded(NAME, outcome.encode_id))
    check_encoded(manifest, tiny(), "structure")
    with pytest.raises(UserError, match="sizes in px 128x128, but the dataset was encoded with 96x96"):
        check_encoded(manifest, with_job("structure", resolution=128), "structure")
    with pytest.raises(UserError, match="max_tokens 20, but the dataset was encoded with 16"):
        check_encoded(manifest, tiny().model_copy(update={"max_tokens": 20}), "structure")
    with pytest.raises(UserError, match="encoded for structure, texture, not for boost_low"):
        manifest.job("boost_low")


@checks
def latents_are_stored_in_half_precision(encoded) -> None:
    home, _, outcome = encoded
    latents = pq.read_table(parts(home.encoded(NAME, outcome.encode_id), "texture")[0])["latents"][0].as_py()
    assert len(latents) == 2 * 16 * 12 * 12


@checks
def encode_says_how_much_the_autoencoder_keeps_and_warns_where_it_loses_the_pictures(encoded, tmp_path) -> None:
    """Flat drawings stay; noise is what no autoencoder of eight by eight pixels keeps."""
    _, _, outcome = encoded
    assert outcome.autoencoder_db is not None and outcome.autoencoder_db > LOST_BELOW_DB and outcome.warnings == ()
    home = Home(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    noisy = [
        row(one, False, image=png(Image.fromarray(pixels))) for one, pixels in zip(selection(4), noise, strict=True)
    ]
    version = commit_rows(home, noisy)
    found = encode(NAME, version, tiny(), home)
    again = encode(NAME, version, tiny(), home)
    assert found.autoencoder_db is not None and found.autoencoder_db < 20
    assert (
        f"keeps only {found.autoencoder_db:.1f} dB" in found.warnings[0] and "autoencoder.source" in found.warnings[0]
    )
    assert again.already_done and again.warnings == found.warnings


test_encode = checks.test()
