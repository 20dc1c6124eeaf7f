"""Losses that others bring: the example of the documentation, and what is refused."""

import re
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

from pangu.config import NoiseSchedule, Optimization
from pangu.diffusion.interval import TimeInterval
from pangu.diffusion.noise import NoiseLevel, Prediction
from pangu.diffusion.training_levels import training_levels
from pangu.errors import UserError
from pangu.train.loop import train_loop
from pangu.train.losses import Objective, Predicted, find_loss, objective_of, squared_error
from pangu.train.randomness import draw_batch
from pangu.train.setup import initial, start
from pangu.train.step import train_step
from pangu.train.step_timer import StepTimer
from tests import subtests
from tests.train.rows import plain_timesteps, random_rows, smallest_recipe

checks = subtests.Checks()

DOCUMENT = Path(__file__).parents[2] / "docs" / "training.md"


def example(language: str) -> str:
    """The block of that language under the heading of the loss."""
    section = DOCUMENT.read_text().split("\n## The loss\n")[1].split("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found.group(1)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's package, as an installer leaves it."""
    (tmp_path / "my_losses.py").write_text(example("python"))
    named = tomllib.loads(example("toml"))["project"]["entry-points"]["pangu.losses"]
    points = [f"{name} = {value}" for name, value in named.items()] + ["broken = my_losses:absent"]
    metadata = tmp_path / "my_losses-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-losses\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("\n".join(["[pangu.losses]", *points]) + "\n")
    monkeypatch.syspath_prepend(tmp_path)


def some() -> Predicted:
    predicted, target, clean, noise = torch.randn(4, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    level = NoiseLevel(torch.tensor([0.9, 0.5, 0.0]), torch.tensor([0.1, 0.5, 1.0]))
    return Predicted(
        3 * predicted, target, clean, noise, noise, level, torch.tensor([100, 500, 1000]), Prediction("epsilon")
    )


def test_the_example_of_the_documentation_is_found_by_its_name(installed: None) -> None:
    settings = Optimization(**yaml.safe_load(example("yaml"))["optimization"])
    found, given = objective_of(NoiseSchedule(), settings).loss(some()), some()
    error = (given.predicted_bchw - given.target_bchw).abs()
    huber = torch.where(error < 0.5, error**2 / 2, 0.5 * (error - 0.25))
    torch.testing.assert_close(found, huber.mean((1, 2, 3)) * torch.tensor([0.1, 0.5, 1.0]))


def test_a_recipe_trains_with_it_and_reports_the_squared_error(installed: None, tmp_path: Path) -> None:
    rows = random_rows()
    plain = train_loop("structure", smallest_recipe(), rows, "x", tmp_path / "plain")
    recipe = smallest_recipe(loss="huber", loss_options={"delta": 0.5})
    found = train_loop("structure", recipe, rows, "x", tmp_path / "huber")
    assert found.loss == pytest.approx(plain.loss, rel=0.05)
    pairs = zip(plain.denoiser.parameters(), found.denoiser.parameters(), strict=True)
    assert not all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert recipe.learning_digest() != smallest_recipe().learning_digest()


@checks
def a_loss_that_nobody_brings_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"There is no loss 'huber'; known are prediction, epsilon, .* group pangu.losses"
    ):
        find_loss("huber", {})


def test_a_loss_that_cannot_be_imported_is_refused(installed: None) -> None:
    with pytest.raises(UserError, match=r"The loss 'broken' \(my_losses:absent\) can not be imported"):
        find_loss("broken", {})


@checks
def options_that_do_not_fit_are_refused() -> None:
    for options in ({"delta": 1.0}, {"gamma": 1.0, "more": 2.0}):
        with pytest.raises(UserError, match="loss_options do not fit the loss 'min_snr'"):
            find_loss("min_snr", options)
    with pytest.raises(UserError, match="loss_options do not fit the loss 'prediction'"):
        find_loss("prediction", {"gamma": 1.0})


@checks
def min_snr_gamma_is_short_for_the_loss_of_that_name() -> None:
    short, long = Optimization(min_snr_gamma=2.0), Optimization(loss="min_snr", loss_options={"gamma": 2.0})
    one, other = (objective_of(NoiseSchedule(), settings).loss(some()) for settings in (short, long))
    assert torch.equal(one, other)
    assert objective_of(NoiseSchedule(), Optimization()).loss is squared_error
    with pytest.raises(ValueError, match="give one of the two"):
        Optimization(min_snr_gamma=2.0, loss="epsilon")


def test_a_loss_of_the_whole_batch_is_refused() -> None:
    """Its gradient would be too small by the size of the batch, and nothing would say so."""
    recipe, rows = smallest_recipe(), random_rows()
    network = initial(recipe, rows, "structure").train()
    _, optimizer = start(network, recipe)
    batch = draw_batch(rows, [0, 1], 0, 0, 0, plain_timesteps(rows, TimeInterval(500, 1000)), recipe.optimization)
    objective = Objective(training_levels(recipe.schedule), lambda predicted: squared_error(predicted).mean())
    with pytest.raises(UserError, match=r"one number for each of 2 samples, not shape \(\)"):
        train_step(
            network,
            optimizer,
            [batch],
            2,
            objective,
            recipe.optimization,
            recipe.execution,
            StepTimer(torch.device("cpu")),
        )


test_losses = checks.test()
