"""One step: accumulation, weights of timesteps, and ways of computing that must not change what is computed."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pangu.config import Execution, NoiseSchedule, Optimization, Recipe
from pangu.diffusion.interval import interval_of
from pangu.diffusion.noise import NoiseLevel, add_noise, clean_from_prediction, training_target
from pangu.diffusion.training_levels import training_levels
from pangu.train.losses import LOSSES, Predicted, find_loss, min_snr_weight, objective_of
from pangu.train.randomness import Batch, draw_batch
from pangu.train.setup import initial, prepared, start
from pangu.train.step import train_step
from pangu.train.step_timer import StepTimer
from pangu.train.world import World
from tests import subtests
from tests.train.rows import plain_timesteps, random_rows, small_recipe, smallest_recipe

checks = subtests.Checks()

CPU = torch.device("cpu")


def batch_of(recipe: Recipe, size: int = 8) -> Batch:
    rows, interval = random_rows(), interval_of("structure", recipe.boundary, 1000)
    return draw_batch(rows, list(range(size)), 0, 0, 0, plain_timesteps(rows, interval), recipe.optimization)


def after_one_step(execution: Execution, recipe: Recipe | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """All weights in a row after one step, and the loss of each sample."""
    recipe = recipe or small_recipe()
    network = initial(recipe, random_rows(), "structure").train()
    parts = batch_of(recipe).split(execution.accumulate)
    model = prepared(network, execution, World())
    _, optimizer = start(network, recipe)
    result = train_step(
        model,
        optimizer,
        parts,
        8,
        objective_of(recipe.schedule, recipe.optimization),
        recipe.optimization,
        execution,
        StepTimer(CPU),
    )
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]), result.losses_b


@pytest.fixture(scope="module")
def plain() -> tuple[torch.Tensor, torch.Tensor]:
    return after_one_step(Execution())


@subtests.parametrize(
    "execution",
    [
        Execution(accumulate=2),
        Execution(accumulate=8),
        Execution(gradient_checkpointing=True),
        Execution(channels_last=True),
    ],
    ids=lambda execution: ",".join(execution.model_fields_set),
)
def test_how_a_step_is_computed_does_not_change_it(execution: Execution, plain) -> None:
    weights, losses = after_one_step(execution)
    torch.testing.assert_close(losses, plain[1], rtol=1e-5, atol=1e-6)
    # Adam divides by the size of the gradient: where that is nearly zero, rounding decides the direction.
    assert float((weights - plain[0]).abs().median()) < 1e-7
    assert float(((weights - plain[0]).abs() > 1e-5).float().mean()) < 0.01


def test_bf16_computes_nearly_the_same_losses_on_float32_weights(plain) -> None:
    weights, losses = after_one_step(Execution(precision="bf16"))
    torch.testing.assert_close(losses, plain[1], rtol=0.05, atol=0.02)
    assert not torch.equal(losses, plain[1])
    assert weights.dtype == torch.float32


def test_the_compiled_network_trains_the_weights_that_are_saved(plain) -> None:
    """Compiling itself takes minutes on a small machine; here the wrapped network runs as it is."""
    with torch.compiler.set_stance("force_eager"):
        weights, losses = after_one_step(Execution(compile=True))
    assert torch.equal(weights, plain[0])
    assert torch.equal(losses, plain[1])


KINDS = ["epsilon", "v_prediction", "flow_prediction"]


def predicted_at(kind: str, timestep: int) -> Predicted:
    """A prediction with a random error, in float64."""
    levels = training_levels(NoiseSchedule(prediction_type=kind))
    level = levels.level(torch.tensor([timestep]))
    level = NoiseLevel(level.signal.double(), level.sigma.double())
    generator = torch.Generator().manual_seed(timestep)
    clean, noise, error = (torch.randn(1, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    target = training_target(clean, noise, level, levels.prediction)
    noisy = add_noise(clean, noise, level)
    return Predicted(target + error, target, clean, noise, noisy, level, torch.tensor([timestep]), levels.prediction)


@checks
@given(timestep=st.integers(1, 999), gamma=st.floats(0.1, 20), kind=st.sampled_from(KINDS))
def min_snr_weighs_the_clean_data_loss_by_min_snr_gamma(timestep: int, gamma: float, kind: str) -> None:
    """Whatever is predicted: weight * its squared error == min(SNR, gamma) * squared error of the clean data."""
    found = predicted_at(kind, timestep)
    clean = clean_from_prediction(found.noisy_bchw, found.predicted_bchw, found.level, found.prediction)
    of_clean = float((clean - found.clean_bchw).square().mean())
    snr = float(found.level.signal / found.level.sigma) ** 2
    weighted = find_loss("min_snr", {"gamma": gamma})(found)
    assert float(weighted) == pytest.approx(min(snr, gamma) * of_clean, rel=1e-4)


@given(timestep=st.integers(1, 999), kind=st.sampled_from(KINDS))
def test_a_named_loss_is_the_error_of_that_quantity(timestep: int, kind: str) -> None:
    """Computed by hand: the prediction is turned into clean data and noise, and these into what the loss is named after."""
    found = predicted_at(kind, timestep)
    signal, sigma = float(found.level.signal), float(found.level.sigma)
    clean = clean_from_prediction(found.noisy_bchw, found.predicted_bchw, found.level, found.prediction)
    noise = (found.noisy_bchw - signal * clean) / sigma
    norm = (signal**2 + sigma**2) ** 0.5
    by_hand = {
        "prediction": found.predicted_bchw - found.target_bchw,
        "epsilon": noise - found.noise_bchw,
        "sample": clean - found.clean_bchw,
        "flow_prediction": (noise - clean) - (found.noise_bchw - found.clean_bchw),
        "v_prediction": ((signal * noise - sigma * clean) - (signal * found.noise_bchw - sigma * found.clean_bchw))
        / norm,
    }
    for name, error in by_hand.items():
        assert float(LOSSES[name](found)) == pytest.approx(float(error.square().mean()), rel=1e-4, abs=1e-9), name


@subtests.parametrize("timestep", [0, 1, 998, 999, 1000])
@subtests.parametrize("gamma", [None, 0.1, 5.0])
@subtests.parametrize(
    "schedule",
    [
        NoiseSchedule(prediction_type="v_prediction", rescale_betas_zero_snr=True),
        NoiseSchedule(prediction_type="v_prediction", beta_start=1e-6),
        NoiseSchedule(beta_start=1e-6),
        NoiseSchedule(beta_schedule="squaredcos_cap_v2"),
        NoiseSchedule(prediction_type="flow_prediction"),
    ],
    ids=["zero_snr", "v_with_little_noise", "little_noise", "cosine", "flow"],
)
def test_gradients_are_finite_at_both_ends_of_the_interval(
    schedule: NoiseSchedule, gamma: float | None, timestep: int, smallest: torch.nn.Module
) -> None:
    recipe = smallest_recipe(min_snr_gamma=gamma)
    optimizer = torch.optim.AdamW(smallest.parameters(), fused=True)
    if timestep == 1000 and not schedule.is_flow:
        return  # flows alone have a level behind the last index, which is pure noise
    timesteps = torch.full((2,), timestep, dtype=torch.float32 if schedule.is_flow else torch.int64)
    batch = replace(batch_of(recipe, 2), timestep_b=timesteps)
    result = train_step(
        smallest,
        optimizer,
        [batch],
        2,
        objective_of(schedule, recipe.optimization),
        recipe.optimization,
        Execution(),
        StepTimer(CPU),
    )
    assert torch.isfinite(torch.stack([result.loss, result.grad_norm])).all()
    assert float(result.skipped) == 0


@pytest.fixture(scope="module")
def smallest() -> torch.nn.Module:
    return initial(smallest_recipe(), random_rows(), "structure").train()


@checks
def min_snr_weights_at_the_very_ends_are_their_limits() -> None:
    """At pure noise the SNR is 0, without noise infinite; the quotients of the definition are 0 / 0 and inf / inf there."""
    ends = NoiseLevel(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]))
    assert min_snr_weight(ends, 5.0, "epsilon").tolist() == [1.0, 0.0]
    assert min_snr_weight(ends, 5.0, "v_prediction").tolist() == [0.0, 0.0]
    assert min_snr_weight(ends, 5.0, "flow_prediction").tolist() == [0.0, 0.0]


@checks
def epsilon_at_zero_terminal_snr_is_refused_when_the_recipe_is_read() -> None:
    """Its clean data at the last timestep would be 0 / 0, whatever weighs it."""
    fields = small_recipe(min_snr_gamma=5.0).model_dump()
    fields["schedule"] |= {"prediction_type": "epsilon", "rescale_betas_zero_snr": True}
    with pytest.raises(ValueError, match=r"makes the last timestep pure noise, .* set prediction_type to v_prediction"):
        Recipe.model_validate(fields)


def test_min_snr_changes_the_gradient_but_not_the_reported_loss(plain) -> None:
    recipe = small_recipe(min_snr_gamma=0.01)
    weights, losses = after_one_step(Execution(), recipe)
    torch.testing.assert_close(losses, plain[1])
    assert not torch.equal(weights, plain[0])


@checks
def a_split_batch_is_the_batch() -> None:
    batch = batch_of(small_recipe())
    parts = batch.split(4)
    for name in ("latents_bchw", "noise_bchw", "tokens_bsc", "pooled_bp", "timestep_b"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    assert {len(part) for part in parts} == {2}


@checks
def frozen_weights_stay_where_they_are() -> None:
    recipe = small_recipe()
    network = initial(recipe, random_rows(), "structure").train()
    network.conv_in.requires_grad_(False)
    before = copy.deepcopy(network.conv_in.weight)
    _, optimizer = start(network, recipe)
    settings: Optimization = recipe.optimization
    train_step(
        network, optimizer, [batch_of(recipe)], 8, objective_of(recipe.schedule, settings), settings, Execution(),
        StepTimer(CPU),
    )  # fmt: skip
    assert torch.equal(network.conv_in.weight, before)


test_step = checks.test()
