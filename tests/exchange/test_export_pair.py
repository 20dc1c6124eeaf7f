"""What is written for others: their own classes open it, tensors are the same bits, and what can not be written is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPTextModel

from pangu.errors import UserError
from pangu.exchange.export_pair import export_generator_folder, export_pair
from pangu.exchange.import_pair import import_pair
from pangu.exchange.places import generator_folder, pair_folder
from pangu.models.denoisers import load_denoiser
from pangu.models.lora import ADAPTER, fitted, put_adapter, save_lora
from pangu.models.lora_files import find_weights
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.storage import Home
from tests.models.adapter_files import ATTENTION, random_adapter
from tests.models.test_initial import write_generator
from tests.pipelines.coop.small import stable_diffusion, unet

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
