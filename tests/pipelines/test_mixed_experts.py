"""Experts of different predictions, noise levels and texts in one trajectory draw what one of them would draw alone."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pangu.config import NoiseSchedule, TextEncoderSource
from pangu.contract import GeneratorContract, check_pair
from pangu.diffusion.training_levels import equal_level
from pangu.errors import UserError
from pangu.evaluate.matrix import check_all
from pangu.models.schedulers import named_sampler
from pangu.pipelines import CoopPipeline
from pangu.pipelines.assemble import assemble_experts
from pangu.pipelines.experts_pipeline import ExpertsPipeline
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import tiny
from pangu.registry.fetch import check_folder, pair_contracts
from pangu.registry.manifest import Manifest
from tests import subtests
from tests.pipelines.drawing import draw, seeds
from tests.pipelines.exact import (
    COSINE,
    EPSILON,
    FLOW,
    MEAN,
    SPREAD,
    VELOCITY,
    contracts_of,
    gaussian,
    joined,
    predicted,
)
from tests.registry.pairs import write_pair

TOTAL = 1000


def split(pair: Any, above: NoiseSchedule, below: NoiseSchedule, boundary: int = 500) -> dict[str, dict[str, Any]]:
    """Contracts of two experts that meet at `boundary` of the upper one."""
    return contracts_of(pair, (above, boundary, TOTAL), (below, 0, round(equal_level(boundary, above, below))))


def latents(pipe: Any, seed: int = 1, **options: Any) -> torch.Tensor:
    return draw(pipe, ["fox"], seeds(seed), output_type="latent", **{"num_inference_steps": 12} | options)


MIXES = [(FLOW, EPSILON), (EPSILON, FLOW), (EPSILON, VELOCITY), (VELOCITY, EPSILON), (FLOW, COSINE), (COSINE, VELOCITY)]


@subtests.parametrize(("above", "below"), MIXES)
def test_exact_experts_of_two_kinds_draw_what_either_draws_alone(pair: Any, above: Any, below: Any) -> None:
    """Each is the exact posterior of one Gaussian: the picture is that of one network, and has that distribution."""
    nets = gaussian(above, pair.structure), gaussian(below, pair.structure)
    mixed = joined(pair, list(nets), split(pair, above, below))
    found = latents(mixed)
    assert nets[0].asked and nets[1].asked
    alone = joined(pair, [gaussian(above, pair.structure)] * 2, split(pair, above, above))
    torch.testing.assert_close(found, latents(alone), rtol=0, atol=1e-4)
    only_below = joined(pair, list(nets), split(pair, above, below, 850))
    torch.testing.assert_close(found, latents(only_below), rtol=0, atol=1e-4)
    many = draw(mixed, ["fox"] * 4, seeds(1, 2, 3, 4), output_type="latent", num_inference_steps=60)
    assert abs(many.mean() - MEAN) < 0.05 and abs(many.std() - SPREAD) < 0.05


class Recast(torch.nn.Module):
    """A network over the levels of one schedule in the words of another: what `Translation` has to undo."""

    def __init__(self, inner: Any, own: NoiseSchedule, other: NoiseSchedule) -> None:
        super().__init__()
        self.inner, self.own, self.other, self.config = inner, own, other, inner.config

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    @property
    def device(self) -> torch.device:
        return self.inner.device

    def forward(self, noisy: torch.Tensor, timestep: torch.Tensor, **told: Any) -> tuple[torch.Tensor]:
        from pangu.diffusion.training_levels import level_at

        t = float(timestep[0])
        outside, asked = level_at(self.other, t), equal_level(t, self.other, self.own)
        inside = level_at(self.own, asked)
        seen = noisy * (inside.sigma / outside.sigma)
        answer = self.inner(seen, torch.full_like(timestep.float(), asked), **told)[0]
        # The inner network predicts the velocity.
        clean = (inside.signal * seen - inside.sigma * answer) / (inside.signal**2 + inside.sigma**2)
        return (predicted(self.other.prediction_type, noisy, clean, outside.signal, outside.sigma),)


@subtests.parametrize("other", [FLOW, EPSILON, COSINE])
@subtests.parametrize("name", [None, "euler", "dpmpp_2m", "heun"])
def test_one_network_in_two_words_draws_one_picture(pair: Any, other: NoiseSchedule, name: str | None) -> None:
    """Guided, by samplers of one and two orders, some of which scale what they show the network."""
    nets = [pair.structure, Recast(pair.structure, VELOCITY, other)]
    mixed = joined(pair, nets, split(pair, VELOCITY, other))
    alone = joined(pair, [pair.structure] * 2, split(pair, VELOCITY, VELOCITY))
    for pipe in (mixed, alone):
        pipe.scheduler = pipe.scheduler if name is None else named_sampler(name, pipe.scheduler)
    options = {"guidance_scale": 4.0, "num_inference_steps": 8}
    torch.testing.assert_close(latents(mixed, **options), latents(alone, **options), rtol=0, atol=1e-4)


def test_where_boundaries_lie_and_how_many_there_are_changes_nothing_with_one_network(pair: Any) -> None:
    net = pair.structure
    alone = latents(joined(pair, [net] * 2, split(pair, VELOCITY, VELOCITY)))
    three = contracts_of(pair, (VELOCITY, 700, TOTAL), (VELOCITY, 300, 700), (VELOCITY, 0, 300))
    assert torch.equal(latents(joined(pair, [net] * 3, three)), alone)
    low, high = (round(equal_level(t, VELOCITY, FLOW)) for t in (300, 700))
    words = contracts_of(pair, (VELOCITY, 700, TOTAL), (FLOW, low, high), (EPSILON, 0, 300))
    mixed = joined(pair, [net, Recast(net, VELOCITY, FLOW), Recast(net, VELOCITY, EPSILON)], words)
    torch.testing.assert_close(latents(mixed), alone, rtol=0, atol=1e-4)
    assert mixed.interval("middle").low == pytest.approx(300, abs=1)
    assert mixed.interval("texture").high == mixed.interval("middle").low
    flow = joined(pair, [gaussian(FLOW, net), gaussian(FLOW, net)], split(pair, FLOW, FLOW, 400))
    moved = joined(pair, [gaussian(FLOW, net), gaussian(EPSILON, net)], split(pair, FLOW, EPSILON, 800))
    torch.testing.assert_close(latents(moved), latents(flow), rtol=0, atol=1e-4)


def test_each_of_three_experts_takes_the_steps_that_it_is_given(pair: Any) -> None:
    """As the server gives them, by samplers of one and two orders; those of a whole draw what the whole draws."""
    nets = [copy.deepcopy(pair.structure) for _ in range(3)]
    made = joined(pair, nets, contracts_of(pair, (VELOCITY, 700, TOTAL), (VELOCITY, 300, 700), (VELOCITY, 0, 300)))
    asked: list[str] = []
    for role in made.roles:
        made.generator(role).register_forward_pre_hook(lambda *_, role=role: asked.append(role))

    def taken(**options: Any) -> dict[str, int]:
        asked.clear()
        seen: list[int] = []
        latents(made, callback_on_step_end=lambda pipe, step, t, told: seen.append(pipe.num_timesteps) or {}, **options)
        assert seen == [len(asked)] * len(asked), "the progress bar is told of every step"
        return {role: asked.count(role) for role in made.roles}

    for counts in ((3, 2, 4), (4, 1, 3), (2, 5, 1), (5, 1, 1), (3, 3, 30)):
        steps = dict(zip(made.roles, counts, strict=True))
        assert taken(num_inference_steps=steps) == steps
    whole = latents(made, num_inference_steps=10)
    assert torch.equal(latents(made, num_inference_steps={"structure": 3, "middle": 4, "texture": 3}), whole)
    shared = taken(num_inference_steps=9, step_split="log_snr")
    assert sum(shared.values()) == 9 and min(shared.values()) > 0
    for options, said in (
        ({"num_inference_steps": {"structure": 3, "texture": 3}}, "one value for each of structure, middle, texture"),
        ({"num_inference_steps": {"structure": 3, "middle": 0, "texture": 3}}, "no step to the middle generator"),
        ({"num_inference_steps": 2, "step_split": "log_snr"}, "the least is 3"),
    ):
        with pytest.raises(UserError, match=said):
            latents(made, **options)


def test_three_experts_are_saved_loaded_and_cooperate(pair: Any, tmp_path: Path) -> None:
    nets = [pair.structure, pair.texture, copy.deepcopy(pair.structure)]
    made = joined(pair, nets, contracts_of(pair, (VELOCITY, 700, TOTAL), (VELOCITY, 300, 700), (VELOCITY, 0, 300)))
    whole = draw(made, ["fox"], seeds(1), guidance_scale=3.0)
    made.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert [index["contracts"][role]["low"] for role in made.roles] == [700, 300, 0]
    again = ExpertsPipeline.from_pretrained(tmp_path)
    assert torch.equal(draw(again, ["fox"], seeds(1), guidance_scale=3.0), whole)
    assert torch.equal(draw(ExpertsPipeline(**again.components), ["fox"], seeds(1), guidance_scale=3.0), whole)
    torch.testing.assert_close(
        draw(CoopPipeline(again), ["fox"], seeds(1), guidance_scale=3.0), whole, rtol=0, atol=1e-4
    )
    with pytest.raises(UserError, match=r"leaves no step to the (middle|texture) generator; the least number"):
        latents(again, num_inference_steps=2)
    with pytest.raises(
        UserError, match=r"Gap in the pair: structure covers \[700, 1000\) and texture covers \[0, 300\)"
    ):
        PanGuDrawPipeline.from_pretrained(tmp_path)
    renamed = {role.replace("middle", "middle_2"): values for role, values in index["contracts"].items()}
    with pytest.raises(UserError, match="middle generator has no interval contract"):
        ExpertsPipeline(**again.components, contracts=renamed)
    with pytest.raises(UserError, match="3 experts are structure, middle, texture, not"):
        ExpertsPipeline(**again.components | {"middle": None}, contracts=renamed)
    with pytest.raises(UserError, match="texture generator has no interval contract"):
        PanGuDrawPipeline(**pair.components, contracts={"structure": dict(pair.config.contracts["structure"])})


def test_each_expert_has_its_own_text_and_guidance(pair: Any) -> None:
    """As if each had drawn its part alone, under its own prompt, template and scale."""
    nets = [pair.structure, pair.texture]
    plain = joined(pair, nets, split(pair, VELOCITY, VELOCITY))
    two = joined(pair, nets, split(pair, VELOCITY, VELOCITY), templates={"texture": "sharp {}"})

    def apart(above: str, below: str, scales: tuple[float, float]) -> torch.Tensor:
        start = plain.start(
            plain.encode_prompt(above),
            height=96,
            width=96,
            num_inference_steps=6,
            guidance_scale=scales[0],
            generators=seeds(1),
        )
        half = plain.advance(start, "structure")
        other = plain.start(
            plain.encode_prompt(below), height=96, width=96, num_inference_steps=6, guidance_scale=scales[1]
        )
        from dataclasses import replace

        return plain.advance(replace(half, condition=other.condition), "texture").latents_bchw

    options: dict[str, Any] = {"num_inference_steps": 6, "guidance_scale": 3.0}
    assert torch.equal(latents(two, **options), apart("fox", "sharp fox", (3.0, 3.0)))
    scaled = latents(plain, **options, guidance_scales={"texture": 1.0})
    assert torch.equal(scaled, apart("fox", "fox", (3.0, 1.0)))
    with pytest.raises(UserError, match="guidance_scales may name structure, texture, not 'middle'"):
        latents(plain, guidance_scales={"middle": 1.0})
    with pytest.raises(UserError, match="prompt_embeds say nothing to the texture generator"):
        said = plain.encode_prompt("fox")
        two(prompt_embeds=said.prompt["tokens"], pooled_prompt_embeds=said.prompt["pooled"], guidance_scale=1.0)


def test_folders_of_experts_are_assembled_with_own_text_encoders(pair: Any, tmp_path: Path) -> None:
    recipe, folders = tiny(), []
    usual = GeneratorContract.model_validate(pair.config.contracts["structure"])
    for name, low, high in (("a", 700, TOTAL), ("b", 300, 700), ("c", 0, 300)):
        folders.append(tmp_path / name)
        pair.structure.save_pretrained(folders[-1], safe_serialization=True)
        usual.model_copy(update={"low": low, "high": high}).save(folders[-1])
    made = assemble_experts(folders, recipe, tmp_path / "joined", texts={"texture": [TextEncoderSource()]})
    again = ExpertsPipeline.from_pretrained(tmp_path / "joined")
    assert torch.equal(latents(again), latents(made))
    assert [tower.hash for tower in again.towers_of("texture")] == [tower.hash for tower in again.text_towers]
    both = joined(pair, [pair.structure] * 2, split(pair, VELOCITY, VELOCITY))
    torch.testing.assert_close(latents(again), latents(both), rtol=0, atol=1e-6)
    other = {role: dict(values) for role, values in again.config.contracts.items()}
    other["middle"]["text_encoder_hashes"] = ["others"]
    with pytest.raises(UserError, match=r"middle generator was trained with other text encoders.*tokenizer_of_middle"):
        ExpertsPipeline(**again.components, contracts=other)
    other["middle"]["low"] = 301
    with pytest.raises(UserError, match=r"Gap in the pair: middle covers \[301, 700\) and texture covers \[0, 300\)"):
        ExpertsPipeline(**again.components, contracts=other)
    with pytest.raises(UserError, match="Overlap in the pair: structure covers"):
        assemble_experts(folders[::-1], recipe, tmp_path / "never")
    with pytest.raises(UserError, match="2 to 10 experts take turns, not 1"):
        assemble_experts(folders[:1], recipe, tmp_path / "never")


@subtests.parametrize(
    ("above", "low", "below", "high", "sentence"),
    [
        (EPSILON, 500, FLOW, 560, "Gap in the pair: structure covers .* and texture covers"),
        (EPSILON, 500, FLOW, 700, "Overlap in the pair: structure covers"),
        (FLOW, 500, EPSILON, 500, "Overlap in the pair"),
        (
            FLOW,
            999,
            EPSILON,
            1000,
            "boundary at t = 999 of structure has a log-SNR of -13.8.*out of the range of texture",
        ),
        (FLOW, 10, EPSILON, 1, "out of the range of texture"),
    ],
)
def test_boundaries_that_do_not_meet_are_refused(
    pair: Any, above: NoiseSchedule, low: int, below: NoiseSchedule, high: int, sentence: str
) -> None:
    contracts = contracts_of(pair, (above, low, TOTAL), (below, 0, high)).values()
    one, other = (GeneratorContract.model_validate(contract) for contract in contracts)
    with pytest.raises(UserError, match=sentence):
        check_pair(one, other)


@subtests.parametrize(("above", "below"), [(EPSILON, FLOW), (FLOW, EPSILON)])
def test_boundaries_of_two_schedules_meet_at_equal_log_snr(
    pair: Any, above: NoiseSchedule, below: NoiseSchedule
) -> None:
    contracts = contracts_of(pair, (above, 500, TOTAL), (below, 0, 500)).values()
    middle, other = (GeneratorContract.model_validate(contract) for contract in contracts)
    found = [near for near in range(1, TOTAL) if _meet(middle, other.model_copy(update={"high": near}))]
    # The nearest whole timestep, and where indices of the lower expert are finer also those that round to 500.
    assert round(equal_level(500, above, below)) in found and len(found) <= 3


def _meet(one: GeneratorContract, other: GeneratorContract) -> bool:
    try:
        check_pair(one, other)
    except UserError:
        return False
    return True


def test_a_shift_that_leaves_an_expert_without_a_step_is_refused(pair: Any) -> None:
    steep = FLOW.model_copy(update={"shift": 100.0})
    nets = [gaussian(steep, pair.structure), gaussian(EPSILON, pair.structure)]
    mixed = joined(pair, nets, split(pair, steep, EPSILON, 300))
    with pytest.raises(
        UserError, match=r"without a step, whatever their number.* and a boundary of 300, under a shift of 100\."
    ):
        latents(mixed, num_inference_steps=6)


def test_contracts_of_before_are_read_and_newer_ones_refused(pair: Any, tmp_path: Path) -> None:
    pair.save_pretrained(tmp_path)
    path = tmp_path / "model_index.json"
    index = json.loads(path.read_text())
    assert [contract.pop("format_version") for contract in index["contracts"].values()] == [2, 2]
    path.write_text(json.dumps(index))
    before = PanGuDrawPipeline.from_pretrained(tmp_path)
    assert before.contract("structure") == pair.contract("structure")
    assert torch.equal(draw(before), draw(pair))
    with pytest.raises(ValueError, match="it is of format 3, but this version of PanGu reads 1 and 2"):
        GeneratorContract.model_validate(index["contracts"]["structure"] | {"format_version": 3})
    index["contracts"]["structure"]["format_version"] = 3
    path.write_text(json.dumps(index))
    for read in (PanGuDrawPipeline.from_pretrained, pair_contracts):
        with pytest.raises(UserError, match=r"^The contract of structure.* is of format 3, .*; update PanGu\.$"):
            read(tmp_path)


def test_latents_that_differ_in_packing_are_refused(pair: Any) -> None:
    packed = gaussian(VELOCITY, pair.structure)
    packed.register_to_config(in_channels=64, out_channels=64)
    with pytest.raises(UserError, match="differ in packing: structure takes 16 channels, but texture takes 64"):
        joined(pair, [pair.structure, packed], split(pair, VELOCITY, VELOCITY))


def test_matrix_registry_and_server_take_mixed_pairs_and_refuse_as_ever(tmp_path: Path) -> None:
    """By the contracts alone: nothing is drawn."""
    end = round(equal_level(500, VELOCITY, FLOW))
    places = write_pair(tmp_path / "mixed", 1, schedule=FLOW, high=end, max_tokens=77)
    assert set(check_all([places["structure"]], [places["texture"]])) == {places["structure"], places["texture"]}
    check_folder(places["pair"], _sealed(places["pair"]))
    refused = {
        "autoencoder_hash": ({"autoencoder_hash": "c" * 16}, "does not share one autoencoder_hash"),
        "gap": ({"schedule": FLOW, "high": end - 30}, "Gap in the pair"),
        "one_schedule": ({"high": 499}, r"Gap in the pair.*nobody covers \[499, 500\)"),
    }
    for name, (changes, sentence) in refused.items():
        others = write_pair(tmp_path / name, 1, **changes)
        with pytest.raises(UserError, match=f"make no pair: .*{sentence}"):
            check_all([others["structure"]], [others["texture"]])
        with pytest.raises(UserError, match=sentence):
            check_folder(others["pair"], _sealed(others["pair"]))


def _sealed(folder: Path) -> str:
    manifest = Manifest.of(folder)
    manifest.save(folder)
    return manifest.sha256
