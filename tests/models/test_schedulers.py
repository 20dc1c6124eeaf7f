"""Samplers against networks that know the answer: each step ends at the sampler's next timestep, the last one without noise."""

import itertools
from collections.abc import Iterable
from typing import Any

import diffusers
import pytest
import torch

from pangu.config import NoiseSchedule, Role
from pangu.diffusion.interval import steps_per_role
from pangu.diffusion.training_levels import alpha_bars
from pangu.errors import UserError
from pangu.models.schedulers import (
    SAMPLERS,
    check_halves,
    check_schedule,
    fresh_scheduler,
    least_steps,
    named_sampler,
    sampler,
)
from tests import closed_forms as noise
from tests import subtests

checks = subtests.Checks()

SPACINGS = ("trailing", "leading", "linspace")
COUNTS = (1, 2, 3, 7, 19, 20, 33, 49, 60, 61, 97, 103, 121, 122, 170, 199, 200)
"""Divisors of 1000 and others; at 61, 103, 121 and 122 diffusers' trailing spacing has a timestep too many."""
EPSILON, VELOCITY = NoiseSchedule(), NoiseSchedule(prediction_type="v_prediction")
ZERO_SNR = NoiseSchedule(prediction_type="v_prediction", rescale_betas_zero_snr=True)


def configured(name: str, schedule: NoiseSchedule, spacing: str = "trailing") -> Any:
    return SAMPLERS[name].from_config(sampler(schedule).config, timestep_spacing=spacing)


def walk(
    scheduler: Any, schedule: NoiseSchedule, clean: torch.Tensor, eps: torch.Tensor, network: Any
) -> Iterable[Any]:
    """(alpha_bar of the timestep, the sample that the network is shown) of each call, and last (None, the sample at the end).

    network: (noisy, alpha_bar) -> the noise it sees.
    """
    table, scaled = alpha_bars(schedule), scheduler.scale_model_input
    first = table[int(scheduler.timesteps[0])].reshape(1)  # an index with every spacing
    # Schedulers differ in the scale of their samples, but all say how one becomes the input of the network.
    unit = scaled(torch.ones(1), scheduler.timesteps[0])
    sample = noise.add_noise(clean, eps, first) / unit
    for t in scheduler.timesteps:
        alpha_bar = (
            table[int(t)].reshape(1) if float(t).is_integer() else torch.tensor([noise.alpha_bar_at(table, float(t))])
        )
        noisy = scaled(sample, t)
        yield alpha_bar, noisy
        seen = network(noisy, alpha_bar)
        predicted = seen
        if schedule.prediction_type == "v_prediction":
            predicted = noise.velocity(noise_free(noisy, seen, alpha_bar, clean), seen, alpha_bar)
        sample = scheduler.step(predicted, t, sample, return_dict=False)[0]
    yield None, sample


def noise_free(noisy: torch.Tensor, eps: torch.Tensor, alpha_bar: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    return clean if float(alpha_bar) == 0 else noise.clean_from_epsilon(noisy, eps, alpha_bar)


def images(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    clean, eps = torch.randn(2, 1, 1, 8, 8, generator=source)
    return clean, eps


def check_walk(name: str, spacing: str, steps: int, schedule: NoiseSchedule) -> None:
    """With a network that knows x0, every sample is x0 under noise of exactly the level of its timestep."""
    clean, eps = images()
    scheduler = fresh_scheduler(configured(name, schedule, spacing), steps)

    def knows(noisy: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
        return noise.epsilon_from_clean(noisy, clean, alpha_bar)

    *steps_taken, (_, end) = walk(scheduler, schedule, clean, eps, knows)
    where = f"{name}, {spacing}, {steps} steps"
    for step, (alpha_bar, noisy) in enumerate(steps_taken):
        if name == "euler_ancestral":  # new noise at each step, of the same strength
            assert 0.6 < float(knows(noisy, alpha_bar).std()) < 1.5, f"{where}: step {step}"
        else:
            expected = noise.add_noise(clean, eps, alpha_bar)
            torch.testing.assert_close(
                noisy, expected, atol=2e-3, rtol=0, msg=f"{where}: step {step} is at another level"
            )
    torch.testing.assert_close(end, clean, atol=2e-3, rtol=0, msg=f"{where} end in noise")


def timesteps_are_sound(name: str, spacing: str, steps: int) -> None:
    scheduler = fresh_scheduler(configured(name, EPSILON, spacing), steps)
    own = scheduler.timesteps.tolist()
    distinct = list(dict.fromkeys(own))
    assert len(distinct) == steps == scheduler.num_inference_steps, f"{name}, {spacing}, {steps} steps"
    assert len(own) == (2 * steps - 1 if name == "heun" else steps)
    assert own == sorted(own, reverse=True) and own[0] <= 999 and own[-1] >= 0


@pytest.mark.long
@subtests.parametrize("name", sorted(SAMPLERS))
def test_every_step_ends_at_the_next_timestep_and_the_last_one_without_noise(name: str) -> None:
    for spacing, steps in itertools.product(SPACINGS, range(1, 201)):
        timesteps_are_sound(name, spacing, steps)
    for spacing in SPACINGS:
        for steps in COUNTS if spacing == "trailing" else COUNTS[1::4]:
            check_walk(name, spacing, steps, EPSILON)
    for schedule in (VELOCITY, ZERO_SNR):
        if name == "heun" and schedule is ZERO_SNR:
            with pytest.raises(UserError, match="HeunDiscreteScheduler does not sample over the noise levels"):
                check_schedule(configured(name, schedule), schedule)
            continue
        for steps in (2, 20, 61):
            check_walk(name, "trailing", steps, schedule)


@pytest.mark.long
@subtests.parametrize("name", sorted(SAMPLERS))
def test_it_does_so_at_every_count(name: str) -> None:
    for spacing, steps in itertools.product(SPACINGS, range(1, 201)):
        check_walk(name, spacing, steps, EPSILON)


@subtests.parametrize("name", sorted(set(SAMPLERS) - {"euler_ancestral"}))
def test_more_steps_come_nearer_to_the_exact_solution(name: str) -> None:
    """Of the probability flow of Gaussian data, N(mean, spread^2): x_t = a mean + sqrt(a^2 spread^2 + b^2) z, one z for all t."""
    schedule, (mean, z) = EPSILON, images(1)
    spread = torch.linspace(0.05, 2, 64).reshape(1, 1, 8, 8)

    def sees(noisy: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
        signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        return sigma * (noisy - signal * mean) / (signal**2 * spread**2 + sigma**2)

    def error(steps: int) -> float:
        scheduler = fresh_scheduler(configured(name, schedule), steps)
        first = alpha_bars(schedule)[999]
        # The clean image and noise whose mixture is x_999; `walk` asks for both.
        noisy = first.sqrt() * mean + (first * spread**2 + 1 - first).sqrt() * z
        eps = (noisy - first.sqrt() * mean) / (1 - first).sqrt()
        end = list(walk(scheduler, schedule, mean, eps, sees))[-1][1]
        return float((end - (mean + spread * z)).square().mean().sqrt())

    errors = {steps: error(steps) for steps in (10, 20, 60, 61, 170, 200)}
    assert errors[20] < errors[10] and errors[170] < errors[20], errors
    # 4 further steps may not cost what 110 gained: no count stands out.
    assert max(errors[60], errors[61]) < errors[20] and errors[170] < 1.5 * errors[200] + 1e-3, errors


@subtests.parametrize("kind", [diffusers.DDIMScheduler, diffusers.DDIMParallelScheduler])
def test_where_diffusers_aims_right_the_bits_are_its_own(kind: Any) -> None:
    for steps, spacing, options in [
        *((steps, "trailing", {}) for steps in (1, 2, 4, 8, 20, 25, 50, 125, 1000)),
        *((steps, "leading", {"steps_offset": 1, "set_alpha_to_one": False}) for steps in (3, 20, 60)),
        (20, "trailing", {"clip_sample": True}),
    ]:
        theirs = kind.from_config(sampler(VELOCITY).config, timestep_spacing=spacing, **options)
        ours = fresh_scheduler(theirs, steps)
        theirs.set_timesteps(steps)
        assert torch.equal(ours.timesteps, theirs.timesteps)
        samples, source = images()[:1] * 2, torch.Generator().manual_seed(5)
        for t in theirs.timesteps[:25]:
            predicted = torch.randn(1, 1, 8, 8, generator=source)
            noises = [{"eta": 0.5, "generator": torch.Generator().manual_seed(6)} for _ in samples]
            samples = tuple(
                scheduler.step(predicted, t, sample, **own, return_dict=False)[0]
                for scheduler, sample, own in zip((ours, theirs), samples, noises, strict=True)
            )
            assert torch.equal(*samples), f"{steps} steps, {spacing}, t = {int(t)}"


@checks
def a_fresh_scheduler_says_what_it_is_and_leaves_the_given_one_as_it_was() -> None:
    given = sampler(EPSILON)
    before = given.timesteps.clone()
    fresh = fresh_scheduler(given, 60)
    assert type(given) is diffusers.DDIMScheduler and given.num_inference_steps is None
    assert torch.equal(given.timesteps, before)
    assert type(fresh).__name__ == "DDIMScheduler" and isinstance(fresh, diffusers.DDIMScheduler)
    assert dict(fresh.config) == dict(given.config)
    own = fresh_scheduler(given, 3, timesteps=[900, 500, 10])
    assert own.timesteps.tolist() == [900, 500, 10]
    for timesteps, sentence in (([10, 500], "timesteps must fall"), ([1000, 4], r"has timesteps 4 \.\.\. 1000")):
        with pytest.raises(UserError, match=sentence):
            fresh_scheduler(given, 2, timesteps=timesteps)


def test_a_scheduler_that_can_not_walk_is_refused_in_a_sentence() -> None:
    trained = sampler(EPSILON)
    for steps, change, sentence in [
        (60, {"name": "PNDMScheduler"}, "PNDMScheduler steps by 1000 // 60 and misses its own timesteps"),
        (1, {"name": "DDIMInverseScheduler"}, "walks up to t = 999, from images to noise"),
        (20, {"name": "RePaintScheduler"}, "has no step from a prediction, a timestep and a sample alone"),
        (1001, {"name": "DDIMScheduler"}, "DDIMScheduler can not take 1001 steps"),
        (0, {"name": "DDIMScheduler"}, "DDIMScheduler needs at least 1 step, not 0"),
    ]:
        kind = getattr(diffusers, change["name"])
        with pytest.raises(UserError, match=sentence):
            fresh_scheduler(kind.from_config(trained.config), steps)
    # from_config keeps values that a class makes no use of, so its config alone would pass.
    levels = "does not sample over the noise levels"
    for name, sentence in (
        ("EDMEulerScheduler", levels),
        ("FlowMatchEulerDiscreteScheduler", "samples models that predict flows"),
        ("CogVideoXDDIMScheduler", levels),
        ("IPNDMScheduler", levels),
    ):
        with pytest.raises(UserError, match=f"{name} {sentence}"):
            check_schedule(getattr(diffusers, name).from_config(trained.config), EPSILON)


@checks
def zero_terminal_snr_needs_velocities() -> None:
    broken = EPSILON.model_copy(update={"rescale_betas_zero_snr": True})
    with pytest.raises(
        UserError, match=r"cannot be used: schedule\.rescale_betas_zero_snr makes the last timestep pure noise"
    ):
        check_schedule(diffusers.DDIMScheduler(**broken.model_dump()), broken)
    check_schedule(sampler(ZERO_SNR), ZERO_SNR)


def halves_at(boundary: int) -> dict[Role, float]:
    return {"structure": boundary, "texture": 0}


@subtests.parametrize("spacing", SPACINGS)
def test_the_least_number_of_steps_is_the_first_that_gives_each_half_one(spacing: str) -> None:
    for name, boundary in itertools.product(("ddim", "heun"), (40, 500, 900)):
        scheduler = configured(name, EPSILON, spacing)
        least = least_steps(scheduler, halves_at(boundary))
        taken = [
            steps_per_role(fresh_scheduler(scheduler, n).timesteps, halves_at(boundary)) for n in range(1, least + 1)
        ]
        assert [all(halves.values()) for halves in taken] == [False] * (least - 1) + [True]
        assert sum(taken[-1].values()) == len(fresh_scheduler(scheduler, least).timesteps)
        # An edit that begins at the boundary needs texture alone.
        edited = least_steps(scheduler, halves_at(boundary), strength=boundary / 1000)
        assert edited <= least and min(fresh_scheduler(scheduler, edited).timesteps) < boundary


@checks
def a_half_without_a_step_is_named_with_the_least_number() -> None:
    assert least_steps(sampler(EPSILON), halves_at(500)) == 2
    with pytest.raises(
        UserError, match=r"num_inference_steps = 1 leaves no step to the texture.* each half one is 2\."
    ):
        check_halves(fresh_scheduler(sampler(EPSILON), 1), halves_at(500))
    with pytest.raises(UserError, match=r"= 9 leaves no step to the texture.* each half one is 24\."):
        check_halves(fresh_scheduler(named_sampler("euler", sampler(EPSILON)), 9), halves_at(42))
    check_halves(fresh_scheduler(sampler(EPSILON), 2), halves_at(500))


test_schedulers = checks.test()
