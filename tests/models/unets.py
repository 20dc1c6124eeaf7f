"""Small UNets in the formats of Stable Diffusion and SDXL, and pipeline folders around them."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

SMALL: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 24, "attention_head_dim": 2,
}  # fmt: skip
STABLE_DIFFUSION: dict[str, Any] = {"_class_name": "PNDMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085}
STABLE_DIFFUSION |= {"beta_end": 0.012, "beta_schedule": "scaled_linear", "skip_prk_steps": True}
"""As SD 1.5 has it: no prediction_type, which means epsilon."""


def stable_diffusion_unet(seed: int = 0, **changes: Any) -> UNet2DConditionModel:
    """Cross-attention on the text tokens, and nothing else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(**(SMALL | changes)).eval()


def sdxl_unet(seed: int = 0, pooled: int = 12, **changes: Any) -> UNet2DConditionModel:
    """The pooled text and six numbers about the size beside the tokens."""
    extra = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    return stable_diffusion_unet(seed, **extra, projection_class_embeddings_input_dim=pooled + 6 * 8, **changes)


def write_pipeline(folder: Path, unet: UNet2DConditionModel, **scheduler: Any) -> Path:
    """The parts of a diffusers pipeline folder that say what its UNet was trained for."""
    unet.save_pretrained(folder / "unet")
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(STABLE_DIFFUSION | scheduler))
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
