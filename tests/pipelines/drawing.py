"""How the tests of all pipelines draw."""

from typing import Any

import torch

PROMPTS = ["a red fox", "一只红色的狐狸"]


def seeds(*values: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(value) for value in values]


def draw(pipeline: Any, prompts: list[str] = PROMPTS, generator: Any = None, **arguments: Any) -> torch.Tensor:
    """Images (B, 3, H, W) in [0, 1] by five steps, or what `arguments` say."""
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 5, "output_type": "pt"} | arguments
    return pipeline(prompts, generator=generator or seeds(*range(1, len(prompts) + 1)), **options).images
