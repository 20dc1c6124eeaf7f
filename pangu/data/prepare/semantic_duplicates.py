"""Semantic and copy duplicates: pictures whose embeddings are near, found in inverted lists on the disk.

Vectors are clustered by k-means and each is put into the lists of its nearest centroids (IVF, Jegou et al. 2011, with several
assignments); within a list they are compared. What memory holds is bounded by constants: the centroids, a block of vectors and a
chunk of those that they are compared with. Vectors, ranks and lists lie in files.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pangu.data.prepare.near_duplicates import greedy, keep
from pangu.extras import missing

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LIST_ROWS = 4096
"""Of a list on average."""
MOST_LISTS = 65_536
SAMPLED = 64
"""Vectors a centroid that k-means looks at."""
PROBES = 4
"""Lists that each vector is put into."""
BLOCK, CHUNK = 1024, 16_384
"""Vectors that are compared at once, and those that they are compared with."""
NEAREST = 4
"""So many earlier pictures of a chunk may each stand in the way of a later one."""
AT_ONCE = 16_384


@dataclass(frozen=True)
class Vectors:
    """Files of N embeddings (N, D) float16 of length 1, by rank: the most wanted first."""

    folder: Path
    count: int
    width: int

    @property
    def numbers(self) -> np.ndarray:
        """Mapped: the page cache decides what is in memory."""
        return np.memmap(self.folder / "vectors.bin", np.float16, "r+", shape=(self.count, self.width))

    @classmethod
    def write(cls, folder: Path, count: int, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> "Vectors":
        """batches: (ranks (N,), embeddings (N, D)); every rank of [0, count) once. At least one."""
        vectors = None
        for ranks, embeddings in batches:
            if vectors is None:
                vectors = cls(folder, count, embeddings.shape[1])
                with (folder / "vectors.bin").open("wb") as file:
                    file.truncate(2 * count * vectors.width)
            mapped = vectors.numbers
            mapped[ranks] = embeddings
            del mapped  # what was mapped counts as this process's for as long as it stays so
        assert vectors is not None
        return vectors


def near_embeddings(connection: "DuckDBPyConnection", vectors: Vectors, min_similarity: float) -> Iterator[pa.Table]:
    """The ranks of those that are near one of a lower rank which is kept itself, in batches of one column `rank`, unsorted.

    Raises:
        UserError: faiss is not installed.
    """
    connection.execute("create table edges (earlier bigint, later bigint)")
    lists = _Lists.write(vectors, centroids_of(vectors))
    for members in lists.each():
        keep(connection, "edges", _edges(vectors, members, min_similarity))
    yield from greedy(connection)


def faiss() -> Any:
    """The library.

    Raises:
        UserError: it is not installed.
    """
    try:
        import faiss as found
    except ImportError as error:
        raise missing("filters", "filters.semantic_duplicates", "the package faiss-cpu") from error
    return found


def centroids_of(vectors: Vectors) -> np.ndarray:
    """(L, D) float32, by spherical k-means of an evenly spread sample."""
    lists = int(np.clip(-(-vectors.count // LIST_ROWS), 1, MOST_LISTS))
    sampled = min(vectors.count, max(lists * SAMPLED, 1))
    sample = vectors.numbers[np.linspace(0, vectors.count - 1, sampled).astype(np.int64)].astype(np.float32)
    if lists == 1:
        return sample.mean(0, keepdims=True)
    settings = {"niter": 10, "seed": 0, "spherical": True, "min_points_per_centroid": 1, "verbose": False}
    means = faiss().Kmeans(vectors.width, lists, **settings)
    means.train(sample)
    return np.asarray(means.centroids)


@dataclass(frozen=True)
class _Lists:
    """A file of the ranks in each list, ascending, one list after the other; `starts` (L + 1,)."""

    path: Path
    starts: np.ndarray

    @classmethod
    def write(cls, vectors: Vectors, centroids: np.ndarray) -> "_Lists":
        sizes = np.zeros(len(centroids) + 1, np.int64)
        for _, lists in _assigned(vectors, centroids):
            sizes[1:] += np.bincount(lists.ravel(), minlength=len(centroids))
        starts = np.cumsum(sizes)
        path, ends = vectors.folder / "lists.bin", starts[:-1].copy()
        members = np.memmap(path, np.int64, "w+", shape=(int(starts[-1]),))
        for start, lists in _assigned(vectors, centroids):
            order = np.argsort(lists.ravel(), kind="stable")
            of, ranks = lists.ravel()[order], start + order // lists.shape[1]
            counts = np.bincount(of, minlength=len(centroids))
            places = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts) + ends[of]
            members[places] = ranks
            ends += counts
        return cls(path, starts)

    def each(self) -> Iterator[np.ndarray]:
        """The ranks of one list after the other, mapped."""
        members = np.memmap(self.path, np.int64, "r", shape=(int(self.starts[-1]),))
        for start, end in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            if end - start > 1:
                yield members[start:end]


def _assigned(vectors: Vectors, centroids: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(rank of the first, lists (N, P)) of some vectors after the other."""
    probes = min(PROBES, len(centroids))
    for start in range(0, vectors.count, AT_ONCE):
        some = vectors.numbers[start : start + AT_ONCE].astype(np.float32)
        yield start, _nearest(some, centroids, probes)[1]


def _nearest(queries: np.ndarray, others: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(cosines (N, count), places (N, count)) of the nearest of `others`."""
    library = faiss()
    cosines, places = library.knn(queries, others, min(count, len(others)), metric=library.METRIC_INNER_PRODUCT)
    return cosines, places


def _edges(vectors: Vectors, members: np.ndarray, min_similarity: float) -> Iterator[pa.Table]:
    """(earlier, later) of near pairs of a list. A picture near an earlier one is compared with no later one, so that a thousand
    copies of one picture cost a thousand comparisons."""
    leaders = np.memmap(vectors.folder / "leaders.bin", np.int64, "w+", shape=(len(members),))
    found = 0
    for start in range(0, len(members), BLOCK):
        ranks = np.asarray(members[start : start + BLOCK])
        block = vectors.numbers[ranks].astype(np.float32)
        is_new = np.ones(len(ranks), bool)
        for first in range(0, found, CHUNK):
            there = np.asarray(leaders[first : min(first + CHUNK, found)])
            cosines, places = _nearest(block, vectors.numbers[there].astype(np.float32), NEAREST)
            near = cosines >= min_similarity
            is_new &= ~near.any(1)
            yield _pairs(there[places[near]], np.repeat(ranks, near.sum(1)))
        own, earlier, later = _within(block[is_new], min_similarity)
        new = ranks[is_new]
        yield _pairs(new[earlier], new[later])
        leaders[found : found + len(own)] = new[own]
        found += len(own)


def _within(block: np.ndarray, min_similarity: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(places near no earlier one, then pairs: earlier, later) of one block by itself."""
    near = np.tril(block @ block.T >= min_similarity, -1)
    leads = np.zeros(len(block), bool)
    for place in range(len(block)):
        leads[place] = not (near[place] & leads).any()
    later, earlier = np.nonzero(near & leads[None])
    return np.flatnonzero(leads), earlier, later


def _pairs(earlier: np.ndarray, later: np.ndarray) -> pa.Table:
    return pa.table({"earlier": earlier.astype(np.int64), "later": later.astype(np.int64)})
