"""Short calls of cooperations, for the tests."""

from typing import Any

import torch

from pangu.pipelines.coop import CoopPipeline
from tests.pipelines.coop import small


def together(main: Any, partners: Any = (), handoff: Any = None, **arguments: Any) -> CoopPipeline:
    coop = CoopPipeline(main, partners, handoff, **arguments)
    coop.set_progress_bar_config(disable=True)
    return coop


def draw(coop: CoopPipeline, *seeds: int, **arguments: Any) -> torch.Tensor:
    """Latents (B, C, h, w), or what `output_type` says, of the prompt "a fox" for each seed."""
    numbers = seeds or (1,)
    call: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 4, "output_type": "latent"}
    call |= {"prompt": ["a fox"] * len(numbers), "generator": small.seeds(*numbers)}
    return coop(**(call | arguments)).images


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal within a part of the largest value: random networks draw latents of any size."""
    assert one.isfinite().all()
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(1.0, float(other.abs().max())))
