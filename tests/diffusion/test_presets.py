"""Resolution presets: published lists kept to the digit, scaled ones distinct, and the nearest shape of a picture."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.config import RoleTraining
from pangu.data.encode.views import fill_buckets, job_data, kept_presets, windows
from pangu.diffusion.presets import (
    HIGH_RESOLUTION,
    LOW_RESOLUTION,
    nearest_preset,
    paired_presets,
    preset_index,
    presets_for,
)
from pangu.errors import UserError
from tests import subtests

checks = subtests.Checks()

SIDES = st.integers(1, 5000)
BASES = st.sampled_from([64, 96, 128, 256, 512, 768, 1024])


def training(**changes: object) -> RoleTraining:
    return RoleTraining(**{"resolution": 1024, "presets": "published", "steps": 1, "batch_size": 4, **changes})


@checks
def published_bases_have_the_published_lists_and_others_one_square() -> None:
    assert presets_for(1024) == presets_for(1024, "published") == HIGH_RESOLUTION
    assert presets_for(512) == presets_for(512, "published") == LOW_RESOLUTION
    assert presets_for(96) == ((96, 96),)
    assert preset_index(96, 96, 96) == 0
    assert preset_index(1024, 1024, 1024) == preset_index(512, 512, 512) == 5


@checks
@given(base=BASES, factor=st.sampled_from([4, 8]))
def scaled_presets_are_distinct_whole_latents_and_keep_their_base_and_place(base: int, factor: int) -> None:
    presets = presets_for(base, "published", factor)
    published = LOW_RESOLUTION if base <= 512 else HIGH_RESOLUTION
    assert len(set(presets)) == len(published)
    assert presets[5] == (base, base)
    assert all(height % factor == width % factor == 0 for height, width in presets)
    ratios = [height / width for height, width in presets]
    assert ratios == sorted(ratios)


@checks
def a_base_that_is_too_small_for_the_published_shapes_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be scaled to 32 px at 8 px per latent"):
        presets_for(32, "published", 8)


@checks
@given(height=SIDES, width=SIDES, base=BASES)
def no_preset_is_nearer_than_the_nearest(height: int, width: int, base: int) -> None:
    presets = presets_for(base, "published")
    distances = [abs(math.log(h / w * width / height)) for h, w in presets]
    assert distances[nearest_preset(height, width, base, "published")] == pytest.approx(min(distances), abs=1e-12)


@checks
@given(height=SIDES, width=SIDES)
def a_transposed_picture_gets_the_transposed_preset(height: int, width: int) -> None:
    presets = presets_for(512)
    assert presets[nearest_preset(height, width, 512)] == presets[nearest_preset(width, height, 512)][::-1]


@checks
@given(base=st.sampled_from([512, 1024, 256, 96]), window=st.sampled_from([512, 256, 96, 64]))
def every_encoded_shape_has_a_window_of_its_own_that_fits(base: int, window: int) -> None:
    if window > base:
        return
    encoded, trained = presets_for(base, "published"), presets_for(window, "published")
    pairs = paired_presets(encoded, trained)
    assert len(set(pairs)) == len(encoded)
    assert pairs[5] == 5
    cut = windows(training(resolution=window, crop_from=base), 8)
    assert cut == {index: (trained[index][0] // 8, trained[index][1] // 8) for index in pairs}
    assert all(cut[pair][i] * 8 <= size[i] for size, pair in zip(encoded, pairs, strict=True) for i in (0, 1))


@checks
def square_jobs_keep_one_bucket_and_its_window() -> None:
    assert windows(training(presets="square", resolution=64, crop_from=96), 8) == {0: (8, 8)}
    assert windows(training(presets="square", resolution=512, crop_from=1024), 8) == {5: (64, 64)}
    assert windows(training(presets="square", resolution=96), 8) is None
    assert job_data(training(presets="square", resolution=64, crop_from=96), 8).trained == (0,)


@checks
@given(counts=st.dictionaries(st.tuples(SIDES, SIDES), st.integers(1, 6), min_size=1, max_size=12))
def no_image_is_lost_and_no_bucket_left_starved(counts: dict[tuple[int, int], int]) -> None:
    job = training(starved_presets="nearest")
    view = job_data(job, 8, kept_presets(counts, job, 8)).view
    filled = fill_buckets(counts, view)
    assert sum(filled.values()) == sum(counts.values())
    assert len(view.kept) == 1 or min(filled.values()) >= job.batch_size
    every = job_data(training(), 8, kept_presets(counts, training(), 8)).view
    assert len(every.kept) == len(every.sizes)


test_presets = checks.test()
