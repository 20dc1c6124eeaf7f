"""The held-out combinations: enough of them, never learnt from, and made of parts that occur elsewhere."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny

from pangu.data.example.artists import ARTISTS, UNSEEN
from pangu.data.example.openmoji import every_drawing
from pangu.data.example.tones import SKIN_TONES, tones_of, without_tones
from pangu.errors import UserError
from pangu.starter.autoencoder import build, draw_crops, psnr, reconstruction_loss
from pangu.starter.learning_material import learning_material, material, pixels
from pangu.starter.unseen_artist import OPENMOJI, UNSEEN_STYLE, psnr_by_artist
from tests import subtests
from tests.tiny_artists import square, write_packages

checks = subtests.Checks()


@checks
def held_out_combinations_are_new_but_their_parts_are_not() -> None:
    learnt, held_out = learning_material()
    assert len(held_out) >= 150
    assert not {one.text for one in learnt} & {one.text for one in held_out}
    assert not {one.caption_en for one in learnt} & {one.caption_en for one in held_out}
    people = {without_tones(one.text) for one in learnt}
    tones = {c for one in learnt for c in one.text if ord(c) in SKIN_TONES}
    for one in held_out:
        assert without_tones(one.text) in people
        assert {c for c in one.text if ord(c) in SKIN_TONES} <= tones


@checks
def the_material_has_every_artist_and_in_no_style_a_held_out_combination(tmp_path: Path) -> None:
    thumbs = [one for one in every_drawing() if without_tones(one.text) == "👍"]
    found, held_out = material(write_packages(tmp_path, thumbs)), {one.text for one in learning_material()[1]}
    assert {one.text for one in thumbs} & held_out
    assert not {one.text for one in found} & held_out
    styles = Counter(one.style for one in found)
    assert styles.keys() == {None, *ARTISTS} and styles[None] == len(learning_material()[0])
    for one in found[-3:]:
        assert one.style is not None
        colour = square(one, ARTISTS[one.style])[len('<path fill="#') :][:6]
        assert pixels([one], 48)[0, 24, 24].tolist() == list(bytes.fromhex(colour))


@checks
def nothing_is_learnt_from_the_unseen_artist(tmp_path: Path) -> None:
    """Its package is not even looked for, and where it is there, none of its drawings is among the material."""
    thumbs = [one for one in every_drawing() if without_tones(one.text) == "👍"]
    packages = write_packages(tmp_path, thumbs)
    assert UNSEEN.package not in {artist.package for artist in ARTISTS.values()}
    beside = material(packages)
    assert not any(square(one, UNSEEN) in one.drawn for one in beside)
    shutil.rmtree(packages / UNSEEN.package)
    assert material(packages) == beside


@checks
def an_autoencoder_is_judged_by_each_artist_and_by_the_unseen_one(tmp_path: Path) -> None:
    one = next(drawing for drawing in every_drawing() if not tones_of(drawing.text))
    model = build().eval()
    found = psnr_by_artist(model, write_packages(tmp_path, [one]), 48, 1)
    assert list(found) == [OPENMOJI, *ARTISTS, UNSEEN_STYLE]
    assert found[OPENMOJI] == pytest.approx(psnr(model, torch.from_numpy(pixels([one], 48))), abs=1e-3)
    with pytest.raises(UserError, match="no AutoencoderTiny"):
        psnr_by_artist(AutoencoderTiny(), tmp_path, 48, 1)


def test_the_autoencoder_learns() -> None:
    torch.manual_seed(0)
    model, generator = build(), torch.Generator().manual_seed(0)
    images = torch.full((4, 48, 48, 3), 255, dtype=torch.uint8)
    images[:, 12:36, 12:36] = torch.randint(0, 256, (4, 1, 1, 3), generator=generator, dtype=torch.uint8)
    pixels = draw_crops(images, 4, generator)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(15):
        loss = reconstruction_loss(model, pixels, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


test_learning_material = checks.test()
