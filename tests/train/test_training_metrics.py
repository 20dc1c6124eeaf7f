"""What is measured: every timestep in exactly one bucket, shares of time that make a whole, means that are means."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pangu.diffusion.interval import TimeInterval
from pangu.train.step import StepResult
from pangu.train.step_timer import StepTimer
from pangu.train.training_metrics import TrainingMetrics

CPU = torch.device("cpu")


@given(low=st.integers(0, 900), width=st.integers(1, 100), buckets=st.integers(1, 50))
def test_the_named_timesteps_of_a_bucket_are_those_that_fall_into_it(low: int, width: int, buckets: int) -> None:
    metrics = TrainingMetrics(TimeInterval(low, low + width), buckets, 10, CPU)
    found: dict[str, list[int]] = {}
    for timestep in range(low, low + width):
        found.setdefault(metrics.name_of(metrics.bucket_of(timestep)), []).append(timestep)
    assert found == {f"loss/t{inside[0]}-{inside[-1]}": inside for inside in found.values()}
    assert len(found) == min(buckets, width)


def result(loss: float, norm: float, losses: list[float], skipped: bool = False) -> StepResult:
    return StepResult(*(torch.tensor(value, dtype=torch.float32) for value in (losses, loss, norm, skipped)))


def test_losses_by_timestep_are_means_of_their_own_samples() -> None:
    metrics = TrainingMetrics(TimeInterval(500, 1000), 2, 10, CPU)
    metrics.add(7, result(2.0, 0.5, [1.0, 3.0, 5.0, 7.0]), 4, torch.tensor([500, 749, 750, 999]))
    metrics.add(8, result(math.nan, 0.5, [math.nan], skipped=True), 4, torch.tensor([600]))
    metrics.add(9, result(4.0, 1.5, [2.0]), 4, torch.tensor([600]))
    taken = metrics.settle()
    assert [(one.step, one.skipped, len(one.losses)) for one in taken] == [(7, False, 4), (8, True, 1), (9, False, 1)]
    assert metrics.settle() == []
    figures = metrics.metrics()
    assert figures["skipped_steps"] == 1
    assert figures["loss/t500-749"] == pytest.approx(2.0)
    assert figures["loss/t750-999"] == pytest.approx(6.0)
    assert (figures["loss"], figures["grad_norm"]) == (3.0, 1.0)
    assert figures["memory_gib"] > 0.1


def test_shares_of_time_make_a_whole_and_start_again() -> None:
    timer = StepTimer(CPU)
    for _ in range(3):
        timer.begin()
        for part in ("data", "forward", "backward"):
            timer.lap(part)
    shares = timer.shares()
    assert set(shares) == {"time/data", "time/forward", "time/backward"}
    assert sum(shares.values()) == pytest.approx(1)
    assert timer.shares() == {}
