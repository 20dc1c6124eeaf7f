"""A pair whose halves predict flows is drawn, handed over, edited and cooperates like any other."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

from pangu.config import NoiseSchedule
from pangu.errors import UserError
from pangu.models.schedulers import named_sampler, sampler
from pangu.pipelines import CoopPipeline, PanGuDrawPipeline, Partner
from pangu.pipelines.assemble import untrained_pair
from pangu.recipes import tiny
from pangu.sampling.condition import text_condition
from pangu.sampling.entering import start_from_clean
from pangu.sampling.question import DenoiserModel
from pangu.sampling.sampling_state import SamplingState
from pangu.sampling.sampling_step import walk
from pangu.sampling.trajectory import Trajectory
from tests import subtests
from tests.pipelines.coop import small
from tests.pipelines.drawing import draw, seeds

FLOW = NoiseSchedule(prediction_type="flow_prediction", shift=3.0)


def flow_pair(**schedule: Any) -> PanGuDrawPipeline:
    pair = untrained_pair(tiny().model_copy(update={"schedule": FLOW.model_copy(update=schedule)}))
    pair.set_progress_bar_config(disable=True)
    return pair


@pytest.fixture(scope="module")
def flows() -> PanGuDrawPipeline:
    return flow_pair()


def test_each_half_is_asked_in_its_own_interval_pure_noise_included(flows: PanGuDrawPipeline) -> None:
    asked: dict[str, list[float]] = {"structure": [], "texture": []}
    hooks = [
        flows.generator(role).register_forward_pre_hook(
            lambda _, given, role=role: asked[role].append(float(given[1][0]))
        )
        for role in asked
    ]
    picture = draw(flows, num_inference_steps=6)
    for hook in hooks:
        hook.remove()
    assert picture.isfinite().all()
    assert asked["structure"][0] == 1000 and min(asked["structure"]) >= 500 > max(asked["texture"])
    assert len(asked["structure"]) + len(asked["texture"]) == 6


def test_the_boundary_changes_nothing_between_equal_halves(flows: PanGuDrawPipeline) -> None:
    """The same network on both sides: a hand-over through another process ends in the bits of one walk."""
    whole = draw(flows, ["fox"], seeds(1), output_type="latent")
    with torch.inference_mode():
        start = flows.start(
            flows.encode_prompt("fox"),
            height=96,
            width=96,
            num_inference_steps=5,
            guidance_scale=3.0,
            generators=seeds(1),
        )
        parts = flows.advance(flows.advance(start, "structure").to("cpu"), "texture")
    assert torch.equal(parts.latents_bchw, whole)


@subtests.parametrize("kind", [FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler])
@subtests.parametrize("entered", [False, True])
def test_an_oracle_of_the_flow_ends_at_the_clean_picture(kind: type, entered: bool) -> None:
    clean, noise = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    scheduler: Any = kind(shift=3.0)
    scheduler.set_timesteps(8)
    text = torch.zeros(1, 1, 1), torch.zeros(1, 1)
    begun = Trajectory(noise, scheduler.timesteps, 0, scheduler, text_condition(*text, *text))
    if entered:
        begun = start_from_clean(begun, 500, clean, noise)
        assert 0 < begun.step < 8 * scheduler.order and begun.timestep < 500
    state = walk(SamplingState(DenoiserModel(lambda *_: noise - clean), begun))
    torch.testing.assert_close(state.trajectory.latents_bchw, clean, rtol=0, atol=1e-4)
    assert state.last is not None
    torch.testing.assert_close(state.last.clean_bchw, clean, rtol=0, atol=1e-4)


def test_it_is_saved_loaded_and_shifted_by_its_size(tmp_path: Any) -> None:
    pair = flow_pair(shift=1.0, use_dynamic_shifting=True, base_shift=0.4, base_image_seq_len=16)
    pair.save_pretrained(tmp_path)
    again = PanGuDrawPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    torch.testing.assert_close(draw(again), draw(pair), rtol=0, atol=1e-5)
    alone = CoopPipeline(pair)
    torch.testing.assert_close(draw(alone, guidance_scale=3.0), draw(pair, guidance_scale=3.0), rtol=0, atol=1e-4)
    said = pair.encode_prompt("fox")
    begun = pair.start(said, height=96, width=96, num_inference_steps=4, guidance_scale=1.0)
    plain = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    mu = torch.tensor(pair.reference.schedule.shift_at(12, 12)).log().item()
    plain.set_timesteps(4, mu=mu)
    torch.testing.assert_close(begun.timesteps, plain.timesteps)


def test_it_cooperates_with_a_model_that_predicts_noise(flows: PanGuDrawPipeline) -> None:
    alone = draw(flows, ["fox"], seeds(1), guidance_scale=3.0)
    for coop in (CoopPipeline(flows, Partner(small.stable_diffusion(), strength=0.4)), CoopPipeline(flows)):
        coop.set_progress_bar_config(disable=True)
        found = draw(coop, ["fox"], seeds(1), guidance_scale=3.0)
        assert found.isfinite().all()
        assert torch.allclose(found, alone, atol=1e-4) == (not coop.partners)


def test_samplers_of_another_kind_are_refused(flows: PanGuDrawPipeline) -> None:
    noise = untrained_pair(tiny())
    with pytest.raises(
        UserError, match="predict flows, but DDIMScheduler samples models that predict noise or velocity"
    ):
        PanGuDrawPipeline(**{**flows.components, "scheduler": DDIMScheduler()}, contracts=dict(flows.config.contracts))
    with pytest.raises(UserError, match="predict noise or velocity, but FlowMatchEulerDiscreteScheduler samples"):
        PanGuDrawPipeline(**{**noise.components, "scheduler": sampler(FLOW)}, contracts=dict(noise.config.contracts))
    assert type(named_sampler("heun", flows.scheduler)) is FlowMatchHeunDiscreteScheduler
    with pytest.raises(UserError, match="There is no scheduler 'unipc'; use euler, heun"):
        named_sampler("unipc", flows.scheduler)
    with pytest.raises(UserError, match=r"step at t = 1001, but the generators know t in \[0, 1000\]"):
        draw(flows, timesteps=[1001.0, 300.0])
