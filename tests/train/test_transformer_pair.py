"""A pair of transformers from training rows to pictures: trained by the loop, exported, assembled, loaded, drawn."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pangu.config import InitialWeights, LoraConfig, NoiseSchedule, Recipe
from pangu.data.encode.encoders import describe
from pangu.data.rows.in_memory import EncodedRows
from pangu.diffusion.training_levels import equal_level
from pangu.errors import UserError
from pangu.models.autoencoders import load_autoencoder
from pangu.models.denoisers import family_of
from pangu.models.text import load_text_tower
from pangu.pipelines import PanGuDrawPipeline
from pangu.pipelines.assemble import assemble_experts, assemble_pair
from pangu.recipes import tiny
from pangu.train.loop import train_loop
from pangu.train.starting_weights import export_generator, pin_initial, starting_network
from tests import subtests
from tests.pipelines.drawing import draw

SMALL = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}
ENDS = {
    "sd3": {}, "pixart": {}, "sana": {"num_cross_attention_heads": 2},
    "flux": {"num_single_layers": 1, "axes_dims_rope": [4, 6, 6]},
}  # fmt: skip
FLOW = {"prediction_type": "flow_prediction"}


def pair_recipe(structure: str, texture: str, **changes: Any) -> Recipe:
    """Two steps of each half, the halves of two families."""
    jobs = tiny().model_dump()["jobs"]
    for role, name in (("structure", structure), ("texture", texture)):
        jobs[role] |= {"steps": 2, "batch_size": 2, "denoiser": {"family": name} | SMALL | ENDS[name]}
    return Recipe.model_validate(tiny().model_dump() | {"schedule": FLOW, "jobs": jobs} | changes)


@pytest.fixture(scope="module")
def encoders() -> Any:
    recipe = tiny()
    towers = [load_text_tower(source) for source in recipe.text_encoders]
    return describe(load_autoencoder(recipe.autoencoder), towers, recipe.max_tokens)


def rows_of(encoders: Any, side: int) -> EncodedRows:
    """Four rows of unit noise."""
    generator = torch.Generator().manual_seed(0)
    unit = lambda *shape: torch.randn(*shape, generator=generator).half()  # noqa: E731
    text, pooled = (encoders.max_tokens, encoders.context_channels), encoders.pooled_channels
    return EncodedRows(
        tuple("abcd"), unit(4, encoders.latent_channels, side, side), unit(2, 4, *text), unit(2, 4, pooled),
        torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), unit(*text), unit(pooled),
    )  # fmt: skip


@subtests.parametrize(("structure", "texture"), [("sd3", "sana"), ("flux", "pixart")])
def test_it_trains_and_the_pair_draws(structure: str, texture: str, encoders: Any, tmp_path: Path) -> None:
    recipe, folders = pair_recipe(structure, texture), {}
    for role, side in (("structure", 12), ("texture", 8)):
        contract, run = encoders.contract(recipe, role), tmp_path / role
        network = starting_network(run, recipe, role, contract, encoders)  # type: ignore[arg-type]
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        trained = train_loop(
            role, recipe, rows_of(encoders, side), "e", run / "checkpoints", contract=contract, denoiser=network  # type: ignore[arg-type]
        )  # fmt: skip
        assert trained.steps == 2 and trained.loss > 0
        assert any(not torch.equal(tensor, before[name]) for name, tensor in trained.denoiser.state_dict().items())
        folders[role] = run / "generator"
        export_generator(folders[role], trained.denoiser, trained.ema, 0, contract)
    assemble_pair(folders["structure"], folders["texture"], recipe, tmp_path / "pair")
    pair: Any = PanGuDrawPipeline.from_pretrained(tmp_path / "pair")
    assert (family_of(pair.structure).name, family_of(pair.texture).name) == (structure, texture)
    again = PanGuDrawPipeline.from_pipe(pair)
    assert again.structure is pair.structure and again.texture is pair.texture
    pictures = draw(pair, ["fox"], num_inference_steps=4)
    assert pictures.shape == (1, 3, 96, 96) and pictures.isfinite().all()
    asked = [0, 0]
    for place, network in enumerate((pair.structure, pair.texture)):
        network.register_forward_pre_hook(lambda _, given, place=place: asked.__setitem__(place, asked[place] + 1))
    draw(pair, ["fox"], num_inference_steps=4)
    assert min(asked) > 0 and sum(asked) == 4
    _goes_on_from(tmp_path / "pair", recipe, encoders, tmp_path)


def _goes_on_from(pair: Path, recipe: Recipe, encoders: Any, folder: Path) -> None:
    """Its structure half starts another training, with an adapter where its class takes one; not one of another family."""
    start = {"init_from": InitialWeights(source=str(pair)), "lora": LoraConfig(rank=2, alpha=2.0)}
    again = recipe.model_copy(update=start)
    contract, run = encoders.contract(again, "structure"), folder / "again"
    pin_initial(run, again, "structure", contract, encoders)
    network = starting_network(run, again, "structure", contract, encoders)
    trained = train_loop("structure", again, rows_of(encoders, 12), "e", run, contract=contract, denoiser=network)
    adapted = [name for name, weight in trained.denoiser.named_parameters() if weight.requires_grad]
    assert adapted and all("lora_" in name for name in adapted)
    export_generator(run / "generator", trained.denoiser, trained.ema, 0, contract)
    _adapter_is_read_by_diffusers(trained.denoiser, run)
    with pytest.raises(UserError, match=r"structure holds \w+Transformer2DModel, but a UNet2DConditionModel is needed"):
        pin_initial(
            folder / "other",
            tiny().model_copy(update=start | {"schedule": recipe.schedule}),
            "structure",
            contract,
            encoders,
        )


def _adapter_is_read_by_diffusers(network: Any, run: Path) -> None:
    """Its file names the part of a pipeline that it is for, which diffusers' own classes look for."""
    (file,) = run.rglob("pytorch_lora_weights.safetensors")
    assert {name.partition(".")[0] for name in load_file(file)} == {"transformer"}
    fresh = type(network).from_config(network.config)
    fresh.load_lora_adapter(load_file(file), prefix="transformer")
    assert len(fresh.peft_config) == 1
    learnt = {name: weight for name, weight in network.named_parameters() if "lora_" in name}
    read = {name: weight for name, weight in fresh.named_parameters() if "lora_" in name}
    assert len(read) == len(learnt) > 0 and sum(map(torch.Tensor.numel, read.values())) == sum(
        map(torch.Tensor.numel, learnt.values())
    )


def test_a_flow_transformer_and_an_epsilon_unet_draw_one_picture(encoders: Any, tmp_path: Path) -> None:
    """Neither class, nor prediction, nor noise levels are shared; each half is asked for the steps that it owns."""
    boundary = tiny().boundary
    flow, epsilon = pair_recipe("sana", "sana"), tiny()
    flow = flow.model_copy(update={"boundary": round(equal_level(boundary, epsilon.schedule, flow.schedule))})
    for role, recipe in (("structure", flow), ("texture", epsilon)):
        contract = encoders.contract(recipe, role)
        network = starting_network(tmp_path / role, recipe, role, contract, encoders)  # type: ignore[arg-type]
        network.save_pretrained(tmp_path / role)
        contract.save(tmp_path / role)
    assemble_pair(tmp_path / "structure", tmp_path / "texture", epsilon, tmp_path / "pair")
    pair: Any = PanGuDrawPipeline.from_pretrained(tmp_path / "pair")
    asked: dict[str, list[float]] = {"structure": [], "texture": []}

    def noted(_: Any, given: tuple[Any, ...], told: dict[str, Any], times: list[float]) -> None:
        times.append(float((given[1] if len(given) > 1 else told["timestep"]).flatten()[0]))

    for role, times in asked.items():
        pair.generator(role).register_forward_pre_hook(partial(noted, times=times), with_kwargs=True)
    pictures = draw(pair, ["fox"], num_inference_steps=10)
    assert pictures.shape == (1, 3, 96, 96) and pictures.isfinite().all()
    assert asked["structure"] and asked["texture"] and len(asked["structure"]) + len(asked["texture"]) == 10
    assert all(time >= flow.boundary for time in asked["structure"])
    assert all(time < boundary for time in asked["texture"])


def test_rows_that_it_can_not_draw_are_refused_before_the_first_step(encoders: Any, tmp_path: Path) -> None:
    recipe = pair_recipe("sd3", "flux")
    for role in ("structure", "texture"):
        with pytest.raises(UserError, match=r"draws latents in multiples of 2, not 9 x 9\."):
            train_loop(role, recipe, rows_of(encoders, 9), "e", tmp_path)  # type: ignore[arg-type]
    assert NoiseSchedule(**FLOW).is_flow and not list(tmp_path.iterdir())  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="conditions its networks on an image, which the denoiser family sd3 has no place for"
    ):
        cascade = {
            "strategy": "cascaded",
            "jobs": {
                f"cascade_{at}": {"resolution": 24, "steps": 1, "batch_size": 1} for at in ("base", "middle", "final")
            },
        }
        Recipe.model_validate(recipe.model_dump() | cascade | {"denoiser": {"family": "sd3"}})


def test_an_expert_between_the_two_is_trained_on_its_own_interval_and_takes_its_turn(
    encoders: Any, tmp_path: Path
) -> None:
    """Three jobs of one recipe; each starts again from its own part of the pipeline that they make."""
    jobs = tiny().model_dump()["jobs"]
    jobs["middle"] = jobs["texture"]
    jobs = {role: job | {"steps": 2, "batch_size": 2} for role, job in jobs.items()}
    recipe = Recipe.model_validate(tiny().model_dump() | {"jobs": jobs, "further_boundaries": [200]})
    assert recipe.roles == ("structure", "middle", "texture") and recipe.digest() != tiny().digest()
    folders = []
    for role in recipe.roles:
        contract, run = encoders.contract(recipe, role), tmp_path / role
        network = starting_network(run, recipe, role, contract, encoders)
        asked: list[float] = []
        network.register_forward_pre_hook(lambda _, given, asked=asked: asked.extend(given[1].flatten().tolist()))
        side = 12 if role == "structure" else 8
        trained = train_loop(role, recipe, rows_of(encoders, side), "e", run, contract=contract, denoiser=network)
        assert asked and all(time in contract.interval for time in asked)
        export_generator(run / "generator", trained.denoiser, trained.ema, 0, contract)
        folders.append(run / "generator")
    assert [str(encoders.contract(recipe, role).interval) for role in recipe.roles] == [
        "[500, 1000)", "[200, 500)", "[0, 200)",
    ]  # fmt: skip
    pipe = assemble_experts(folders, recipe, tmp_path / "pair")
    assert draw(pipe, ["fox"], num_inference_steps=6).isfinite().all()
    again = recipe.model_copy(update={"init_from": InitialWeights(source=str(tmp_path / "pair"))})
    given = tmp_path / "again", again, "middle", encoders.contract(again, "middle"), encoders
    pin_initial(*given)
    network = starting_network(*given)
    assert torch.equal(network.conv_in.weight, pipe.middle.conv_in.weight)
    for changes, sentence in (
        ({"further_boundaries": [600]}, "must fall from boundary to 0, not 600"),
        ({"further_boundaries": [300, 200]}, "must be exactly structure, middle, middle_2, texture"),
        ({"further_boundaries": []}, "must be exactly structure, texture"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Recipe.model_validate(recipe.model_dump() | changes)
