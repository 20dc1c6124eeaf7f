"""How several predictions become one. Pure."""

from torch import Tensor


def classifier_free_guidance(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """eps(null) + s (eps(c) - eps(null)), any shape (PanGu-Draw, Section 3.3; arXiv 2207.12598, Eq. 6 with s = 1 + w)."""
    return unconditional + scale * (conditional - unconditional)
