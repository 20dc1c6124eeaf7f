"""Retrieval: perfect for copies, chance for noise, and honest about ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pangu.errors import UserError
from pangu.evaluate.retrieval import rank, rank_any, rank_of_best, rank_of_truth, retrieval
from tests import subtests

checks = subtests.Checks()


def pictures(count: int, seed: int) -> dict[str, Image.Image]:
    generator = np.random.default_rng(seed)
    arrays = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return {f"{index:04d}": Image.fromarray(array) for index, array in enumerate(arrays)}


@checks
def copies_find_themselves() -> None:
    candidates = pictures(100, 0)
    found = retrieval(list(candidates.values()), list(candidates), candidates)
    assert (found.top1, found.top5, found.candidates) == (1.0, 1.0, 100)


@checks
def a_resized_copy_still_finds_itself() -> None:
    candidates = pictures(100, 0)
    larger = [image.resize((96, 96), Image.Resampling.BICUBIC) for image in candidates.values()]
    assert retrieval(larger, list(candidates), candidates).top1 > 0.95


@checks
def noise_is_at_chance() -> None:
    candidates = pictures(100, 0)
    queries = list(pictures(1000, 1).values())
    found = retrieval(queries, [f"{index % 100:04d}" for index in range(1000)], candidates)
    assert found.top1 < 0.03
    assert 0.02 < found.top5 < 0.09


@checks
def ties_count_against_the_truth() -> None:
    assert rank_of_truth(np.array([[0.5, 0.5, 0.1]]), np.array([0])).tolist() == [1]


@checks
def bad_input_gets_one_sentence() -> None:
    candidates = pictures(3, 0)
    with pytest.raises(UserError, match="true image x is not among the 3 candidates"):
        retrieval([candidates["0000"]], ["x"], candidates)
    with pytest.raises(UserError, match="one key per generated image"):
        retrieval([], [], candidates)


@checks
def the_most_similar_of_several_true_images_counts() -> None:
    candidates = pictures(50, 0)
    keys = list(candidates)
    images = list(candidates.values())
    every = [tuple(keys[place : place + 3]) for place in range(40)]
    second = rank_any([images[place + 1] for place in range(40)], every, candidates)
    assert (second.rank_q == 0).all() and second.similarity_q.min() > 0.999
    alone = rank_any(images, [(key,) for key in keys], candidates)
    assert np.array_equal(alone.rank_q, rank(images, keys, candidates).rank_q)


@checks
@given(st.integers(0, 1000))
def another_true_image_never_makes_a_rank_worse(seed: int) -> None:
    generator = np.random.default_rng(seed)
    similarity_qn = generator.integers(0, 5, (6, 9)).astype(float)
    few = np.eye(6, 9, dtype=bool)
    more = few | (generator.random((6, 9)) < 0.3)
    assert (rank_of_best(similarity_qn, more) <= rank_of_best(similarity_qn, few)).all()
    assert np.array_equal(rank_of_best(similarity_qn, few), rank_of_truth(similarity_qn, np.arange(6)))


test_retrieval = checks.test()
