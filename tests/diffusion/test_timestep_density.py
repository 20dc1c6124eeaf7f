"""Densities of timesteps: inverses of one another, and those of the paper."""

import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pangu.config import NoiseSchedule
from pangu.diffusion.timestep_density import TimestepDensity
from tests import subtests

densities = st.one_of(
    st.builds(TimestepDensity, st.just(1000), st.just("uniform"), shift=st.floats(0.05, 20)),
    st.builds(
        TimestepDensity,
        st.just(1000),
        st.just("logit_normal"),
        st.floats(-1, 1),
        st.floats(0.3, 3),
        shift=st.floats(0.2, 8),
    ),
    st.builds(TimestepDensity, st.just(1000), st.just("mode"), mode_scale=st.floats(-1, 1.7), shift=st.floats(0.2, 8)),
)


@given(densities, st.floats(0.001, 0.999))
def test_a_share_of_draws_lies_below_its_timestep(density: TimestepDensity, share: float) -> None:
    assert density.share_below(density.timestep(share)) == pytest.approx(share, abs=1e-6)


@given(densities)
def test_shares_rise_from_none_to_all(density: TimestepDensity) -> None:
    shares = [density.share_below(t) for t in np.linspace(0, 1000, 101)]
    assert (shares[0], shares[-1]) == (0, 1)
    assert (np.diff(shares) >= 0).all()
    assert (density.timestep(0.0), density.timestep(1.0)) == (0, pytest.approx(1000))


@subtests.parametrize(
    ("sampling", "arguments"),
    [("logit_normal", {"logit_mean": 0.4, "logit_std": 1.3}), ("mode", {"mode_scale": 1.29})],
)
def test_draws_are_those_of_diffusers_training_scripts(sampling: str, arguments: dict) -> None:
    theirs = compute_density_for_timestep_sampling(
        sampling, 20_000, **({"logit_mean": None, "logit_std": None, "mode_scale": None} | arguments),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    density = TimestepDensity(1000, sampling, **arguments)  # type: ignore[arg-type]
    found = stats.kstest(theirs.double().numpy() * 1000, np.vectorize(density.share_below))
    assert found.pvalue > 0.001, found


@subtests.parametrize(
    "schedule",
    [
        NoiseSchedule(prediction_type="flow_prediction", shift=3.0),
        NoiseSchedule(prediction_type="flow_prediction", use_dynamic_shifting=True),
    ],
    ids=["shift", "dynamic"],
)
def test_the_shift_is_that_of_diffusers_scheduler(schedule: NoiseSchedule) -> None:
    """Ours of evenly spread shares are its timesteps, for latents of 64 x 96: mu is linear in 1,536 patches."""
    names = ("num_train_timesteps", "shift", "use_dynamic_shifting", "base_shift", "max_shift")
    scheduler = FlowMatchEulerDiscreteScheduler(**{name: getattr(schedule, name) for name in names})
    mu = 0.5 + (1536 - 256) / (4096 - 256) * (1.15 - 0.5)
    sigmas = np.linspace(1, 0.01, 10)
    scheduler.set_timesteps(sigmas=sigmas.tolist(), mu=mu if schedule.use_dynamic_shifting else None)
    density = TimestepDensity(1000, shift=schedule.shift_at(64, 96))
    assert [density.timestep(s) for s in sigmas] == pytest.approx(scheduler.timesteps.tolist(), rel=1e-5)
    assert math.isclose(NoiseSchedule().shift_at(64, 96), 1.0)
