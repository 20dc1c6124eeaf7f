"""How several predictions become one. Pure."""

from collections.abc import Sequence

from torch import Tensor


def classifier_free_guidance(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """eps(null) + s (eps(c) - eps(null)), any shape (PanGu-Draw, Section 3.3; arXiv 2207.12598, Eq. 6 with s = 1 + w)."""
    return unconditional + scale * (conditional - unconditional)


def style_guidance(guided: Tensor, conditional: Tensor, styled: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """guided + sum_i s_i (eps(c_style_i) - eps(c)), any shape (PanGu-Draw, Section 3.3).

    `guided` is the classifier-free guided prediction, `conditional` eps(c), `styled` the predictions for the same captions under
    each style's prefix, with one scale each.
    """
    result = guided
    for prediction, scale in zip(styled, scales, strict=True):
        result = result + scale * (prediction - conditional)
    return result


def rescaled_guidance(guided: Tensor, conditional: Tensor, rescale: float) -> Tensor:
    """Guidance whose spread is pulled back to that of the conditional prediction (arXiv 2305.08891, Section 3.4, Eqs. 15, 16).

    guided, conditional: (B, C, H, W). rescale: phi in [0, 1]; 0 changes nothing.
    """
    if rescale == 0:
        return guided
    axes = tuple(range(1, guided.ndim))
    spread = conditional.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return rescale * (guided * spread) + (1 - rescale) * guided
