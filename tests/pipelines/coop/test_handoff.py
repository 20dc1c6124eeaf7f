"""Algorithm 1, part 2: a low-resolution beginning, carried over in clean pixels under fresh noise."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler
from torch import Tensor
from torch.nn.functional import interpolate

from pangu.diffusion.fusion import renoised
from pangu.errors import UserError
from pangu.pipelines.coop import CoopPipeline, Handoff, Partner
from pangu.pipelines.coop.adapters import adapter_for
from pangu.pipelines.coop.bridge import Side, bridge_between, resize_pixels
from pangu.pipelines.coop.handoff import carried_over, first_call, last_call
from pangu.sampling.levels import sample_level
from tests import subtests
from tests.pipelines.coop import small
from tests.pipelines.coop.coops import close, draw, together

checks = subtests.Checks()

BIG = {"height": 32, "width": 32}


def neighbour_correlation(noise_bchw: Tensor) -> float:
    """The larger of the correlations with the right and with the lower neighbour."""
    normal = (noise_bchw - noise_bchw.mean()) / noise_bchw.std()
    right = float((normal[..., :-1] * normal[..., 1:]).mean())
    below = float((normal[..., :-1, :] * normal[..., 1:, :]).mean())
    return max(right, below, key=abs)


def test_noise_is_white_after_the_handoff_and_is_not_on_the_naive_path() -> None:
    low, high = adapter_for(small.stable_diffusion(), "low"), adapter_for(small.stable_diffusion(1), "main")
    bridge = bridge_between(Side(high, 256, 256), Side(low, 128, 128), "bilinear")
    sampler = high.sampler(10, 256, 256)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 4, 64, 64, generator=generator) for _ in range(2))
    level = sample_level(sampler.scheduler, 5)
    with torch.no_grad():
        ours = carried_over(clean, bridge, sampler, 5, (generator,))
        carried = bridge.to_main(clean)
    left = (ours - level.signal * carried) / level.sigma
    assert abs(neighbour_correlation(left)) < 0.02
    assert float(left.std()) == pytest.approx(1, abs=0.02)
    naive = interpolate(renoised(clean, noise, level), scale_factor=2, mode="bilinear")
    left = (naive - level.signal * interpolate(clean, scale_factor=2, mode="bilinear")) / level.sigma
    assert neighbour_correlation(left) > 0.3


@subtests.parametrize(
    "sampler", [DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, DPMSolverMultistepScheduler]
)
def test_a_low_model_begins_and_the_main_finishes(sampler) -> None:
    main = small.stable_diffusion()
    main.scheduler = sampler.from_config(main.scheduler.config)
    low = small.stable_diffusion(1, vae=small.vae(3))
    seen: dict[str, list[float]] = {"low": [], "main": []}
    for name, pipe in (("low", low), ("main", main)):
        pipe.unet.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(float(args[1][0])))
    coop = together(main, handoff=Handoff(low, t_low=500, height=16, width=16))
    found = draw(coop, num_inference_steps=6, **BIG)
    assert found.shape == (1, 4, 16, 16) and found.isfinite().all()
    assert max(seen["main"]) <= 500
    assert min(seen["low"][:-1]) > max(seen["main"]) and seen["low"][-1] <= max(seen["main"]) + 1
    close(draw(coop, num_inference_steps=6, **BIG), found)


@checks
def the_levels_of_both_models_meet_whatever_their_schedules() -> None:
    low, high = adapter_for(small.stable_diffusion_3(), "low"), adapter_for(small.stable_diffusion(), "main")
    ours, theirs = high.sampler(10, 32, 32), low.sampler(12, 16, 16)
    first = first_call(ours, 400)
    until = last_call(theirs, sample_level(ours.scheduler, first).log_snr)
    assert (
        sample_level(theirs.scheduler, until).log_snr
        >= sample_level(ours.scheduler, first).log_snr
        > sample_level(theirs.scheduler, until - 1).log_snr
    )


@checks
def latents_and_resolution_may_differ_at_once_and_sizes_are_free() -> None:
    main, low = small.stable_diffusion_3(), small.sdxl()
    coop = together(main, handoff=Handoff(low, t_low=600, height=22, width=30, upsample="bilinear"))
    assert draw(coop, height=44, width=60).shape == (1, 4, 22, 30)
    edges = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    controlled = together(main, handoff=Handoff(small.controlled(), t_low=600, height=16, width=16, image=edges))
    assert draw(controlled, **BIG).isfinite().all()


@checks
def the_low_stage_may_have_partners_and_so_may_the_high_one() -> None:
    low = CoopPipeline(small.stable_diffusion(2), Partner(small.ddpm(), strength=0.3))
    low.set_progress_bar_config(disable=True)
    main = small.stable_diffusion()
    coop = together(main, Partner(small.sdxl(), strength=0.4), Handoff(low, t_low=500, height=16, width=16))
    found = draw(coop, 1, 2, **BIG)
    for index, seed in enumerate((1, 2)):
        close(draw(coop, seed, **BIG), found[index : index + 1], 1e-4)
    assert not torch.equal(found[:1], draw(coop, partners=[{"strength": 0.0}], **BIG))


@subtests.parametrize("how", ["bilinear", "lanczos", "spanx2", "spanx4"])
def test_every_way_to_enlarge_gives_the_size_asked_for_and_the_same_picture(how) -> None:
    ramp = torch.linspace(-1, 1, 24).expand(1, 3, 16, 24).contiguous()
    large = resize_pixels(ramp, (36, 54), how)
    assert large.shape == (1, 3, 36, 54)
    assert (resize_pixels(large, (16, 24), None) - ramp).abs().mean() < 0.06


@subtests.parametrize(
    ("change", "sentence"),
    [
        ({"t_low": 0.5}, "leaves nothing to the high-resolution model"),
        ({"t_low": 5000}, "leaves everything"),
        ({"upsample": "magic"}, "upsample must be one of bilinear"),
        ({"height": 16, "width": 24}, "same aspect ratio"),
        ({"height": 15, "width": 15}, "low draws multiples of 2 px, not 15x15"),
        ({"low": None}, "may change"),
    ],
)
def test_bad_handoffs_get_one_sentence(change, sentence) -> None:
    coop = together(small.stable_diffusion(), handoff=Handoff(small.stable_diffusion(1), height=16, width=16))
    with pytest.raises(UserError, match=sentence):
        draw(coop, handoff=change, **BIG)


test_handoff = checks.test()
