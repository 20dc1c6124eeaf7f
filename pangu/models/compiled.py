"""Compiling a denoiser block by block (torch's "regional compilation"); which classes of blocks, its family says.

Blocks of one shape share their compiled graphs, so the first step is there after the few different ones are compiled, where
the whole network at once takes minutes; what connects the blocks stays in Python.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pangu.models.denoisers import family_of

MOST_GRAPHS = 512
"""Of one class: blocks of different widths, at each resolution preset of the recipe. Torch gives up after eight."""

Backend = Callable[[torch.fx.GraphModule, list[Tensor]], Callable[..., Any]]

log = logging.getLogger(__name__)


def compile_blocks(network: nn.Module, backend: Backend | str = "inductor") -> int:
    """Let every block compile itself when it first sees a shape, and again for no other reason; returns how many there are.

    Names and values of the weights stay as they are. Where the compiler fails, the block runs uncompiled; this is said once.
    """
    kinds = family_of(network).blocks
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
    torch._dynamo.config.accumulated_recompile_limit = max(
        torch._dynamo.config.accumulated_recompile_limit, MOST_GRAPHS * len(kinds)
    )
    blocks = [module for module in network.modules() if type(module).__name__ in kinds]
    careful = _Careful(torch._dynamo.lookup_backend(backend) if isinstance(backend, str) else backend)
    for block in blocks:
        block.compile(backend=careful, dynamic=False)
    return len(blocks)


class _Careful:
    """A backend that gives the graph back uncompiled where the one that it asks fails."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._said = False

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        try:
            return self._backend(graph, inputs)
        except Exception as error:
            if not self._said:
                self._said = True
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                log.warning("torch.compile failed, so such blocks run uncompiled: %s", reason)
            return graph.forward
