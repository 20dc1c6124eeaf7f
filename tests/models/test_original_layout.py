"""The original layout: diffusers reads back to the bit what is written, by names that the original code has."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from pangu.errors import UserError
from pangu.models.denoisers import FAMILIES
from pangu.models.original_layout import PREFIX, check_layout, original_weights
from pangu.recipes import tiny
from tests import subtests
from tests.models.unets import stable_diffusion_unet

FOUR: dict[str, Any] = {
    "block_out_channels": (32, 32, 64, 64), "layers_per_block": 2, "norm_num_groups": 32, "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
"""The levels of Stable Diffusion 1 and 2: twelve input blocks."""
THREE: dict[str, Any] = {
    "block_out_channels": (64, 128, 128), "layers_per_block": 2, "norm_num_groups": 32, "attention_head_dim": (1, 2, 2),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3), "use_linear_projection": True, "addition_time_embed_dim": 256,
    "addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 12 + 6 * 256,
}  # fmt: skip
"""Those of SDXL, with transformers of several depths."""


def sd1() -> UNet2DConditionModel:
    return stable_diffusion_unet(1, **FOUR)


def sd2() -> UNet2DConditionModel:
    heads = {
        "use_linear_projection": True,
        "block_out_channels": (64, 64, 128, 128),
        "attention_head_dim": (1, 1, 2, 2),
    }
    return stable_diffusion_unet(2, **(FOUR | heads))


def sdxl() -> UNet2DConditionModel:
    return stable_diffusion_unet(3, **THREE)


SHAPES = [sd1, sd2, sdxl]


@pytest.mark.long
@subtests.parametrize("make", SHAPES)
def test_diffusers_reads_the_single_file_back_to_the_bit_by_the_names_of_the_original_code(
    make, tmp_path: Path
) -> None:
    check_names()
    unet = make()
    unet.save_pretrained(tmp_path / "unet")
    with torch.device("meta"):
        shape = UNet2DConditionModel.from_config(unet.config)
    written = original_weights(shape, unet.state_dict())
    assert len(written) == len(unet.state_dict()), "no two weights have one name"
    save_file(written, tmp_path / "one.safetensors")
    again = UNet2DConditionModel.from_single_file(
        str(tmp_path / "one.safetensors"), config=str(tmp_path), subfolder="unet", local_files_only=True
    )
    theirs = again.state_dict()
    assert theirs.keys() == unet.state_dict().keys()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in unet.state_dict().items())


def check_names() -> None:
    """Names that ldm/modules/diffusionmodules/openaimodel.py gives to a UNet of these levels, written down by hand."""
    one = {
        name.removeprefix(PREFIX): tuple(tensor.shape)
        for name, tensor in original_weights(sd1(), sd1().state_dict()).items()
    }
    assert one["time_embed.0.weight"] == (128, 32)
    assert one["input_blocks.0.0.weight"] == (32, 4, 3, 3)
    assert one["input_blocks.1.0.in_layers.0.weight"] == (32,)
    assert one["input_blocks.1.0.in_layers.2.weight"] == (32, 32, 3, 3)
    assert one["input_blocks.1.0.emb_layers.1.weight"] == (32, 128)
    assert one["input_blocks.1.0.out_layers.3.weight"] == (32, 32, 3, 3)
    assert one["input_blocks.1.1.proj_in.weight"] == (32, 32, 1, 1)
    assert one["input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"] == (32, 24)
    assert one["input_blocks.3.0.op.weight"] == (32, 32, 3, 3)
    assert one["input_blocks.7.0.skip_connection.weight"] == (64, 32, 1, 1)
    assert one["input_blocks.11.0.out_layers.0.bias"] == (64,)
    assert one["middle_block.0.in_layers.2.weight"] == (64, 64, 3, 3)
    assert one["middle_block.1.norm.weight"] == (64,)
    assert one["middle_block.2.out_layers.3.bias"] == (64,)
    assert one["output_blocks.0.0.in_layers.2.weight"] == (64, 128, 3, 3)
    assert one["output_blocks.2.1.conv.weight"] == (64, 64, 3, 3), "no attention on that level"
    assert one["output_blocks.5.2.conv.weight"] == (64, 64, 3, 3), "behind the attention"
    assert one["out.0.weight"] == (32,)
    assert one["out.2.weight"] == (4, 32, 3, 3)
    two = original_weights(sdxl(), sdxl().state_dict())
    assert tuple(two[f"{PREFIX}label_emb.0.0.weight"].shape) == (256, 12 + 6 * 256)
    assert tuple(two[f"{PREFIX}middle_block.1.transformer_blocks.2.ff.net.0.proj.weight"].shape) == (1024, 128)
    assert all(name.startswith(PREFIX) for name in two)
    parts = {name.removeprefix(PREFIX).split(".")[0] for name in [*one, *two]}
    assert parts == {"time_embed", "label_emb", "input_blocks", "middle_block", "output_blocks", "out"}


REFUSED: list[tuple[dict[str, Any], int | None, str]] = [
    ({"norm_num_groups": 8}, None, "norm_num_groups = 8, and the original code 32"),
    ({"mid_block_type": "UNetMidBlock2D"}, None, "mid_block_type = UNetMidBlock2D"),
    ({"num_class_embeds": 3}, None, "num_class_embeds = 3"),
    ({"down_block_types": ("AttnDownBlock2D",) * 3}, None, "it has a AttnDownBlock2D"),
    ({"up_block_types": ("UpBlock2D",) * 3}, None, "up blocks are not its down blocks"),
    ({"block_out_channels": (64, 96, 128)}, None, "96 is no multiple of 64"),
    (
        {"attention_head_dim": (4, 4, 4)},
        None,
        r"\[4, 4, 4\] attention heads by level, and the original code \[1, 2, 2\]",
    ),
    ({"layers_per_block": (1, 2, 2)}, None, "those of the original code all have as many"),
    ({"addition_time_embed_dim": 32}, None, "embedded in 32 channels each, and SDXL's in 256"),
    ({"projection_class_embeddings_input_dim": 12 + 256}, 12, "index of a resolution preset"),
]


def test_a_shape_that_no_original_layout_has_is_refused() -> None:
    for change, pooled, sentence in REFUSED:
        with pytest.raises(UserError, match=f"No original layout has such a UNet: .*{sentence}") as refused:
            check_layout(dict(sdxl().config) | change, pooled)
        assert str(refused.value).count(". ") == 0, "one sentence"
    with pytest.raises(UserError, match="No original layout"):
        check_layout(UNet2DConditionModel(**FAMILIES["unet"].arguments(tiny().denoiser, 4, 24, 12)).config)
