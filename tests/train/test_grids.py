"""What a run shows of itself while it trains: one picture a caption, of the right networks, the same captions every time."""

import numpy as np
import pytest
import torch
from PIL import Image

from pangu.config import Recipe, Watching
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.rows.load import load_rows
from pangu.data.table.delta import read_rows
from pangu.image_grid import GAP
from pangu.storage import Home, read_json
from pangu.train.grids import chosen_rows
from pangu.train.job import TrainJob
from pangu.train.sample_grid import middle, subject_of
from pangu.train.worker import work
from pangu.train.world import World
from tests.small_dataset import NAME
from tests.train.control import control_recipe, single_recipe
from tests.train.rows import random_rows, small_recipe
from tests.train.test_control import job_of

SHOWN = 3


def watched(recipe: Recipe) -> Recipe:
    """The recipe, showing itself after every other step."""
    return recipe.model_copy(update={"watching": Watching(sample_every=2, samples=SHOWN)})


@pytest.fixture(scope="module")
def alone(small_home: Home) -> TrainJob:
    """A generator for all timesteps that has been trained."""
    job = job_of(small_home, watched(single_recipe()), "single")
    work(job, World())
    return job


@pytest.fixture(scope="module")
def controlled(small_home: Home, alone: TrainJob) -> TrainJob:
    """A ControlNet on it."""
    job = job_of(small_home, watched(control_recipe(alone.run_folder / "generator", steps=2)), "control")
    work(job, World())
    return job


def cells(job: TrainJob, step: int, count: int, side: int = 96) -> list[np.ndarray]:
    """The pictures of a grid of one row, (side, side, 3) uint8 each."""
    sheet = np.asarray(Image.open(job.run_folder / f"samples/step-{step:06d}.png"))
    assert sheet.shape == (side + 2 * GAP, (side + GAP) * count + GAP, 3)
    return [sheet[GAP : GAP + side, GAP + place * (side + GAP) :][:, :side] for place in range(count)]


def test_a_generator_for_all_timesteps_shows_what_it_draws_by_itself(small_home: Home, alone: TrainJob) -> None:
    drawn = cells(alone, 2, SHOWN)
    assert all(one.std() > 0 for one in drawn)
    captions = read_json(alone.run_folder / "samples/captions.json")
    assert [one["language"] for one in captions] == ["en", "zh", "en"]
    table = read_rows(small_home, NAME, 0, columns=["key", "caption_en", "caption_zh"]).to_pylist()
    texts = {row["key"]: row for row in table}
    assert all(one["caption"] == texts[one["key"]][f"caption_{one['language']}"] for one in captions)


def test_a_controlnets_pictures_stand_beside_the_edges_of_their_own_rows(controlled: TrainJob) -> None:
    both = cells(controlled, 2, 2 * SHOWN)
    rows = load_rows(controlled.encoded, "control")
    keys = [one["key"] for one in read_json(controlled.run_folder / "samples/captions.json")]
    edges = rows.control([list(rows.keys).index(key) for key in keys])
    assert edges is not None
    for place in range(SHOWN):
        assert np.array_equal(both[2 * place], (edges[place] * 255).permute(1, 2, 0).to(torch.uint8).numpy())
        assert both[2 * place + 1].std() > 0


def test_a_pair_is_shown_once_the_other_half_has_something(small_home: Home) -> None:
    recipe = watched(small_recipe(steps=2, checkpoint_every=2))
    jobs = {}
    for role in ("structure", "texture"):
        first = job_of(small_home, recipe, f"pair-{role}")
        jobs[role] = first.model_copy(update={"role": role})
        work(jobs[role], World())
    assert not (jobs["structure"].run_folder / "samples").exists()
    assert len(cells(jobs["texture"], 2, SHOWN)) == SHOWN


def test_captions_shown_are_the_same_for_every_run_and_originals_come_first() -> None:
    rows = random_rows(12, buckets=2)
    assert chosen_rows(rows, 5, seed=1) == chosen_rows(rows, 12, seed=1)[:5]
    assert sorted(chosen_rows(rows, 99, seed=1)) == list(range(12))
    rows.min_timestep_n[::2] = 300
    assert all(row % 2 for row in chosen_rows(rows, 6, seed=1))


def test_a_generator_alone_is_shown_with_pictures_of_one_shape() -> None:
    rows = random_rows(12, buckets=3)
    chosen = chosen_rows(rows, 12, seed=1, of_one_bucket=True)
    assert len(chosen) == 4 and len({int(rows.preset_n[row]) for row in chosen}) == 1


def test_a_run_on_windows_is_shown_the_middle_of_the_edges(small_home: Home, alone: TrainJob) -> None:
    job = job_of(small_home, control_recipe(alone.run_folder / "generator", crop=64), "windows")
    rows, contract = load_rows(job.encoded, "control"), job.contract(EncodedManifest.load(job.encoded))
    whole, subject = rows.control([3, 4]), subject_of(rows, [3, 4], contract)
    assert whole is not None and subject.control_nchw is not None
    assert torch.equal(subject.control_nchw, whole[:, :, 16:80, 16:80].float())
    assert torch.equal(middle(whole, 96, 96), whole)
