"""How the device benchmarks get from what they measure to what they claim."""

import json

import pytest
import torch

from pangu.config import Execution
from pangu.recipes import sdxl_half, tiny
from tests.benchmarks import FOLDER

import claims  # isort: skip (found beside the scripts)
import device_time  # isort: skip
import loops  # isort: skip
import sampling  # isort: skip
import throughput  # isort: skip
from tests import subtests

checks = subtests.Checks()

CPU = torch.device("cpu")


@subtests.parametrize("name", list(claims.GOALS))
def test_a_goal_is_kept_at_its_bound_and_not_beyond_it(name: str) -> None:
    goal = claims.GOALS[name]
    worse = goal.bound * (1.01 if goal.at_most else 0.99)
    assert goal.holds(goal.bound)
    assert not goal.holds(worse)
    assert not goal.holds(float("nan"))


def test_a_claim_is_one_json_line_with_value_goal_and_whether_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    claims.claim("train_loop", 0.98, rounds=2, speeds={"own": 1 / 3})
    claims.not_run("train_switches", "no time left")
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "name": "train_loop", "value": 0.98, "goal": 0.98, "holds": True, "rounds": 2, "speeds": {"own": 0.3333},
    }  # fmt: skip
    assert second == {"name": "train_switches", "value": None, "goal": 1.0, "holds": None, "why": "no time left"}


@subtests.parametrize("script", sorted(claims.CLAIMS))
def test_every_claim_is_named_in_its_script(script: str) -> None:
    """`train_share_` and a role make two of them."""
    file = {"serve": "serve_pools"}.get(script, script)
    text = (FOLDER / f"{file}.py").read_text()
    for name in claims.CLAIMS[script]:
        assert f'"{name}"' in text or (name.startswith("train_share_") and 'f"train_share_{case.role}"' in text)


@checks
def works_take_turns_and_warm_ones_do_not_count() -> None:
    calls: list[str] = []
    took = device_time.in_turns({name: lambda name=name: calls.append(name) for name in "ab"}, 2, CPU, warm=1)
    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert {name: len(all_s) for name, all_s in took.items()} == {"a": 2, "b": 2}


@checks
def a_spent_budget_begins_nothing() -> None:
    assert device_time.Budget(0).spent
    assert not device_time.Budget(60).spent


@checks
def the_share_of_the_rate_counts_forward_and_twice_as_much_backward() -> None:
    """4 images/s of 5 TFLOP forward are 60 TFLOP/s, whatever gradient checkpointing repeats."""
    assert throughput.share_of_rate(5e12, 4.0, 100e12) == pytest.approx(0.6)


@checks
def the_recipe_is_the_fastest_only_beside_all_that_fit() -> None:
    assert throughput.fastest_of(10.0, {"compile": 8.0, "channels_last": None}) == pytest.approx(1.25)
    assert throughput.fastest_of(10.0, {"compile": 20.0, "channels_last": 5.0}) == pytest.approx(0.5)
    assert throughput.fastest_of(10.0, {"compile": None}) == 1.0


@subtests.parametrize("switch", throughput.SWITCHES)
def test_a_switch_is_turned_round_by_itself(switch: str) -> None:
    own = sdxl_half().execution
    other = throughput.turned(own, switch)
    assert {name for name in Execution.model_fields if getattr(other, name) != getattr(own, name)} == {switch}


@checks
def a_worker_of_a_recipe_gets_its_share_and_no_checkpoint() -> None:
    recipe = loops.timed(sdxl_half(), "texture", Execution(), log_every=8)
    assert recipe.texture.batch_size == 2048 // 64
    assert recipe.workers == 1
    assert recipe.optimization.log_every == 8
    assert min(recipe.texture.steps, recipe.optimization.checkpoint_every) > 1000


@checks
def the_loop_is_timed_between_log_lines_and_ends_there() -> None:
    """A run of a million steps is over after the second line, with the weights that it was given moved on."""
    recipe, shapes = loops.timed(tiny(), "structure", Execution(prefetch=0), log_every=1), loops.Shapes(tiny())
    rows = loops.random_rows(shapes, 8, 4)
    for loop in (loops.our_loop, loops.plain_loop):
        network = loops.network_of(shapes, "structure", CPU)
        before = network.conv_in.weight.detach().clone()
        spent = loop(recipe, "structure", rows, network, CPU)
        assert 0 < spent.clock < 60
        assert not torch.equal(network.conv_in.weight, before)


@checks
def a_step_is_the_difference_of_two_requests() -> None:
    assert sampling.a_step(5.0, 2.0, 30) == pytest.approx(0.1)


test_device_figures = checks.test()
