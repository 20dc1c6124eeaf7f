"""Several datasets in one training: each row as often as its weight says, the same draws everywhere, a record of all parts."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from pangu.config import EdgeControl, Mixture, MixturePart, Optimization, Recipe
from pangu.data.captions import Caption
from pangu.data.encode.mixture_parts import check_parts
from pangu.data.encode.stage import encode
from pangu.data.example.openmoji import selection
from pangu.data.rows.load import load_mixture, load_rows
from pangu.data.rows.mixed_rows import MixedRows, in_turn
from pangu.data.rows.training_rows import Share
from pangu.data.trained_on import TrainedOn
from pangu.diffusion.interval import TimeInterval
from pangu.errors import UserError
from pangu.storage import Home, read_json, write_json
from pangu.train.job import TrainJob, captions_of
from pangu.train.keyed_epochs import KeyedEpochs
from pangu.train.launch import default_run_name
from pangu.train.loop import Hooks, train_loop
from pangu.train.randomness import draw_batch
from pangu.train.sampler import DeterministicSampler
from pangu.train.samples_seen import as_csv, seen
from pangu.train.worker import work
from pangu.train.world import World
from tests import subtests
from tests.small_dataset import NAME, commit_rows, row
from tests.train.control import single_recipe
from tests.train.rows import plain_timesteps, random_rows, smallest_recipe
from tests.train.test_loop import Killed, averaged, same

checks = subtests.Checks()

WEIGHTS = st.sampled_from([0.1, 0.29, 0.5, 1.0, 1.5, 2.0, 3.25])
PARTS = st.lists(st.tuples(st.integers(20, 40), WEIGHTS), min_size=1, max_size=3)


def mixed(*weights: float) -> MixedRows:
    """Parts of 12 and 8 rows in two buckets, all different."""
    parts = [random_rows(12, buckets=2), random_rows(20, buckets=2)]
    return MixedRows(["first", "second"][: len(weights)], parts[: len(weights)], weights)


@given(parts=PARTS, batch=st.integers(1, 2), seed=st.integers(0, 9), epochs=st.integers(1, 6))
def test_each_row_appears_as_often_as_the_weight_of_its_dataset_says(parts, batch, seed, epochs) -> None:
    """But for the rows that an epoch's last, incomplete batch of each bucket leaves out."""
    buckets = tuple(index % 2 for rows, _ in parts for index in range(rows))
    least = [sum(round(weight * 100) * own // 100 for own, weight in _in_bucket(parts, bucket)) for bucket in (0, 1)]
    assume(min(least) >= batch)
    sampler = DeterministicSampler(buckets, batch, seed, tuple(Share(*part) for part in parts))
    length = sum(one // batch for one in least)
    steps = [drawn for several in sampler.batches(0, epochs * length) for drawn in several]
    assert np.array_equal(sampler.rows_of(epochs * length - 1), steps[-1])
    assert all(len({buckets[index] for index in drawn}) == 1 and len(drawn) == batch for drawn in steps)
    lost = 2 * (batch - 1 + len(parts))  # in an epoch, of both buckets
    for epoch in range(epochs):
        times = np.bincount(np.concatenate(steps[epoch * length : (epoch + 1) * length]), minlength=len(buckets))
        for (rows, weight), own in zip(
            parts, np.split(times, np.cumsum([rows for rows, _ in parts])[:-1]), strict=True
        ):
            assert own.max() <= int(weight) + (weight % 1 > 0)
            assert rows * weight - lost - 2 <= own.sum() <= rows * weight + 2


def _in_bucket(parts: list[tuple[int, float]], bucket: int) -> list[tuple[int, float]]:
    """Rows and weight of each part in one of two buckets, into which the rows of each part go in turn."""
    return [((rows + 1 - bucket) // 2, weight) for rows, weight in parts]


@checks
@given(weight=WEIGHTS, rows=st.integers(10, 40), seed=st.integers(0, 9))
def over_many_epochs_no_row_is_ahead_of_another(weight: float, rows: int, seed: int) -> None:
    sampler = DeterministicSampler((0,) * rows, 1, seed, (Share(rows, weight),))
    [part], epochs = sampler._parts[0], sampler._epochs
    assert isinstance(epochs, KeyedEpochs)
    times = np.zeros(rows, int)
    for epoch in range(25):
        np.add.at(times, epochs.draws(0, epoch, np.arange(part.draws(epoch))), 1)
        assert times.max() - times.min() <= 1
        assert times.sum() == (epoch + 1) * round(weight * 100) * rows // 100


@checks
def one_dataset_of_weight_one_is_the_plain_training_to_the_bit(tmp_path: Path) -> None:
    plain, recipe = random_rows(12, buckets=2), smallest_recipe()
    alone = MixedRows(["first"], [plain], [1.0])
    ours, theirs = (
        averaged(train_loop("structure", recipe, rows, "e", tmp_path / name))
        for rows, name in ((plain, "a"), (alone, "b"))
    )
    assert same(ours, theirs)
    assert recipe.model_copy(update={"mixture": Mixture(weight=1)}).digest() == recipe.digest()
    other = recipe.model_copy(update={"mixture": Mixture(weight=2)})
    assert default_run_name("structure", "e" * 16, other) != default_run_name("structure", "e" * 16, recipe)


def test_a_batch_holds_what_each_dataset_says_of_its_rows_however_many_workers_share_it() -> None:
    rows, parts = mixed(1.0, 0.5), [random_rows(12, buckets=2), random_rows(20, buckets=2)]
    assert len(rows) == len(rows.keys) == 32 and list(rows.keys) == [*parts[0].keys, *parts[1].keys]
    timesteps, optimization = plain_timesteps(rows, TimeInterval(500, 1000)), Optimization()
    indices = [14, 2, 30, 0, 12, 10]
    for place, index in enumerate(indices):
        part, own = (parts[0], index) if index < 12 else (parts[1], index - 12)
        assert rows.keys[index] == part.keys[own]
        assert rows.latents(indices)[place].equal(part.latents([own])[0])
        for ours, theirs in zip(
            rows.captions(indices, [Caption(1)] * 6), part.captions([own], [Caption(1)]), strict=True
        ):
            assert ours[place].equal(theirs[0])
    whole = draw_batch(rows, indices, 0, 5, 7, timesteps, optimization)
    shares = [World(rank, 2).share(indices) for rank in range(2)]
    halves = [draw_batch(rows, mine, position, 5, 7, timesteps, optimization) for mine, position in shares]
    for name in ("latents_bchw", "noise_bchw", "tokens_bsc", "pooled_bp", "timestep_b"):
        joined = np.concatenate([getattr(half, name).numpy() for half in halves])
        assert np.array_equal(joined, getattr(whole, name).numpy()), name
    assert in_turn(rows, [0, 1, 2, 13, 14]) == [0, 13, 1, 14, 2]


@checks
def limits_count_as_often_as_their_rows_are_drawn() -> None:
    free, limited = random_rows(10), random_rows(10, min_timestep=750)
    rows = MixedRows(["free", "limited"], [free, limited], [3.0, 1.0])
    [bucket] = plain_timesteps(rows, TimeInterval(500, 1000)).buckets.values()
    assert bucket.limits == (500, 750) and bucket.rows_g.tolist() == [0.75, 0.25]


@subtests.parametrize("step", [1, 3, 5])
def test_a_mixture_that_was_killed_goes_on_to_the_bit(step: int, tmp_path: Path) -> None:
    def stop(done: int, metrics: dict) -> None:
        if done == step:
            raise Killed

    recipe, rows = smallest_recipe(), mixed(1.5, 0.5)
    whole = train_loop("structure", recipe, rows, "e", tmp_path / "whole")
    with pytest.raises(Killed):
        train_loop("structure", recipe, rows, "e", tmp_path / "killed", hooks=Hooks(stop))
    resumed = train_loop("structure", recipe, rows, "e", tmp_path / "killed")
    assert resumed.resumed_from == step - 1 and same(averaged(whole), averaged(resumed))


@pytest.fixture(scope="module")
def both(small_home: Home) -> tuple[Home, Recipe, Path]:
    """The small dataset and another one, encoded with one recipe that mixes them; and the folder of the first."""
    plain = single_recipe()
    encode_id = encode(NAME, 0, plain, small_home).encode_id
    rows = [row(one, False, license="CC0") for one in selection(20)[12:]]
    other = encode("other", commit_rows(small_home, rows, name="other"), plain, small_home).encode_id
    recipe = plain.model_copy(
        update={"mixture": Mixture(weight=0.5, also=(MixturePart(dataset="other", encode_id=other, weight=2),))}
    )
    assert encode(NAME, 0, recipe, small_home).encode_id == encode_id, "what is encoded does not depend on the mixture"
    return small_home, recipe, small_home.encoded(NAME, encode_id)


def job_of(home: Home, recipe: Recipe, encoded: Path, name: str = "mixed") -> TrainJob:
    return TrainJob(
        role="single", run_name=name, encode_id=encoded.name, recipe=recipe, encoded=encoded, run_folder=home.run(name)
    )


def test_a_training_on_two_datasets_records_both_with_their_licences_and_what_it_saw_of_each(both) -> None:
    home, recipe, encoded = both
    check_parts(encoded, recipe, "single")
    job = job_of(home, recipe, encoded)
    work(job, World())
    found = TrainedOn.load(job.run_folder / "generator")
    assert found is not None and found == TrainedOn.load(job.run_folder)
    assert [(one.dataset, one.weight, one.rows) for one in found.parts] == [(NAME, 0.5, 12), ("other", 2, 8)]
    assert [one.licences for one in found.parts] == [{"CC BY-SA 4.0": 12}, {"CC0": 8}]
    assert dict(found.tags()) == {
        "pangu.mixture": f"{NAME} 0 x 0.5 (CC BY-SA 4.0: 12); other 0 x 2 (CC0: 8)",
        "pangu.licences": "CC BY-SA 4.0; CC0",
    }
    rows = load_mixture(encoded, "single", recipe)
    drawn = DeterministicSampler(tuple(rows.preset_n.tolist()), 4, recipe.seed, rows.shares)
    expected = Counter(np.concatenate([drawn.rows_of(step) for step in range(2)]).tolist())
    listed = seen(job, 2)
    assert {(one["dataset"], one["key"]): one["times"] for one in listed.rows()} == {
        (NAME if index < 12 else "other", rows.keys[index]): times for index, times in expected.items()
    }
    totals = listed.totals()["datasets"]
    assert sum(one["images"] for one in totals.values()) == 8 and totals["other"]["weight"] == 2
    assert as_csv(listed.totals(), None).splitlines()[1].startswith(f"mixed,single,2,{NAME},0,12,")
    texts = captions_of(job, {rows.keys[0], rows.keys[15]})
    assert all(texts[rows.keys[index]]["caption_en"] for index in (0, 15))


def test_a_training_on_one_dataset_leaves_the_files_that_it_left_before_there_were_mixtures(both) -> None:
    home, _, encoded = both
    job = job_of(home, single_recipe(), encoded, "plain")
    work(job, World())
    assert TrainedOn.load(job.run_folder) is None and "mixture" not in read_json(job.run_folder / "job.json")["recipe"]
    assert "dataset" not in seen(job, 2).rows()[0] and "datasets" not in seen(job, 2).totals()
    alone = load_rows(encoded, "single")
    assert type(load_mixture(encoded, "single", single_recipe())) is type(alone)


def _with(recipe: Recipe, **changes: object) -> Recipe:
    [part] = recipe.mixture.also
    return recipe.model_copy(update={"mixture": Mixture(also=(part.model_copy(update=changes),))})


@subtests.parametrize(
    ("spoilt", "sentence"),
    [
        (
            "missing",
            r"Part 'other' of the mixture of recipe .* cannot be used: There is no finished encoded dataset at",
        ),
        (
            "itself",
            r"Part 'small' of the mixture .* is the dataset that is trained anyway; give it a weight in mixture.weight",
        ),
        (
            "sizes",
            r"Part 'other' .* cannot be used: Recipe .* with sizes in px 96x96, but the dataset was encoded with 48x48",
        ),
        (
            "styles",
            r"Part 'other' .* cannot be used: Recipe .* with styles \{\}, but the dataset was encoded with \{'photo'",
        ),
        ("control", r"Part 'other' .* with control None, but the dataset was encoded with .*low_threshold=100"),
        ("latents", r"Part 'other' .* with latents precomputed, but the dataset was encoded with on_the_fly"),
        ("text", r"Part 'other' .* with text precomputed, but the dataset was encoded with on_the_fly"),
        ("autoencoder", r"Part 'other' .* was encoded with another autoencoder_hash \(ab\) than dataset 'small' \("),
        ("few", r"Only 3 images of single have the shape 96x96 .*, fewer than a batch of 4"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_in_a_sentence_that_names_the_part(both, spoilt, sentence) -> None:
    home, recipe, encoded = both
    [part] = recipe.mixture.also
    if spoilt == "missing":
        recipe = _with(recipe, encode_id="0" * 16)
    elif spoilt == "itself":
        recipe = _with(recipe, dataset=NAME, encode_id=encoded.name)
    elif spoilt == "few":
        few = part.model_copy(update={"weight": 0.01})
        recipe = recipe.model_copy(update={"mixture": Mixture(weight=0.27, also=(few,))})
    else:
        manifest = read_json(home.encoded("other", part.encode_id) / "manifest.json")
        if spoilt == "sizes":
            manifest["jobs"]["single"]["view"]["sizes"] = [[48, 48]]
        elif spoilt == "styles":
            manifest["styles"] = {"photo": "A photo of"}
        elif spoilt == "control":
            manifest["jobs"]["single"]["view"]["control"] = EdgeControl().model_dump(mode="json")
        elif spoilt in ("latents", "text"):
            manifest[spoilt] = "on_the_fly"
        else:
            manifest["encoders"]["autoencoder_hash"] = "ab"
        folder = home.encoded("other", f"spoilt-{spoilt}")
        folder.mkdir()
        write_json(folder / "manifest.json", manifest)
        recipe = _with(recipe, encode_id=folder.name)
    with pytest.raises(UserError, match=sentence):
        check_parts(encoded, recipe, "single")


@checks
def a_dataset_named_twice_and_a_weight_of_nothing_are_refused() -> None:
    part = {"dataset": "a", "encode_id": "0" * 16}
    with pytest.raises(ValidationError, match="names dataset 'a' twice; give it a weight instead"):
        Mixture.model_validate({"also": [part, part]})
    for weight in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValidationError):
            Mixture.model_validate({"also": [part | {"weight": weight}]})


test_mixtures = checks.test()
