"""Retrieval: perfect for copies, chance for noise, and honest about ties."""

import numpy as np
import pytest
from PIL import Image

from pangu.errors import UserError
from pangu.evaluate.retrieval import rank_of_truth, retrieval


def pictures(count: int, seed: int) -> dict[str, Image.Image]:
    generator = np.random.default_rng(seed)
    arrays = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return {f"{index:04d}": Image.fromarray(array) for index, array in enumerate(arrays)}


def test_copies_find_themselves() -> None:
    candidates = pictures(100, 0)
    found = retrieval(list(candidates.values()), list(candidates), candidates)
    assert (found.top1, found.top5, found.candidates) == (1.0, 1.0, 100)


def test_a_resized_copy_still_finds_itself() -> None:
    candidates = pictures(100, 0)
    larger = [image.resize((96, 96), Image.Resampling.BICUBIC) for image in candidates.values()]
    assert retrieval(larger, list(candidates), candidates).top1 > 0.95


def test_noise_is_at_chance() -> None:
    candidates = pictures(100, 0)
    queries = list(pictures(1000, 1).values())
    found = retrieval(queries, [f"{index % 100:04d}" for index in range(1000)], candidates)
    assert found.top1 < 0.03
    assert 0.02 < found.top5 < 0.09


def test_ties_count_against_the_truth() -> None:
    assert rank_of_truth(np.array([[0.5, 0.5, 0.1]]), np.array([0])).tolist() == [1]


def test_bad_input_gets_one_sentence() -> None:
    candidates = pictures(3, 0)
    with pytest.raises(UserError, match="true image x is not among the 3 candidates"):
        retrieval([candidates["0000"]], ["x"], candidates)
    with pytest.raises(UserError, match="one key per generated image"):
        retrieval([], [], candidates)
