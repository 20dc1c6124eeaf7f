"""A permutation of [0, N) that is computed for the places that are asked for, so that no order of all rows is kept anywhere.

A Feistel network over pairs (Luby and Rackoff, 1988), generalised to halves of any size and walked along its cycles until a
number lies in the range (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). The same bits on every machine.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from math import isqrt

import numpy as np

ROUNDS = 8
_FIRST, _SECOND = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
"""Odd factors that spread every bit over the higher ones (MurmurHash3's finaliser)."""
_HALF, _ONE = np.uint64(32), np.uint64(1)


@dataclass(frozen=True)
class KeyedPermutation:
    """A bijection of [0, size), another one for each key of integers. size < 2^62."""

    size: int
    key: tuple[int, ...]

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Where each place (...,) in [0, size) goes, int64."""
        found = self._network(places.astype(np.uint64))
        while (outside := found >= self.size).any():
            found[outside] = self._network(found[outside])
        return found.astype(np.int64)

    def _network(self, numbers: np.ndarray) -> np.ndarray:
        """A bijection of [0, high * low), which has hardly more numbers than `size`."""
        high, low = self._halves
        upper, lower = numbers // low, numbers % low
        for number, key in enumerate(self._round_keys):
            # What is added is below 2^63, so that no sum wraps round and each round can be undone.
            if number % 2:
                lower = (lower + _mixed(upper ^ key)) % low
            else:
                upper = (upper + _mixed(lower ^ key)) % high
        return upper * low + lower

    @cached_property
    def _halves(self) -> tuple[np.uint64, np.uint64]:
        high = isqrt(max(self.size - 1, 0)) + 1
        return np.uint64(high), np.uint64(max(-(-self.size // high), 1))

    @cached_property
    def _round_keys(self) -> np.ndarray:
        digest = hashlib.blake2b("/".join(map(str, self.key)).encode(), digest_size=8 * ROUNDS).digest()
        return np.frombuffer(digest, "<u8")


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """A hash of each number, below 2^63."""
    numbers = (numbers ^ (numbers >> _HALF)) * _FIRST
    numbers = (numbers ^ (numbers >> _HALF)) * _SECOND
    return (numbers ^ (numbers >> _HALF)) >> _ONE
