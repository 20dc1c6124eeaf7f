"""Near duplicates: which of many pictures show the same thing, by perceptual hash and coarse colours. Pure.

A hash sees shapes and no colour, so drawings that differ in colour alone share one; 4 x 4 mean colours tell them apart.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from PIL import Image

from pangu.data.images import ImageHWC

BITS = 64
GRID = 4


def colours_of(image_hwc: ImageHWC) -> bytes:
    """Mean colours of a 4 x 4 grid, 48 bytes."""
    return Image.fromarray(image_hwc).resize((GRID, GRID), Image.Resampling.BOX).tobytes()


class NearDuplicateIndex:
    """NearDuplicateIndex already kept, and whether another one is among them.

    Hashes that differ in at most k bits agree in at least one of k + 1 bands, so only pictures that share a band are compared
    (Norouzi et al. 2012, multi-index hashing).
    """

    def __init__(self, max_bits: int, max_colour: int) -> None:
        self._max_bits, self._max_colour = max_bits, max_colour
        edges = np.linspace(0, BITS, max_bits + 2).astype(int).tolist()
        self._bands = [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges)]
        self._members: list[dict[int, list[int]]] = [{} for _ in self._bands]
        self._hashes: list[int] = []
        self._colours: list[bytes] = []

    def add(self, phash: int, colours: bytes) -> None:
        number = len(self._hashes)
        self._hashes.append(phash)
        self._colours.append(colours)
        for members, (shift, mask) in zip(self._members, self._bands, strict=True):
            members.setdefault(phash >> shift & mask, []).append(number)

    def has(self, phash: int, colours: bytes) -> bool:
        """Whether a picture within both limits was added."""
        looked, seen = _signed(colours), set[int]()
        for members, (shift, mask) in zip(self._members, self._bands, strict=True):
            for number in members.get(phash >> shift & mask, ()):
                if number in seen or (phash ^ self._hashes[number]).bit_count() > self._max_bits:
                    continue
                seen.add(number)
                if int(np.abs(looked - _signed(self._colours[number])).max()) <= self._max_colour:
                    return True
        return False


def _signed(colours: bytes) -> np.ndarray:
    return np.frombuffer(colours, np.uint8).astype(np.int16)


def near_duplicates(
    phashes: Sequence[str], colours: Sequence[bytes], order: Iterable[int], kept: NearDuplicateIndex
) -> list[int]:
    """Which pictures are near one that comes earlier in `order`, or one that `kept` holds already.

    phashes: N hex strings; colours: N times 48 bytes; order: indices of those that compete, the most wanted first.
    """
    found = []
    for index in order:
        phash = int(phashes[index], 16)
        if kept.has(phash, colours[index]):
            found.append(index)
        else:
            kept.add(phash, colours[index])
    return found
