"""Guidance against its closed forms, with a denoiser whose prediction is known."""

import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from pangu.diffusion.guidance import classifier_free_guidance, style_guidance
from pangu.sampling.condition import Style, text_condition
from pangu.sampling.question import DenoiserModel, Networks, answered
from pangu.sampling.sampling_state import SamplingState
from pangu.sampling.sampling_step import sampling_step
from pangu.sampling.trajectory import Trajectory
from tests import subtests

checks = subtests.Checks()

scales = st.floats(-10, 10)


def noise(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@checks
@given(scale=scales, pulls=st.lists(scales, max_size=3))
def style_guidance_is_the_sum_of_the_paper(scale: float, pulls: list[float]) -> None:
    null, caption, styled = noise(0), noise(1), [noise(2 + i) for i in range(len(pulls))]
    guided = style_guidance(classifier_free_guidance(null, caption, scale), caption, styled, pulls)
    expected = null + scale * (caption - null) + sum(s * (one - caption) for s, one in zip(pulls, styled, strict=True))
    torch.testing.assert_close(guided, expected)


@checks
def without_styles_nothing_is_added() -> None:
    guided = noise(0)
    assert style_guidance(guided, noise(1), [], []) is guided


@checks
@given(scale=scales)
def a_style_that_says_nothing_new_pulls_nowhere(scale: float) -> None:
    assert torch.equal(style_guidance(noise(0), noise(1), [noise(1)], [scale]), noise(0))


def walking(guidance_scale: float, pulls: list[float]) -> Trajectory:
    """Two prompts whose tokens are all 2, styles whose tokens are all 10, 11, ...; the null caption's are 1."""

    def text(value: float) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((2, 5, 7), value), torch.full((2, 3), value)

    styles = [Style(dict(zip(("tokens", "pooled"), text(10.0 + i), strict=True)), pull) for i, pull in enumerate(pulls)]
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(4)
    condition = text_condition(*text(2.0), *text(1.0), styles, guidance_scale=guidance_scale)
    return Trajectory(torch.zeros(2, 3, 4, 4), scheduler.timesteps, 0, scheduler, condition)


@given(scale=st.sampled_from([0.0, 0.5, 1.0, 7.5]), pulls=st.lists(scales, max_size=3))
def test_all_parts_of_the_guidance_are_one_network_call(scale: float, pulls: list[float]) -> None:
    """A scale of at most 1 is the caption alone, as in diffusers, and spares the null caption."""
    trajectory, calls = walking(scale, pulls), []

    def echo(noisy, timestep, tokens, pooled):
        calls.append(len(noisy))
        assert len(noisy) == len(timestep) == len(tokens) == len(pooled)
        return tokens[:, :1, :1, None] + noisy

    step = answered(sampling_step(SamplingState(DenoiserModel(echo), trajectory)), Networks())
    prediction = step.prediction_bchw
    guided = scale > 1
    strength = scale if guided else 1.0
    base = 1 + scale * (2 - 1) if guided else 2.0
    expected = base + strength * sum(pull * (10 + i - 2) for i, pull in enumerate(pulls))
    torch.testing.assert_close(prediction, torch.full((2, 3, 4, 4), expected), rtol=1e-4, atol=1e-4)
    assert calls == [2 * (guided + 1 + len(pulls))]


test_guidance = checks.test()
