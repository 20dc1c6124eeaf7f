"""The training loop on a GPU: resumed to the same bits, waiting for nothing, and one sentence where the memory is full."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pangu.config import Execution, Recipe
from pangu.diffusion.interval import TimeInterval
from pangu.errors import UserError
from pangu.train.loop import Hooks, train_loop
from pangu.train.losses import objective_of
from pangu.train.out_of_memory import one_sentence_if_full
from pangu.train.randomness import draw_batch
from pangu.train.setup import initial, prepared, start
from pangu.train.step import train_step
from pangu.train.step_timer import StepTimer
from pangu.train.training_metrics import TrainingMetrics
from pangu.train.world import World
from tests import subtests
from tests.gpu import CUDA_ALONE, DEVICE, ON_A_GPU
from tests.train.rows import plain_timesteps, random_rows, small_recipe, smallest_recipe
from tests.train.test_switches import ALONE, NONE, PAIRS, Switches, Tensors, named, recipe_of, tensors_of

pytestmark = ON_A_GPU


@pytest.fixture
def repeatable() -> Iterator[None]:
    """Sums in one order; blocks run uncompiled, because compiling all combinations takes longer than all else."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    with torch.compiler.set_stance("force_eager"):
        yield
    torch.use_deterministic_algorithms(False)


def train(recipe: Recipe, folder: Path, hooks: Hooks | None = None) -> Tensors:
    """What the last checkpoint holds."""
    trained = train_loop("structure", recipe, random_rows(4), "e", folder, World(device=DEVICE), hooks)
    return tensors_of(folder / f"step-{trained.steps:06d}")


@subtests.parametrize("switches", [NONE, *ALONE, *PAIRS], ids=named)
def test_a_run_killed_and_resumed_under_any_pair_of_switches_ends_with_the_same_bits(
    switches: Switches, tmp_path: Path, repeatable: None
) -> None:
    whole = train(recipe_of(switches), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "step-000002", tmp_path / "killed" / "step-000002")
    resumed = train(recipe_of(switches), tmp_path / "killed")
    assert resumed.keys() == whole.keys()
    assert [name for name in whole if not torch.equal(resumed[name], whole[name])] == []


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False)], ids=["to_last", "from_last"])
def test_another_memory_layout_at_a_resume_leaves_everything_of_a_parameter_with_equal_strides(
    before: bool, after: bool, tmp_path: Path, repeatable: None
) -> None:
    """Fused AdamW on a GPU refuses any other."""
    layouts = [frozenset({"channels_last"}) if asked else NONE for asked in (before, after)]
    train(recipe_of(layouts[0]), tmp_path / "before")
    shutil.copytree(tmp_path / "before" / "step-000002", tmp_path / "after" / "step-000002")
    seen: list[int] = []
    network = initial(recipe_of(layouts[1]), random_rows(4), "structure")
    trained = train_loop(
        "structure", recipe_of(layouts[1]), random_rows(4), "e", tmp_path / "after", World(device=DEVICE),
        Hooks(lambda step, _: seen.append(step)), denoiser=network,
    )  # fmt: skip
    assert trained.resumed_from == 2 and seen == [3, 4]
    assert network.conv_in.weight.is_contiguous(memory_format=torch.channels_last) == after
    means = list(trained.ema.tensors().values())
    for parameter, mean in zip(network.parameters(), means, strict=False):
        assert parameter.grad is None or parameter.grad.stride() == parameter.stride()
        assert mean.stride() == parameter.stride()


def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments() -> None:
    recipe = smallest_recipe()
    network = initial(recipe, random_rows(), "structure").to(DEVICE).train()
    model = prepared(network, recipe.execution, World(device=DEVICE))
    _, optimizer = start(network, recipe)
    objective, rows = objective_of(recipe.schedule, recipe.optimization, DEVICE), random_rows()
    timesteps = plain_timesteps(rows, TimeInterval(500, 1000))
    good = draw_batch(rows, [0, 1], 0, 0, 0, timesteps, recipe.optimization).to(DEVICE)
    bad = replace(good, latents_bchw=good.latents_bchw * torch.inf)

    def step(batch: object) -> float:
        result = train_step(
            model, optimizer, [batch], 2, objective, recipe.optimization, recipe.execution,
            StepTimer(DEVICE),
        )  # fmt: skip
        return float(result.skipped)

    def learnt() -> list[torch.Tensor]:
        moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
        return [value.clone() for value in (*network.state_dict().values(), *moments)]

    assert step(good) == 0
    before = learnt()
    assert step(bad) == 1
    assert all(map(torch.equal, learnt(), before))
    assert step(good) == 0
    assert not all(map(torch.equal, learnt(), before))


@CUDA_ALONE
@pytest.mark.parametrize(
    "execution", [Execution(), Execution(accumulate=2, precision="bf16", gradient_checkpointing=True)], ids=repr
)
def test_steps_between_two_log_lines_wait_for_nothing(
    execution: Execution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA itself raises where the host waits; log lines, and the checkpoint at the end, may."""
    recipe = smallest_recipe(steps=9, log_every=3, checkpoint_every=9).model_copy(update={"execution": execution})
    settle, lines = TrainingMetrics.settle, []

    def settled(meters: TrainingMetrics) -> object:
        torch.cuda.set_sync_debug_mode("default")
        return settle(meters)

    def line(step: int, metrics: dict[str, float]) -> None:
        lines.append(step)
        torch.cuda.set_sync_debug_mode("default" if step == 9 else "error")

    monkeypatch.setattr(TrainingMetrics, "settle", settled)
    try:
        train(recipe, tmp_path, Hooks(metrics=line))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert lines == [3, 6, 9]


@CUDA_ALONE
def test_a_batch_that_the_device_has_no_room_for_is_one_sentence_that_says_what_takes_less(tmp_path: Path) -> None:
    rows, recipe = random_rows(256, side=64), small_recipe(steps=1, batch_size=256)
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**28) / total)
    try:
        with (
            pytest.raises(
                UserError, match=r"256 images of .* set execution\.gradient_checkpointing to true"
            ) as refused,
            one_sentence_if_full("structure", recipe, 1),
        ):
            train_loop("structure", recipe, rows, "e", tmp_path, World(device=DEVICE))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory" in str(refused.value)
