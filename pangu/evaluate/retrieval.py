"""Retrieval: does a generated image find the training image of its own caption among all of them?"""

from collections.abc import Mapping, Sequence

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


def retrieval(
    generated: Sequence[Image.Image], true_keys: Sequence[str], candidates: Mapping[str, Image.Image]
) -> Retrieval:
    """Rank all candidates by similarity to each generated image and look where its true image stands.

    Raises:
        UserError: nothing was generated, or a true key is not among the candidates.
    """
    if not generated or len(generated) != len(true_keys):
        raise UserError(f"Retrieval needs one key per generated image, not {len(true_keys)} for {len(generated)}.")
    missing = [key for key in true_keys if key not in candidates]
    if missing:
        raise UserError(f"Retrieval: the true image {missing[0]} is not among the {len(candidates)} candidates.")
    keys = list(candidates)
    place = {key: index for index, key in enumerate(keys)}
    truth = np.array([place[key] for key in true_keys])
    similarity_qn = similarity(thumbnails(generated), thumbnails([candidates[key] for key in keys]))
    ranks = rank_of_truth(similarity_qn, truth)
    return Retrieval(
        top1=float((ranks < 1).mean()),
        top5=float((ranks < 5).mean()),
        similarity=float(similarity_qn[np.arange(len(truth)), truth].mean()),
        queries=len(ranks),
        candidates=len(keys),
    )


def rank_of_truth(similarity_qn: np.ndarray, truth_q: np.ndarray) -> np.ndarray:
    """(Q,) number of candidates at least as similar as the true one, ties counted against it; 0 is the best."""
    own = similarity_qn[np.arange(len(truth_q)), truth_q]
    return (similarity_qn >= own[:, None]).sum(1) - 1
