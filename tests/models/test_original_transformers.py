"""Transformers in the layout of their original code: diffusers' converters read what is written, and ours reads both."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    WanTransformer3DModel,
    ZImageTransformer2DModel,
)
from diffusers.loaders import single_file_utils
from safetensors.torch import save_file
from torch import Tensor

from pangu.errors import UserError
from pangu.exchange import comfyui
from pangu.models.original_layout import original_weights
from pangu.models.original_transformers import LAYOUTS, PREFIX, from_original, original_transformer
from pangu.models.single_files import network_from_file, single_file_weights
from tests import subtests
from tests.exchange.test_import_transformers import flux, qwen_image, sana, wan, z_image
from tests.models.test_original_layout import sd1, sdxl
from tests.pipelines.coop.small import seeded

SD35: dict[str, Any] = {
    "sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 8,
    "num_attention_heads": 2, "joint_attention_dim": 16, "caption_projection_dim": 16, "pooled_projection_dim": 16,
    "pos_embed_max_size": 8, "dual_attention_layers": (0, 1), "qk_norm": "rms_norm",
}  # fmt: skip
"""Stable Diffusion 3.5 medium's kind: second attentions, and norms of queries and keys."""
NETWORKS: dict[str, Any] = {
    "sd3": lambda: seeded(1, SD3Transformer2DModel, **SD35 | {"dual_attention_layers": (), "qk_norm": None}),
    "sd35": lambda: seeded(1, SD3Transformer2DModel, **SD35),
    "flux": lambda: flux(2).transformer,
    "schnell": lambda: flux(2, guidance_embeds=False).transformer,
    "wan": lambda: wan().transformer,
    "qwen_image": lambda: qwen_image().transformer,
    "z_image": lambda: z_image().transformer,
}
MARKS = {
    "sd3": f"{PREFIX}joint_blocks.2.x_block.attn.qkv.weight",
    "sd35": f"{PREFIX}joint_blocks.1.x_block.attn2.ln_q.weight",
    "flux": "guidance_in.in_layer.weight", "schnell": "double_blocks.0.img_attn.norm.key_norm.scale",
    "wan": "blocks.0.self_attn.norm_q.weight", "qwen_image": "transformer_blocks.0.attn.to_q.weight",
    "z_image": "layers.0.attention.qkv.weight",
}  # fmt: skip
"""A name that only the original code has, and by which readers know its files."""


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], tensor) for name, tensor in other.items())


def prefixed(file: dict[str, Tensor]) -> dict[str, Tensor]:
    """As ComfyUI saves checkpoints, with something of another network beside."""
    names = {f"{PREFIX}{name.removeprefix(PREFIX)}": tensor for name, tensor in file.items()}
    return names | {"first_stage_model.encoder.conv_in.weight": torch.zeros(2)}


@subtests.parametrize("kind", sorted(NETWORKS))
def test_a_transformer_goes_to_the_original_layout_and_back_to_the_bit(kind: str, tmp_path: Path) -> None:
    network = NETWORKS[kind]()
    weights = network.state_dict()
    written = original_transformer(network, weights)
    assert MARKS[kind] in written
    for number, file in enumerate((written, prefixed(written), weights)):
        save_file(file, tmp_path / f"{number}.safetensors")
        assert same(single_file_weights(tmp_path / f"{number}.safetensors", network), weights)
    converter = LAYOUTS[type(network).__name__].converter
    if converter and not isinstance(network, FluxTransformer2DModel):
        assert same(getattr(single_file_utils, converter)(dict(written), config=dict(network.config)), weights)
    network.save_config(tmp_path)
    half = {name: tensor.bfloat16() for name, tensor in written.items()}
    save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in half.items()}, tmp_path / "small.safetensors")
    made = network_from_file(tmp_path, None, tmp_path / "small.safetensors", torch.float32)
    assert all(
        torch.equal(made.state_dict()[name], tensor.bfloat16().to(torch.float8_e4m3fn).float())
        for name, tensor in weights.items()
    )


def test_diffusers_reads_flux_of_its_own_width() -> None:
    """It cuts by FLUX's 3072 channels; so many rows, of two columns each."""
    with torch.device("meta"):
        network = FluxTransformer2DModel(num_layers=1, num_single_layers=1)
    weights = {name: torch.randn(len(tensor), 2) for name, tensor in network.state_dict().items()}
    written = original_transformer(network, weights)
    converted = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers(dict(written))
    assert same(converted, weights) and same(from_original(network, written, "the file"), weights)


@subtests.parametrize("make", [sd1, sdxl])
def test_unets_are_read_from_checkpoints_with_more_in_them(make: Any, tmp_path: Path) -> None:
    network = make()
    written = original_weights(network, network.state_dict())
    save_file(prefixed(written), tmp_path / "whole.safetensors")
    network.save_config(tmp_path)
    assert same(network_from_file(tmp_path, None, tmp_path / "whole.safetensors").state_dict(), network.state_dict())


def sana_file() -> tuple[SanaTransformer2DModel, dict[str, Tensor], dict[str, Tensor]]:
    """A network, its weights by our names, and by those of SANA's code, written by hand for one block."""
    network = sana().transformer
    ours = network.state_dict()
    block, there = "transformer_blocks.0", "blocks.0"
    joined = {
        f"{there}.attn.qkv.weight": [f"{block}.attn1.to_{part}.weight" for part in "qkv"],
        f"{there}.cross_attn.kv_linear.weight": [f"{block}.attn2.to_{part}.weight" for part in "kv"],
        f"{there}.cross_attn.kv_linear.bias": [f"{block}.attn2.to_{part}.bias" for part in "kv"],
    }
    file = {name: torch.cat([ours[part] for part in parts]) for name, parts in joined.items()}
    renamed = {
        "patch_embed.proj": "x_embedder.proj", "time_embed.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_embed.emb.timestep_embedder.linear_2": "t_embedder.mlp.2", "time_embed.linear": "t_block.1",
        "caption_projection.linear_1": "y_embedder.y_proj.fc1", "caption_projection.linear_2": "y_embedder.y_proj.fc2",
        "caption_norm": "attention_y_norm", f"{block}.attn1.to_out.0": f"{there}.attn.proj",
        f"{block}.attn2.to_q": f"{there}.cross_attn.q_linear", f"{block}.attn2.to_out.0": f"{there}.cross_attn.proj",
        f"{block}.ff.conv_inverted": f"{there}.mlp.inverted_conv.conv", f"{block}.ff.conv_depth": f"{there}.mlp.depth_conv.conv",
        f"{block}.ff.conv_point": f"{there}.mlp.point_conv.conv", "proj_out": "final_layer.linear",
    }  # fmt: skip
    for name, tensor in ours.items():
        layer, _, kind = name.rpartition(".")
        if layer in renamed:
            file[f"{renamed[layer]}.{kind}"] = tensor.clone()
    file |= {
        f"{there}.scale_shift_table": ours[f"{block}.scale_shift_table"],
        "final_layer.scale_shift_table": ours["scale_shift_table"],
    }
    return network, ours, file | {"pos_embed": torch.zeros(1, 4, 16), "y_embedder.y_embedding": torch.zeros(4, 16)}


def test_sana_is_read_and_not_written() -> None:
    network, ours, file = sana_file()
    assert same(from_original(network, file, "the file"), ours)
    with pytest.raises(UserError, match="not written here: its files also hold an embedding of the empty caption"):
        original_transformer(network, ours)


@subtests.parametrize(
    ("change", "sentence"),
    [
        (lambda f: {k: v for k, v in f.items() if "img_in.bias" not in k}, "lacks 1 weights of a Flux.*img_in.bias"),
        (lambda f: f | {"double_blocks.0.more.weight": torch.ones(2)}, "has 1 weights that its .* double_blocks.0.more"),
        (lambda f: f | {"txt_in.weight": torch.ones(3, 16)}, r"context_embedder.weight has the shape \(3, 16\)"),
        (lambda f: f | {"single_blocks.0.linear1.bias": torch.ones(9)}, "linear1.bias is 9 long, but .* says 224"),
        (lambda f: f | {"img_in.scale_weight": torch.ones(1)}, "is quantised, by scales such as img_in.scale_weight"),
        (lambda f: {"joint_blocks.0.x": torch.ones(1)}, "is in no layout that diffusers knows of a FluxTransformer2DModel"),
        (lambda f: f | {k.replace("blocks.0", "blocks.1"): v.clone() for k, v in f.items()}, "weights that its .* no place"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_this_network_is_refused_in_one_sentence(change: Any, sentence: str, tmp_path: Path) -> None:
    network = flux(2, guidance_embeds=False).transformer
    save_file(change(original_transformer(network, network.state_dict())), tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match=sentence) as caught:
        single_file_weights(tmp_path / "odd.safetensors", network)
    assert "\n" not in str(caught.value)


def test_pickles_and_nothing_are_refused(tmp_path: Path) -> None:
    network = flux(2).transformer
    (tmp_path / "model.ckpt").touch()
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for name, sentence in (
        ("model.ckpt", "a pickle may run code"),
        ("none.safetensors", "There is no file"),
        ("broken.safetensors", "can not be read"),
    ):
        with pytest.raises(UserError, match=sentence):
            single_file_weights(tmp_path / name, network)


RELEASED: list[tuple[str, Any, dict[str, Any]]] = [
    ("Stable Diffusion 3", SD3Transformer2DModel, {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}),
    ("FLUX.1", FluxTransformer2DModel, {"guidance_embeds": True}),
    ("Qwen-Image", QwenImageTransformer2DModel, {"num_layers": 1}),
    ("Z-Image", ZImageTransformer2DModel, {"n_layers": 1}),
    ("Wan 14B", WanTransformer3DModel, {"num_layers": 1}),
]  # fmt: skip


@subtests.parametrize(("name", "kind", "changes"), RELEASED)
def test_comfyui_knows_transformers_of_released_sizes_by_names_and_shapes(name: str, kind: Any, changes: Any) -> None:
    with torch.device("meta"):
        network = kind(**changes)
    written = original_transformer(network, network.state_dict())
    assert comfyui.known_as({key: tensor.shape for key, tensor in written.items()}) == name
