"""The computed permutation: every number once, another order for each key, all places equally likely, the same bits for ever."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pangu.train.keyed_permutation import KeyedPermutation
from tests import subtests

checks = subtests.Checks()

SIZES = st.one_of(st.integers(1, 40), st.integers(1, 20_000))
KEYS = st.lists(st.integers(0, 2**70), min_size=1, max_size=4).map(tuple)


@checks
@given(size=SIZES, key=KEYS, other=KEYS)
def it_is_a_bijection_and_another_key_is_another_order(size: int, key, other) -> None:
    everywhere = np.arange(size)
    order = KeyedPermutation(size, key)(everywhere)
    assert sorted(order.tolist()) == list(range(size))
    at = np.unique(np.array([0, size // 3, size - 1]))
    assert KeyedPermutation(size, key)(at).tolist() == order[at].tolist(), (
        "a place depends on no other that is asked for"
    )
    if key != other and size >= 40:
        assert KeyedPermutation(size, other)(everywhere).tolist() != order.tolist()


@checks
def every_number_comes_to_every_place_equally_often_and_neighbours_part() -> None:
    """Chi-square over 4,000 keys: five times its spread above its mean is left by a fair order once in millions."""
    for size in (3, 10, 61, 256, 1000):
        orders = np.stack([KeyedPermutation(size, (7, epoch))(np.arange(size)) for epoch in range(4000)])
        distances = (orders[:, 1] - orders[:, 0]) % size - 1
        for values, kinds in ((orders[:, 0], size), (orders[:, -1], size), (distances, size - 1)):
            bins = min(kinds, 16)
            counts = np.bincount(values * bins // kinds, minlength=bins)
            expected = np.bincount(np.arange(kinds) * bins // kinds) * (len(orders) / kinds)
            chi = float(((counts - expected) ** 2 / expected).sum())
            assert chi < bins - 1 + 5 * np.sqrt(2 * (bins - 1)), (size, counts)


@checks
def its_bits_are_those_of_every_training_that_has_begun_and_large_ranges_are_like_small_ones() -> None:
    assert KeyedPermutation(12, (0, 0, 0, 0))(np.arange(12)).tolist() == PINNED[12]
    found = KeyedPermutation(10_000_019, (1, 2**63, 4, 5))(np.array([0, 1, 2, 10_000_018]))
    assert found.tolist() == PINNED[10_000_019]
    found = KeyedPermutation(2_000_000_011, (0, 1, 2))(np.arange(10_000) * 200_000)
    assert len(set(found.tolist())) == 10_000 and found.min() >= 0 and found.max() < 2_000_000_011
    assert np.abs(np.histogram(found, 10, (0, 2_000_000_011))[0] - 1000).max() < 150


PINNED = {12: [9, 1, 2, 6, 11, 0, 10, 7, 4, 5, 8, 3], 10_000_019: [9245725, 1981612, 8995420, 9206118]}


test_keyed_permutation = checks.test()
