"""What is written for others: their own classes open it, tensors are the same bits, and what can not be written is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPTextModel

from pangu.config import Sampling
from pangu.data.card import Licence
from pangu.errors import UserError
from pangu.exchange import comfyui
from pangu.exchange.export_pair import export_generator_folder, export_pair
from pangu.exchange.import_pair import import_pair
from pangu.exchange.model_card import model_card
from pangu.exchange.places import generator_folder, pair_folder
from pangu.models.denoisers import load_denoiser
from pangu.models.lora import ADAPTER, fitted, put_adapter, save_lora
from pangu.models.lora_files import find_weights
from pangu.models.lora_spelling import kohya_tensors
from pangu.models.original_layout import PREFIX, original_weights
from pangu.pipelines.experts_pipeline import load_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.storage import Home
from tests.models.adapter_files import ATTENTION, random_adapter
from tests.models.test_initial import write_generator
from tests.pipelines.coop.small import stable_diffusion, unet
from tests.pipelines.transformers import written_experts

ORIGINAL: dict[str, Any] = {"block_out_channels": (32, 64), "norm_num_groups": 32, "attention_head_dim": 8}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    """A pair `shaped` of two UNets in the layout of Stable Diffusion 1, and `small`, which is in none."""
    root = tmp_path_factory.mktemp("home")
    for name, network in (("shaped", unet(1, **ORIGINAL)), ("second", unet(2, **ORIGINAL)), ("tiny", unet(3))):
        stable_diffusion(1, unet=network).save_pretrained(root / name)
    home = Home(root)
    import_pair(str(root / "shaped"), "shaped-pair", home, refiner=str(root / "second"))
    import_pair(str(root / "tiny"), "small-pair", home, boundary=500)
    return home


def test_a_pair_is_written_as_components_single_files_and_adapters_that_others_open(home, tmp_path) -> None:
    pair = pair_folder("shaped-pair", home)
    opened = PanGuDrawPipeline.from_pretrained(pair, use_safetensors=True)
    ours = load_denoiser(pair / "structure")
    adapter = random_adapter(ours, ATTENTION)
    put_adapter(ours, ADAPTER, adapter)
    save_lora(ours, opened.contract("structure"), tmp_path / "ink")
    made = export_pair(pair, tmp_path / "out", original=True, adapters=[tmp_path / "ink"])
    out = Path(made.folder)
    assert made.single_files == ["structure.safetensors", "texture.safetensors"] and made.adapters == ["structure-ink"]
    assert all("No released model has the sizes" in sentence for sentence in made.warnings) and len(made.warnings) == 2
    for role in ("structure", "texture"):
        original = load_file(pair / role / "diffusion_pytorch_model.safetensors")
        plain = UNet2DConditionModel.from_pretrained(out / role, use_safetensors=True).state_dict()
        single = UNet2DConditionModel.from_single_file(
            str(out / f"single_files/{role}.safetensors"), config=str(out), subfolder=role, local_files_only=True
        ).state_dict()
        assert plain.keys() == single.keys() == original.keys()
        assert all(
            torch.equal(plain[key], value) and torch.equal(single[key], value) for key, value in original.items()
        )
    parts = {
        "vae": AutoencoderKL.from_pretrained(out / "vae"),
        "text_encoder": CLIPTextModel.from_pretrained(out / "text_encoder"),
        "tokenizer": AutoTokenizer.from_pretrained(out / "tokenizer"),
        "scheduler": DDIMScheduler.from_pretrained(out / "scheduler"),
        "unet": UNet2DConditionModel.from_pretrained(out / "texture"),
    }
    StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    for place in (out / "adapters/structure-ink", out / "adapters/structure-ink.safetensors"):
        again = fitted(find_weights(place), load_denoiser(pair / "structure"), opened.contract("structure"))
        assert again.keys() == adapter.keys()
        assert all(
            torch.equal(again[name].up, low.up) and again[name].alpha == low.alpha for name, low in adapter.items()
        )

    # A style that the pair carries as adapters.
    opened.load_style("oil", structure=tmp_path / "ink")
    opened.save_pretrained(tmp_path / "styled")
    made = export_pair(tmp_path / "styled", tmp_path / "styled-out")
    assert made.adapters == ["structure-oil"] and "structure_styles" not in made.components
    assert "structure_styles" not in (tmp_path / "styled-out" / "model_index.json").read_text()
    source = find_weights(tmp_path / "styled-out" / "adapters/structure-oil")
    for name, low in fitted(source, load_denoiser(pair / "structure"), opened.contract("structure")).items():
        own = adapter[name].up * (adapter[name].alpha / adapter[name].rank)
        torch.testing.assert_close(low.up * (low.alpha / low.rank), own, rtol=1e-3, atol=1e-3)

    # A run, by its name.
    write_generator(home.run("fox") / "generator", "texture", seed=3)
    generator = generator_folder("fox", "structure", home)
    assert generator == home.run("fox") / "generator"
    assert generator_folder("shaped-pair", "texture", home) == home.pair("shaped-pair") / "texture"
    made = export_generator_folder(generator, tmp_path / "run")
    assert made.components == ["texture"] and not made.single_files
    assert UNet2DConditionModel.from_pretrained(tmp_path / "run/texture").config.cross_attention_dim == 24
    for name in ("nobody", "no/where"):
        with pytest.raises(UserError, match=f"There is no generator {name}; name its folder, a pair or a run"):
            generator_folder(name, "structure", home)
    with pytest.raises(UserError, match="There is no pair folder at no/where; name one, or a pair in "):
        pair_folder("no/where", home)
    with pytest.raises(UserError, match=r"There is no pair 'nobody'; name latest or one of .*small-pair"):
        pair_folder("nobody", home)


def test_what_can_not_be_written_is_refused_and_leaves_nothing(home, tmp_path) -> None:
    small = pair_folder("small-pair", home)
    with pytest.raises(UserError, match="No original layout has such a UNet: it has norm_num_groups = 4"):
        export_pair(small, tmp_path / "out", original=True)
    foreign = random_adapter(unet(1, **ORIGINAL), ATTENTION)
    tensors = {f"unet.{name}.lora_A.weight": low.down for name, low in foreign.items()}
    tensors |= {f"unet.{name}.lora_B.weight": low.up for name, low in foreign.items()}
    save_file(tensors, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match=r"has no contract.json; say by --role which half it is for"):
        export_pair(small, tmp_path / "out", adapters=[tmp_path / "foreign.safetensors"])
    with pytest.raises(UserError, match="does not fit the texture generator: the matrices of"):
        export_pair(small, tmp_path / "out", adapters=[tmp_path / "foreign.safetensors"], role="texture")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").touch()
    with pytest.raises(UserError, match="holds something already; name a new folder"):
        export_pair(small, tmp_path / "out")


SD1: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD2: dict[str, Any] = SD1 | {
    "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True,
}  # fmt: skip
SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True, "transformer_layers_per_block": (1, 2, 10), "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip


def test_comfyui_knows_halves_and_adapters_by_names_and_shapes_and_gets_a_workflow_of_two_stages(
    home, tmp_path, monkeypatch
) -> None:
    """Released sizes, on the meta device: names and shapes, no memory. ComfyUI itself is not here."""
    for config, name in ((SD1, "Stable Diffusion 1"), (SD2, "Stable Diffusion 2"), (SDXL, "SDXL")):
        with torch.device("meta"):
            full = UNet2DConditionModel(**config)
        single = original_weights(full, full.state_dict())
        assert comfyui.known_as({key: tensor.shape for key, tensor in single.items()}) == name
        adapter = random_adapter(full, ATTENTION)
        # Its loader takes `lora_unet_` and a name of the file's own, or of diffusers', with "_" for ".".
        stems = {key.removeprefix(PREFIX).removesuffix(".weight").replace(".", "_") for key in single}
        stems |= {key.removesuffix(".weight").replace(".", "_") for key in full.state_dict()}
        written = {key.split(".")[0].removeprefix("lora_unet_") for key in kohya_tensors(adapter, full)}
        assert written and written <= stems
    assert (
        comfyui.known_as({}) == "" and comfyui.structure_steps(500, 20) == 10 and comfyui.structure_steps(999, 20) == 1
    )

    pair = pair_folder("shaped-pair", home)
    unknown = export_pair(pair, tmp_path / "unknown", original=True)
    assert len(unknown.warnings) == 2 and not (tmp_path / "unknown/comfyui").exists()
    monkeypatch.setattr(comfyui, "known_as", lambda _: "Stable Diffusion 1")
    made = export_pair(pair, tmp_path / "out", original=True)
    assert not made.warnings and "comfyui" not in made.components
    nodes = json.loads((tmp_path / "out/comfyui/workflow.json").read_text())
    paths = yaml.safe_load((tmp_path / "out/comfyui/extra_model_paths.yaml").read_text())["out"]
    base = Path(paths["base_path"])
    files = {"load_structure": ("diffusion_models", "unet_name"), "load_texture": ("diffusion_models", "unet_name")}
    files |= {"vae": ("vae", "vae_name"), "clip": ("text_encoders", "clip_name")}
    for node, (folder, field) in files.items():
        assert (base / paths[folder] / nodes[node]["inputs"][field]).is_file(), node
    assert all(ref[0] in nodes for node in nodes.values() for ref in node["inputs"].values() if isinstance(ref, list))
    first, second = (nodes[f"sample_{role}"]["inputs"] for role in ("structure", "texture"))
    assert first["end_at_step"] == second["start_at_step"] > 0 and second["latent_image"] == ["sample_structure", 0]
    assert (first["add_noise"], first["return_with_leftover_noise"]) == ("enable", "enable")
    assert (second["add_noise"], second["return_with_leftover_noise"]) == ("disable", "disable")
    # By these names its loaders of text encoders and autoencoders know them.
    assert "text_model.encoder.layers.0.mlp.fc1.weight" in load_file(base / "comfyui/text_encoder.safetensors")
    assert "decoder.up_blocks.0.resnets.0.norm1.weight" in load_file(base / "vae/diffusion_pytorch_model.safetensors")


@pytest.mark.long
def test_three_experts_leave_with_an_adapter_of_the_one_between_a_card_and_a_workflow(tmp_path) -> None:
    pair = written_experts(tmp_path / "made")
    opened = load_pair(pair)
    adapter = random_adapter(opened.middle, ATTENTION)
    put_adapter(opened.middle, ADAPTER, adapter)
    opened.save_lora_weights(tmp_path / "ink", role="middle")
    out = Path(export_pair(pair, tmp_path / "out", adapters=[tmp_path / "ink"]).folder)
    assert (out / "adapters/middle-ink.safetensors").is_file()
    again = load_pair(out)
    again.load_lora_weights(out / "adapters/middle-ink")
    assert again.get_list_adapters() == {"middle": ["default_0"]}, "its contract says for which expert it is"
    with pytest.raises(
        UserError, match=r"say which generator it is for by role \(structure, middle, texture or 'both'\)"
    ):
        again.load_lora_weights(out / "adapters/middle-ink.safetensors")
    card = model_card(pair, "owner/three", Licence(name="MIT"), {})
    assert "3 text-to-image experts that take turns" in card and "| `middle` | [200, 500) | 64 px | v |" in card
    assert "(`SanaTransformer2DModel`, `UNet2DConditionModel`)" in card
    contracts = {role: opened.contract(role) for role in opened.roles}
    nodes = json.loads(comfyui.workflow(contracts, Sampling(num_inference_steps=20), "a fox", ["clip"], {}, "three"))
    turns = [nodes[f"sample_{role}"]["inputs"] for role in ("structure", "middle", "texture")]
    assert [one["latent_image"][0] for one in turns] == ["latent", "sample_structure", "sample_middle"]
    assert [one["end_at_step"] for one in turns[:2]] == [one["start_at_step"] for one in turns[1:]]
    assert turns[0]["end_at_step"] < turns[1]["end_at_step"] < turns[2]["end_at_step"] == 20
    assert [one["add_noise"] for one in turns] == ["enable", "disable", "disable"]
    assert [one["return_with_leftover_noise"] for one in turns] == ["enable", "enable", "disable"]
