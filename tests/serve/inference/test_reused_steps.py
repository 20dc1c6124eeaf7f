"""Steps that are drawn from what was computed before: exact where nothing changed, and never from somebody else's picture."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pangu.config import Recipe, Reuse
from pangu.errors import UserError
from pangu.models.deep_features import GivesFeatures, TakesFeatures, feature_channels
from pangu.models.magnitudes import RESIDUALS, Magnitudes, curve_of
from pangu.models.schedulers import named_sampler
from pangu.models.step_caches import StepCache
from pangu.pipelines.assemble import untrained_pair
from pangu.pipelines.measured_magnitudes import measure_magnitudes
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.recipes import tiny
from pangu.sampling.trajectory import Trajectory
from pangu.serve.inference.compute_thread import Worker
from pangu.serve.inference.pool import half, owned_by
from pangu.serve.inference.steps import SamplingRun, StepBatcher
from pangu.serve.settings import ServeSettings
from tests import subtests
from tests.pipelines.drawing import draw, seeds
from tests.pipelines.transformers import flow_recipe

FLUX = {
    "family": "flux", "num_layers": 1, "num_single_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16,
    "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
SD3 = {"family": "sd3", "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16}
KINDS = [
    Reuse(every=2), Reuse(kind="first_block", threshold=1.0), Reuse(kind="taylor", every=2),
    Reuse(kind="mag", every=3, threshold=1.0),
]  # fmt: skip
NAMES = [reuse.kind for reuse in KINDS]
SANA = {
    "family": "sana",
    "num_layers": 3,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_cross_attention_heads": 2,
}
OF_SANA = {f"{reuse.kind} of SANA": reuse for reuse in KINDS[1:]}


@pytest.fixture(scope="module")
def pairs() -> dict[str, PanGuDrawPipeline]:
    """Which kind of reuse -> an untrained pair that can."""
    transformers = {"first_block": of_family(FLUX), "taylor": of_family(SD3), "mag": of_family(FLUX)}
    sana = of_family(SANA)
    for pair in (transformers["mag"], sana):
        measure_magnitudes(pair, "structure", ["a fox"], guidance_scale=3.0)
    return {"deep_features": untrained_pair(tiny()), **transformers, **dict.fromkeys(OF_SANA, sana)}


def of_family(denoiser: dict[str, Any]) -> PanGuDrawPipeline:
    return untrained_pair(Recipe.model_validate(flow_recipe().model_dump() | {"denoiser": denoiser}))


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(threads=1)
    yield worker
    worker.close()


def begun(pair: PanGuDrawPipeline, seed: int, steps: int = 10, **options: Any) -> Trajectory:
    with torch.inference_mode():
        said = replace(pair.encode_prompt([f"fox number {seed}"]), batched=options.pop("batched", True))
    asked = {"height": 96, "width": 96, "num_inference_steps": steps, "guidance_scale": 3.0} | options
    return pair.start(said, generators=seeds(seed), **asked)


def ran(batcher: StepBatcher, pair: PanGuDrawPipeline, *starts: Trajectory) -> list[SamplingRun]:
    """The structure half of some requests that are there at once."""

    async def together() -> list[SamplingRun]:
        runs = (batcher.run(half(pair, "structure", start), owned_by(pair, "structure")) for start in starts)
        return list(await asyncio.gather(*runs))

    return asyncio.run(together())


def latents(run: SamplingRun) -> torch.Tensor:
    return run.state.trajectory.latents_bchw


@subtests.parametrize("name, reuse", [*zip(NAMES, KINDS, strict=True), *OF_SANA.items()], ids=[*NAMES, *OF_SANA])
@subtests.parametrize("batched", [True, False], ids=["together", "apart"])
def test_poisoned_neighbours_change_nothing(pairs: Any, worker: Worker, name: str, reuse: Reuse, batched: bool) -> None:
    pair = pairs[name]
    own = begun(pair, 1, batched=batched)
    plain = latents(ran(StepBatcher(worker), pair, own.forked())[0])
    pair.set_reuse({"structure": reuse})
    try:
        alone = latents(ran(StepBatcher(worker), pair, own.forked())[0])
        huge, broken = (begun(pair, seed, batched=batched) for seed in (2, 3))
        poison = (
            replace(huge, latents_bchw=huge.latents_bchw * 1e4),
            replace(broken, latents_bchw=broken.latents_bchw * float("nan")),
        )
        crowd = ran(StepBatcher(worker), pair, poison[0], own.forked(), poison[1])
        assert crowd[1].mean_batch_size > 1 and latents(crowd[2]).isnan().all()
        again = latents(ran(StepBatcher(worker), pair, own.forked())[0])
    finally:
        pair.set_reuse({})
    scale = max(1.0, float(alone.abs().max()))
    torch.testing.assert_close(latents(crowd[1]), alone, rtol=0, atol=1e-3 * scale)
    assert torch.equal(alone, again) and not torch.equal(alone, plain)
    assert torch.equal(latents(ran(StepBatcher(worker), pair, own.forked())[0]), plain)
    assert StepCache.of(pair.structure) is None
    assert not any("_diffusers_hook" in vars(module) for module in pair.structure.modules())


def test_steps_are_reused_by_halves_that_wait_for_their_turn(pairs: Any) -> None:
    pair = pairs["taylor"]
    pair.set_reuse({"structure": Reuse(kind="taylor")})
    try:
        usual = draw(pair, generator=seeds(1, 2), num_inference_steps=10)
        pair.offload_idle("cpu")
        assert torch.equal(draw(pair, generator=seeds(1, 2), num_inference_steps=10), usual)
    finally:
        pair.keep_all()
        pair.set_reuse({})


def test_the_first_level_with_its_own_features_is_the_whole_unet(pairs: Any) -> None:
    pair = pairs["deep_features"]
    network, asked = pair.structure, {}

    def see(_: Any, given: Any, told: Any) -> None:
        asked.update(given=given, told=told)

    hook = network.register_forward_pre_hook(see, with_kwargs=True)
    draw(pair, generator=seeds(1, 2), guidance_scale=3.0)
    hook.remove()
    with torch.inference_mode():
        told = {name: value for name, value in asked["told"].items() if name != "return_dict"}
        both = GivesFeatures(network)(*asked["given"], **told)[0]
        whole, features = both.split([both.shape[1] - feature_channels(network), feature_channels(network)], dim=1)
        assert torch.equal(whole, network(*asked["given"], **told, return_dict=False)[0])
        assert torch.equal(TakesFeatures(network, features)(*asked["given"], **told)[0], whole)
        assert not torch.equal(TakesFeatures(network, features + 1)(*asked["given"], **told)[0], whole)


@subtests.parametrize(
    "options, whole",
    [
        ({}, {"structure": 3, "texture": 3}),
        ({"guidance_scale": 1.0}, {"structure": 3, "texture": 3}),
        # Guided from 600 on, so the parts of the condition change once within structure's eight steps.
        ({"guidance_interval": (600.0, 1000.0)}, {"structure": 4, "texture": 3}),
    ],
    ids=["guided", "plain", "interval"],
)
def test_whole_passes_begin_at_the_hand_over_and_where_the_guidance_changes(
    pairs: Any, options: dict[str, Any], whole: dict[str, int]
) -> None:
    pair, passes = pairs["deep_features"], {"structure": 0, "texture": 0}

    def counting(role: str) -> Any:
        return lambda *_: passes.update({role: passes[role] + 1})

    hooks = [pair.generator(role).mid_block.register_forward_hook(counting(role)) for role in passes]
    pair.set_reuse(dict.fromkeys(passes, Reuse(every=3)))
    try:
        draw(pair, generator=seeds(1, 2), num_inference_steps=16, **{"guidance_scale": 3.0} | options)
    finally:
        pair.set_reuse({})
        for hook in hooks:
            hook.remove()
    assert passes == whole


def test_solvers_and_reuse_go_together(pairs: Any) -> None:
    pair = pairs["deep_features"]
    before, pair.scheduler = pair.scheduler, named_sampler("heun", pair.scheduler)
    try:
        plain = draw(pair, generator=seeds(1, 2), num_inference_steps=12)
        pair.set_reuse({"texture": Reuse(every=2)})
        assert 0 < float((draw(pair, generator=seeds(1, 2), num_inference_steps=12) - plain).abs().mean()) < 0.05
    finally:
        pair.set_reuse({})
        pair.scheduler = before


def test_blocks_are_left_out_where_their_size_hardly_changes_whatever_the_number_of_steps(
    pairs: Any, tmp_path: Path
) -> None:
    """A row has two whole steps at first, then at most `every` - 1 without blocks, and none where sizes change by more."""
    pair, passes = pairs["mag"], [0]
    block = pair.structure.transformer_blocks[0].attn
    hook = block.register_forward_hook(lambda *_: passes.__setitem__(0, passes[0] + 1))
    known = pair.structure.config[RESIDUALS]
    assert [t for t, _ in known] == sorted(t for t, _ in known) and len(known) > 10 and min(s for _, s in known) > 0
    steep = [[float(t), 10.0 ** (t / 50)] for t in range(0, 1001, 10)]

    def whole(curve: Any, every: int, threshold: float) -> int:
        pair.structure.register_to_config(**{RESIDUALS: curve})
        pair.set_reuse({"structure": Reuse(kind="mag", every=every, threshold=threshold)})
        passes[0] = 0
        draw(pair, generator=seeds(1, 2), num_inference_steps=30, guidance_scale=1.0)
        return passes[0]  # two pictures of one request are asked together

    try:
        flat, steps = [[0.0, 1.0], [1000.0, 1.0]], whole(steep, 2, 0.5)
        assert steps > 8 and whole(flat, 2, 0.5) == 2 + (steps - 2) // 2
        assert whole(flat, 4, 0.5) == 2 + (steps - 2) // 4
    finally:
        hook.remove()
        pair.structure.register_to_config(**{RESIDUALS: known})
        pair.set_reuse({})
    pair.structure.save_pretrained(tmp_path)
    again = type(pair.structure).from_pretrained(tmp_path).config[RESIDUALS]
    assert again == known, "they are kept with the half"
    assert Magnitudes((0.0, 10.0), (0.0, 1.0)).ratio(5.0, 2.5) == pytest.approx(np.exp(-0.25))
    assert curve_of([(3.0, 2.0), (1.0, 1.0), (3.0, 4.0)]) == [[1.0, 1.0], [3.0, 3.0]]


def test_what_can_not_reuse_is_refused_in_one_sentence(pairs: Any) -> None:
    unets, transformers = pairs["deep_features"], pairs["taylor"]
    sana, z_image = untrained_pair(flow_recipe()), of_family(SD3 | {"family": "z_image", "axes_dims_rope": (4, 6, 6)})
    for pair, reuse, sentence in (
        (unets, Reuse(kind="taylor"), "of a UNet deep_features can"),
        (transformers, Reuse(), "has no deep features"),
        (sana, Reuse(kind="first_block"), "diffusers' hook does not fit its blocks"),
        (transformers, Reuse(kind="first_block"), "diffusers' hook does not fit its blocks"),
        (z_image, Reuse(kind="first_block"), "diffusers' hook does not fit its blocks"),
        (z_image, Reuse(kind="mag"), "diffusers' hook does not fit its blocks"),
        (transformers, Reuse(kind="mag"), "has not been measured; call measure_magnitudes"),
    ):
        with pytest.raises(UserError, match=sentence):
            pair.set_reuse({"structure": reuse})
        assert pair.reuse == {} and StepCache.of(pair.structure) is None
    with pytest.raises(UserError, match="no middle generator"):
        unets.set_reuse({"middle": Reuse()})
    for told, sentence in (
        ({"decoder": {"reuse": {}}}, "only the structure and the texture pool"),
        ({"loras": {"a": {"texture": "x"}}, "texture": {"reuse": {"kind": "taylor"}}}, "leave one out"),
    ):
        with pytest.raises(ValidationError, match=sentence):
            ServeSettings.model_validate(told)
