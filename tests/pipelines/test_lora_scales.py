"""An adapter on either half of a pair, each with a scale of its own that travels with the trajectory."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pangu.config import ROLES, LoraConfig
from pangu.errors import UserError
from pangu.models.lora import add_lora, has_lora, save_lora
from pangu.pipelines.pangu_draw import PanGuDrawPipeline
from pangu.sampling.trajectory import Trajectory
from tests.pipelines.drawing import draw, seeds

CLOSE: dict[str, float] = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def adapters(shared_pair, tmp_path_factory) -> dict[str, Path]:
    """An adapter folder for each half, that does something."""
    folders = {}
    for number, role in enumerate(ROLES):
        unet = copy.deepcopy(shared_pair.generator(role))
        add_lora(unet, LoraConfig(rank=4, alpha=4), seed=number)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            for name, parameter in unet.named_parameters():
                if "lora_B" in name:
                    parameter.data = 0.5 * torch.randn(parameter.shape)
        folders[role] = tmp_path_factory.mktemp(role)
        save_lora(unet, shared_pair.contract(role), folders[role])
    return folders


@pytest.fixture
def own(shared_pair) -> PanGuDrawPipeline:
    """A pair whose networks a test may change."""
    components = shared_pair.components | {role: copy.deepcopy(shared_pair.generator(role)) for role in ROLES}
    return PanGuDrawPipeline(
        **components, contracts=dict(shared_pair.config.contracts), hidden_layers=shared_pair.config.hidden_layers
    )


def started(pair: PanGuDrawPipeline, **scales: float) -> Trajectory:
    options = {"height": 96, "width": 96, "num_inference_steps": 6, "guidance_scale": 3.0, "generators": seeds(1)}
    return pair.start(pair.encode_prompt(["fox"]), lora_scales=scales, **options)


def test_scale_zero_equals_no_adapter(own, adapters) -> None:
    plain = draw(own)
    own.load_lora(**adapters)
    assert torch.equal(draw(own, lora_scales={"structure": 0.0, "texture": 0.0}), plain)
    assert not torch.allclose(draw(own), plain, atol=1e-3)
    own.unload_lora()
    assert torch.equal(draw(own), plain)


@pytest.mark.parametrize("scales", [{}, {"structure": 0.8, "texture": 0.3}], ids=str)
def test_scales_equal_weights_fused_at_those_scales(own, adapters, scales) -> None:
    own.load_lora(**adapters)
    adapted = draw(own, lora_scales=scales)
    own.fuse_lora(scales)
    assert not any(has_lora(own.generator(role)) for role in ROLES)
    torch.testing.assert_close(draw(own), adapted, **CLOSE)


def scaled(trajectory: Trajectory, **scales: float) -> Trajectory:
    told = trajectory.condition
    return replace(trajectory, condition=replace(told, facts={**told.facts, "lora_scales": scales}))


def test_each_scale_acts_on_its_own_half_only(own, adapters) -> None:
    own.load_lora(**adapters)
    first, second, third = (
        own.advance(started(own, structure=structure, texture=texture), "structure")
        for structure, texture in ((0.5, 1.0), (0.5, 0.0), (1.0, 1.0))
    )
    assert torch.equal(first.latents_bchw, second.latents_bchw), "the texture scale does not touch structure"
    assert not torch.equal(first.latents_bchw, third.latents_bchw)
    other, silent = (scaled(first.to("cpu"), structure=s, texture=t) for s, t in ((0.1, 1.0), (0.5, 0.0)))
    full = own.advance(first, "texture").latents_bchw
    assert torch.equal(own.advance(other, "texture").latents_bchw, full), "nor the structure scale texture"
    assert not torch.equal(own.advance(silent, "texture").latents_bchw, full)


def test_interleaved_trajectories_keep_their_own_scales(own, adapters) -> None:
    own.load_lora(**adapters)
    alone = [draw(own, ["fox"], seeds(1), num_inference_steps=6, lora_scales={"structure": s}) for s in (0.2, 0.9)]
    walks = [own.advance(started(own, structure=scale), "structure") for scale in (0.2, 0.9)]
    ends = [own.advance(walk, "texture").latents_bchw for walk in walks]
    assert all(torch.equal(own.decode(end, "pt"), image) for end, image in zip(ends, alone, strict=True))


def test_one_half_can_have_an_adapter_alone(own, adapters) -> None:
    own.load_lora(texture=adapters["texture"])
    assert has_lora(own.texture) and not has_lora(own.structure)
    with pytest.raises(UserError, match="lora_scales gives structure a scale, but it has no adapter"):
        draw(own, lora_scales={"structure": 0.5})
    with pytest.raises(UserError, match="lora_scales may name structure, texture, not 'unet'"):
        draw(own, lora_scales={"unet": 0.5})


def test_an_adapter_on_the_wrong_half_is_refused_and_nothing_is_loaded(own, adapters) -> None:
    with pytest.raises(UserError, match=r"trained for t in \[500, 1000\) \(structure\), but the texture generator"):
        own.load_lora(structure=adapters["structure"], texture=adapters["structure"])
    assert not any(has_lora(own.generator(role)) for role in ROLES)


def test_a_pair_with_adapters_is_saved_only_once_they_are_fused(own, adapters, tmp_path) -> None:
    own.load_lora(**adapters)
    with pytest.raises(UserError, match="The structure generator has an adapter; call fuse_lora or unload_lora"):
        own.save_pretrained(tmp_path)
    own.fuse_lora()
    own.save_pretrained(tmp_path)
    torch.testing.assert_close(draw(PanGuDrawPipeline.from_pretrained(tmp_path)), draw(own), **CLOSE)
