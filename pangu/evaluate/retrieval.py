"""Retrieval: does a generated image find the training image of its own caption among all of them?"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pangu.config import Frozen
from pangu.errors import UserError
from pangu.evaluate.features import similarity, thumbnails


class Retrieval(Frozen):
    """Shares in [0, 1]; chance is 1 / candidates for top-1 and 5 / candidates for top-5.

    similarity: mean cosine similarity in [-1, 1] of an image to its true one; finer than a share of few prompts.
    """

    top1: float
    top5: float
    similarity: float
    queries: int
    candidates: int


@dataclass(frozen=True)
class Ranking:
    """Where the true image of each of Q queries stands: `rank_q` from 0, the best; `similarity_q` in [-1, 1]."""

    rank_q: np.ndarray
    similarity_q: np.ndarray
    candidates: int

    @property
    def values(self) -> dict[str, list[float]]:
        """The value of each query under the names of the shares in `Retrieval`, which are their means."""
        return {
            "top1": (self.rank_q < 1).astype(float).tolist(),
            "top5": (self.rank_q < 5).astype(float).tolist(),
            "similarity": self.similarity_q.astype(float).tolist(),
        }


def retrieval(
    generated: Sequence[Image.Image], true_keys: Sequence[str], candidates: Mapping[str, Image.Image]
) -> Retrieval:
    """The shares of a ranking. Raises what `rank` raises."""
    ranking = rank(generated, true_keys, candidates)
    means = {name: float(np.mean(values)) for name, values in ranking.values.items()}
    return Retrieval(**means, queries=len(ranking.rank_q), candidates=ranking.candidates)


def rank(generated: Sequence[Image.Image], true_keys: Sequence[str], candidates: Mapping[str, Image.Image]) -> Ranking:
    """Rank all candidates by similarity to each generated image and look where its true image stands.

    Raises:
        UserError: nothing was generated, or a true key is not among the candidates.
    """
    return rank_any(generated, [(key,) for key in true_keys], candidates)


def rank_any(
    generated: Sequence[Image.Image], true_keys: Sequence[Collection[str]], candidates: Mapping[str, Image.Image]
) -> Ranking:
    """The same where each generated image has one or more true images, and the most similar of them counts.

    Raises:
        UserError: nothing was generated, or a true key is not among the candidates.
    """
    if not generated or len(generated) != len(true_keys):
        raise UserError(f"Retrieval needs one key per generated image, not {len(true_keys)} for {len(generated)}.")
    if missing := [key for keys in true_keys for key in keys if key not in candidates]:
        raise UserError(f"Retrieval: the true image {missing[0]} is not among the {len(candidates)} candidates.")
    true_qn = np.array([[key in keys for key in candidates] for keys in map(frozenset, true_keys)])
    similarity_qn = similarity(thumbnails(generated), thumbnails(list(candidates.values())))
    best = np.where(true_qn, similarity_qn, -np.inf).max(1)
    return Ranking(rank_of_best(similarity_qn, true_qn), best, len(candidates))


def rank_of_truth(similarity_qn: np.ndarray, truth_q: np.ndarray) -> np.ndarray:
    """(Q,) number of candidates at least as similar as the true one, ties counted against it; 0 is the best."""
    return rank_of_best(similarity_qn, truth_q[:, None] == np.arange(similarity_qn.shape[1]))


def rank_of_best(similarity_qn: np.ndarray, true_qn: np.ndarray) -> np.ndarray:
    """(Q,) number of other candidates at least as similar as the most similar true one; each query has at least one."""
    best = np.where(true_qn, similarity_qn, -np.inf).max(1)
    return ((similarity_qn >= best[:, None]) & ~true_qn).sum(1)
