"""The fit finds what made the samples, counting agrees with counting by torch, and errors are those of what was left out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from pangu.errors import UserError
from pangu.models.denoisers import build_denoiser, denoise
from pangu.planning.calibrate import core_seconds, finished_trainings, probe, with_trainings
from pangu.planning.figures import Figures, MeasuredTraining, StageCost, StepCost, fit, left_out_errors, two_sizes
from pangu.planning.operations import Shapes, counting, parameters, step_operations, training_operations
from pangu.planning.table import error_line, figures_table
from pangu.recipes import recipe
from pangu.storage import Home, write_json
from pangu.train.job import JOB_FILE, TrainJob
from pangu.train.training_cost import SPENT_FILE, TrainingCost
from tests import subtests

checks = subtests.Checks()

costs = st.builds(StepCost, overhead_s=st.floats(1e-3, 1.0), s_per_operation=st.floats(1e-12, 1e-9))


def sample(cost: StepCost, steps: int, operations: float, factor: float = 1.0) -> MeasuredTraining:
    name = f"{steps} x {operations:.3g}"
    return MeasuredTraining(
        name=name, steps=steps, operations_per_step=operations, core_s=factor * cost.core_s(steps, operations)
    )


@checks
@given(costs)
def the_fit_finds_the_cost_that_made_the_samples(cost: StepCost) -> None:
    samples = [sample(cost, steps, operations) for steps, operations in ((10, 1e8), (700, 1e9), (30, 2e10))]
    found = fit(samples)
    for one in samples:
        assert found.core_s(one.steps, one.operations_per_step) == pytest.approx(one.core_s, rel=1e-6)
    assert max(abs(error) for error in left_out_errors(samples).values()) < 1e-6


@checks
def one_shape_alone_says_nothing_of_overhead() -> None:
    cost = StepCost(overhead_s=0.5, s_per_operation=1e-10)
    found = fit([sample(cost, 10, 1e9), sample(cost, 20, 1e9)])
    assert found.overhead_s == 0
    assert found.core_s(5, 1e9) == pytest.approx(cost.core_s(5, 1e9))


@checks
def a_prediction_is_judged_by_a_fit_that_never_saw_it() -> None:
    cost = StepCost(overhead_s=0.01, s_per_operation=1e-10)
    honest = [sample(cost, 10, operations) for operations in (1e8, 1e9, 1e10)]
    slow = sample(cost, 10, 5e9, factor=2.0).model_copy(update={"name": "slow"})
    assert left_out_errors([*honest, slow])["slow"] == pytest.approx(-0.5)


@checks
def without_samples_nothing_is_fitted() -> None:
    with pytest.raises(UserError, match="pangu calibrate"):
        fit([])


@checks
@given(st.floats(0, 10), st.floats(1e-4, 1), st.integers(1, 50), st.integers(1, 500))
def two_runs_give_start_and_share_of_an_image(start: float, image: float, few: int, more: int) -> None:
    line = two_sizes((few, start + few * image), (few + more, start + (few + more) * image))
    for count in (few, few + more, 3 * few):
        assert line.start_s + count * line.image_s == pytest.approx(start + count * image, rel=1e-6, abs=1e-6)


@checks
def noise_never_makes_a_cost_negative() -> None:
    assert two_sizes((10, 5.0), (20, 4.0)) == StageCost(start_s=0, image_s=0.2)


def test_counted_training_is_what_torch_counts() -> None:
    """Three forward passes stand for forward and backward; the first layer needs no gradient of its input."""
    tiny = recipe("tiny")
    shapes = Shapes(tiny)
    network = build_denoiser(tiny.denoiser, shapes.latent_channels, shapes.tokens, shapes.pooled)
    side = tiny.structure.resolution // 8
    with FlopCounterMode(display=False) as counter:
        text = torch.randn(1, tiny.max_tokens, shapes.tokens), torch.randn(1, shapes.pooled)
        latents = torch.randn(1, shapes.latent_channels, side, side)
        denoise(network, latents, torch.zeros(1).long(), *text, 0).sum().backward()
    assert training_operations(shapes, "structure") == pytest.approx(counter.get_total_flops(), rel=0.1)
    assert parameters(shapes, "structure") == sum(one.numel() for one in network.parameters())


@subtests.parametrize("name", ["demo", "demo_flow"])
@pytest.mark.long
def test_a_step_of_grouped_convolutions_is_counted_as_one(name: str) -> None:
    """Forward three times is an upper bound, and near; torch's own count of SANA's depthwise layers is five times as much."""
    shapes = Shapes(recipe(name))
    for role, job in shapes.recipe.jobs.items():
        counted, planned = step_operations(shapes, role, job.resolution), training_operations(shapes, role)
        assert 0.93 * planned < counted <= planned


@subtests.parametrize("groups", [1, 8])
def test_both_gradients_of_a_convolution_cost_what_it_costs_itself(groups: int) -> None:
    """By hand: 2 x outputs x multiply-adds each; the weight of 8 groups of 16 channels has 2 channels in."""
    layer = torch.nn.Conv2d(16, 16, 3, padding=1, groups=groups, device="meta")
    forward = 2 * (5 * 7) * 16 * (16 // groups * 9)
    with counting() as counter:
        layer(torch.empty(3, 16, 5, 7, device="meta", requires_grad=True)).sum().backward()
    assert counter.get_total_flops() == 3 * 3 * forward


def test_a_probe_is_real_work_and_figures_come_back_as_they_were_kept(tmp_path) -> None:
    first = probe(recipe("tiny"), "structure", 2, 2)
    assert first.core_s > 0 and first.steps == 2
    figures = Figures(
        machine="here", cores=2, step=fit([first]), samples=(first,), decode_s_per_megapixel=0.1, upscale_s_per_megapixel=1,
        **dict.fromkeys(("ingest", "prepare", "encode"), StageCost(start_s=1, image_s=0.01)),
    )  # fmt: skip
    figures.save(Home(tmp_path))
    assert Figures.load(Home(tmp_path)) == figures
    assert "GFLOP/s a core" in figures_table(figures)
    with pytest.raises(UserError, match=r"calibration\.json holds no measured figures; run `pangu calibrate`"):
        Figures.load(Home(tmp_path / "elsewhere"))


@checks
def core_seconds_are_those_of_the_work_not_of_the_waiting() -> None:
    import time

    assert core_seconds(lambda: time.sleep(0.5)) < 0.25
    assert (
        core_seconds(lambda: [np.linalg.eigvals(np.random.default_rng(0).random((200, 200))) for _ in range(5)]) > 0.01
    )


def test_trainings_that_finish_later_join_the_fit_and_the_error_is_told(tmp_path: Path) -> None:
    home, chosen = Home(tmp_path), recipe("tiny")
    cost = StepCost(overhead_s=0.02, s_per_operation=1e-10)
    probed = sample(StepCost(overhead_s=0.0, s_per_operation=3e-10), 10, 1e8)
    stage = dict.fromkeys(("ingest", "prepare", "encode"), StageCost(start_s=1, image_s=0.01))
    figures = Figures(
        machine="here", cores=2, step=fit([probed]), samples=(probed,), decode_s_per_megapixel=0.1, upscale_s_per_megapixel=1,
        **stage,
    )  # fmt: skip
    assert with_trainings(figures, home) == figures
    assert "not known" in error_line(figures)
    for role, workers in (("structure", 1), ("texture", 2)):
        folder = home.run(role)
        job = TrainJob(
            role=role, run_name=role, encode_id="e", recipe=chosen, encoded=tmp_path / "e", run_folder=folder
        )
        write_json(folder / JOB_FILE, job.model_dump(mode="json"))
        operations = chosen.training(role).batch_size / workers * training_operations(Shapes(chosen), role)
        TrainingCost(core_s=cost.core_s(50 * workers, operations), steps=50, workers=workers).save(folder)
    joined = with_trainings(figures, home)
    assert [one.name for one in joined.samples] == [probed.name, "structure", "texture"]
    assert joined.samples[2].steps == 100
    assert with_trainings(joined, home) == joined
    assert "on 3 measured trainings" in error_line(joined)
    (home.run("texture") / SPENT_FILE).write_text("12.5")  # a run that did not say of how many steps
    assert [one.name for one in finished_trainings(home)] == ["structure"]


test_figures = checks.test()
