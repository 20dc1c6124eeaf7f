"""Pipelines of others as pairs: the same pictures where both halves are one network, and one sentence for what is none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file

from pangu.cli import exchange
from pangu.config import InitialWeights, Recipe
from pangu.contract import GeneratorContract
from pangu.data.propose.start_from import adapter_recipe
from pangu.errors import UserError
from pangu.exchange.experts import read_experts
from pangu.exchange.import_pair import import_pair
from pangu.models.sources import locate
from pangu.pipelines.assemble import load_generator, starting_pair
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import recipe
from pangu.storage import Home, read_json, write_json
from tests import subtests
from tests.pipelines.coop.small import flux, sdxl, stable_diffusion, unet

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
CALL: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "pt"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Small pipelines in diffusers' own classes; `other` shares all but its UNet with `sd`."""
    root = tmp_path_factory.mktemp("pipelines")
    made = {"sd": stable_diffusion(1), "sdxl": sdxl(2), "flux": flux(3), "far": stable_diffusion(4)}
    made["other"] = stable_diffusion(1, unet=unet(9))
    for name, pipe in made.items():
        pipe.save_pretrained(root / name)
    return {name: root / name for name in made}


@subtests.parametrize("kind", ["sd", "sdxl"])
@torch.no_grad()
def test_a_pipeline_split_at_a_boundary_draws_what_the_pipeline_draws(kind, folders, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PANGU_HOME", str(tmp_path))
    home = Home.from_environment()
    made = import_pair(str(folders[kind]), "split", home, boundary=600)
    assert made.intervals == {"structure": "[600, 1000)", "texture": "[0, 600)"} and not made.already_done
    assert import_pair(str(folders[kind]), "split", home, boundary=600).already_done
    pair = PanGuDrawPipeline.from_pretrained(locate("split", "pair"), use_safetensors=True)
    pair.set_progress_bar_config(disable=True)
    original = {"sd": stable_diffusion(1), "sdxl": sdxl(2)}[kind]
    original.scheduler = type(original.scheduler).from_config(pair.scheduler.config)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    # diffusers counts pixels, of which the small autoencoder has 2 a latent; the pair tells SDXL's 8.
    told = {} if kind == "sd" else {"original_size": (64, 64), "target_size": (64, 64)}
    size = {"height": 16, "width": 16}
    ours = pair("a fox", negative_prompt="", latents=noise, **CALL, **size).images
    theirs = original("a fox", negative_prompt="", latents=noise, **CALL, **size, **told).images
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=0, atol=1e-3)
    for role in ("structure", "texture"):
        network, contract = load_generator(home.pair("split") / role)
        assert contract == pair.contract(role) == GeneratorContract.load(home.pair("split") / role)
        assert torch.equal(network.conv_in.weight, original.unet.conv_in.weight)


def test_a_recipe_starts_from_what_was_imported_and_the_commands_find_it_by_name(
    folders, tmp_path, monkeypatch, capsys
) -> None:
    """By the recipe that is left beside the pair, and by the pair's name in `init_from`; the halves are the imported ones."""
    monkeypatch.setenv("PANGU_HOME", str(tmp_path))
    made = import_pair(str(folders["sd"]), "two", Home.from_environment(), refiner=str(folders["other"]))
    assert made.intervals == {"structure": "[200, 1000)", "texture": "[0, 200)"}, "diffusers' denoising_end of 0.8"
    left: Recipe = recipe(made.recipe)
    assert adapter_recipe("two", on_gpu=False) == left, "what `pangu new --start two` proposes"
    for chosen in (left, left.model_copy(update={"init_from": InitialWeights(source="two")})):
        start = starting_pair(chosen)
        assert (
            start.contract("texture").autoencoder_hash
            == GeneratorContract.load(Path(made.pair) / "texture").autoencoder_hash
        )
        assert torch.equal(start.structure.conv_in.weight, load_file(folders["sd"] / WEIGHTS)["conv_in.weight"])
        assert torch.equal(start.texture.conv_in.weight, load_file(folders["other"] / WEIGHTS)["conv_in.weight"])
    app = typer.Typer()
    exchange.register(app)

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            app(list(arguments))
        assert ended.value.code == 0
        return capsys.readouterr().out

    made = json.loads(run("import", str(folders["sd"]), "fox", "--boundary", "300"))
    assert made["intervals"] == {"structure": "[300, 1000)", "texture": "[0, 300)"}
    written = json.loads(run("export", "fox", str(tmp_path / "out")))
    assert {"structure", "texture", "vae", "text_encoder", "tokenizer", "scheduler"} == set(written["components"])
    assert "license: mit" in run("push", "fox", "owner/fox", "--licence", "MIT", "--card-only")


def wan(folder: Path, **changes: Any) -> Path:
    """The configurations of Wan 2.2; its weights are not looked at."""
    part = ["diffusers", "WanTransformer3DModel"]
    index = {
        "_class_name": "WanPipeline",
        "boundary_ratio": 0.875,
        "transformer": part,
        "transformer_2": part,
    } | changes
    write_json(folder / "model_index.json", index)
    write_json(
        folder / "scheduler/scheduler_config.json",
        {"_class_name": "UniPCMultistepScheduler", "num_train_timesteps": 1000},
    )
    for name in ("transformer", "transformer_2"):
        write_json(folder / name / "config.json", {"_class_name": "WanTransformer3DModel", "in_channels": 16})
    return folder


def broken(folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], file: str) -> Path:
    """A copy of a pipeline folder with one file changed."""
    copy = shutil.copytree(folder, tmp_path / f"changed-{len(list(tmp_path.iterdir()))}")
    if file.endswith("safetensors"):
        save_file({key: value.contiguous() for key, value in change(load_file(copy / file)).items()}, copy / file)
    else:
        write_json(copy / file, change(read_json(copy / file)))
    return copy


CHANGED: list[tuple[str, Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    (WEIGHTS, lambda w: {k: v for k, v in w.items() if k != "conv_in.bias"}, r"lacks 1 of \d+ .* such as conv_in.bias"),
    (WEIGHTS, lambda w: w | {"more.weight": torch.ones(2)}, "has 1 weights that its configuration has no place for"),
    (WEIGHTS, lambda w: w | {"conv_in.bias": torch.ones(3)}, r"conv_in.bias has the shape \(3,\), .* says \(8,\)"),
    ("unet/config.json", lambda c: c | {"_class_name": "FluxTransformer2DModel"}, "another architecture under one name"),
    ("unet/config.json", lambda c: c | {"in_channels": 9}, "conv_in.weight has the shape"),
    ("model_index.json", lambda c: c | {"unet": [None, None]}, "has no denoiser that can be an expert"),
    ("scheduler/scheduler_config.json", lambda c: c | {"beta_schedule": "laplace"}, "noise levels that are not trained here"),
]  # fmt: skip


def refused(sentence: str, tmp_path: Path, source: str, **options: Any) -> None:
    home = Home(tmp_path / "home")
    with pytest.raises(UserError, match=sentence) as caught:
        import_pair(source, "pair", home, **options)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert not home.pair("pair").exists() and not list(home.root.glob("pairs/*.json"))


def test_experts_own_what_the_pipeline_says_and_what_makes_no_pair_is_refused_in_one_sentence(
    folders, tmp_path
) -> None:
    high, low = read_experts(str(wan(tmp_path / "two")))
    assert (high.subfolder, high.low, high.high) == ("transformer", 875, 1000)
    assert (low.subfolder, low.low, low.high) == ("transformer_2", 0, 875)
    assert {high.network, low.network} == {"WanTransformer3DModel"} and high.channels == low.channels == 16
    first, _ = read_experts(str(wan(tmp_path / "asked", boundary_ratio=None)), boundary=900)
    assert first.low == 900
    for file, change, sentence in CHANGED:
        refused(sentence, tmp_path, str(broken(folders["sd"], tmp_path, change, file)), boundary=500)
    sd, other, xl = (str(folders[name]) for name in ("sd", "other", "sdxl"))
    refused(
        "has one expert, unet, and no interval of timesteps; say where it is to be split by --boundary", tmp_path, sd
    )
    refused("The boundary must lie from 1 to 999", tmp_path, sd, boundary=1000)
    refused("--boundary splits one pipeline, and --refiner adds", tmp_path, sd, boundary=5, refiner=other)
    refused("--handover must lie between 0 and 1, not 1", tmp_path, sd, refiner=other, handover=1.0)
    refused("has autoencoder .* but .* their latents differ", tmp_path, sd, refiner=str(folders["far"]))
    refused("has autoencoder .* but .* their latents differ", tmp_path, sd, refiner=xl)
    scored = broken(
        folders["sd"], tmp_path, lambda c: c | {"addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 16 + 5 * 8}, "unet/config.json",
    )  # fmt: skip
    refused(r"lacks 4 of \d+ weights of its UNet, such as add_embedding", tmp_path, sd, refiner=str(scored))
    refused(
        "takes latents of 4 channels, but .* of 4 channels packed 2 x 2", tmp_path, sd, refiner=str(folders["flux"])
    )
    refused("was not distilled to be told a guidance scale", tmp_path, sd, boundary=500, guidance=3.0)
    refused("was saved without its text_encoder", tmp_path, str(wan(tmp_path / "wan")), resolution=16)
    other = broken(folders["sd"], tmp_path, lambda c: c | {"_class_name": "Kandinsky3UNet"}, "unet/config.json")
    named = broken(other, tmp_path, lambda c: c | {"unet": ["diffusers", "Kandinsky3UNet"]}, "model_index.json")
    refused(
        "is a Kandinsky3UNet of a StableDiffusionPipeline, whose way of reading text is not known",
        tmp_path,
        str(named),
        boundary=5,
    )
    alone = wan(tmp_path / "one", boundary_ratio=None, transformer_2=[None, None])
    refused("has one expert, transformer, and no interval", tmp_path, str(alone))
    silent = wan(tmp_path / "silent", boundary_ratio=None)
    refused("has two experts, but its boundary_ratio is not written; say by --boundary", tmp_path, str(silent))
    refused("has boundary_ratio = 1.5, but a share", tmp_path, str(wan(tmp_path / "odd", boundary_ratio=1.5)))
    refused("There is no pipeline folder at", tmp_path, "nobody/nothing", boundary=500)
    home = Home(tmp_path / "taken")
    import_pair(sd, "pair", home, boundary=500)
    with pytest.raises(UserError, match=r"There is a pair 'pair' in .* already"):
        import_pair(sd, "pair", home, boundary=400)
    with pytest.raises(UserError, match="is a pipeline of ours already"):
        import_pair(str(home.pair("pair")), "again", home, boundary=400)
    with pytest.raises(UserError, match=r"'\.\./up' is no name of a pair"):
        import_pair(sd, "../up", home, boundary=400)
    assert json.loads((home.pair("pair") / "model_index.json").read_text())["_class_name"] == "PanGuDrawPipeline"
