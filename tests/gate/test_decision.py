"""The paired bootstrap against closed forms, and what each kind of rule lets pass."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.config import Gate, GateRule
from pangu.errors import UserError
from pangu.evaluate.bootstrap import bootstrap, paired
from pangu.evaluate.scored_prompts import PromptScores
from pangu.gate.decision import Decision, Reference, decide
from pangu.recipes import RECIPES
from tests import subtests

checks = subtests.Checks()

METRIC = "retrieval_similarity_en"


def scores(values: np.ndarray, metric: str = METRIC) -> PromptScores:
    return PromptScores(values={metric: {f"k{index:03d}": float(value) for index, value in enumerate(values)}})


def decision(rule: GateRule, candidate: np.ndarray, champion: np.ndarray | None) -> Decision:
    mine = scores(candidate)
    theirs = Reference("version 3", scores(champion), 3) if champion is not None else None
    return decide(Gate(rules=(rule,)), "pair", mine.means, mine, theirs)


@checks
@given(st.integers(0, 2**32 - 1))
def the_interval_of_normal_differences_is_the_textbooks(seed: int) -> None:
    """Mean +- 1.96 s / sqrt(n), up to the noise of 4,000 resamples."""
    difference_n = np.random.default_rng(seed).normal(0.1, 1.0, 400)
    found = bootstrap(difference_n, 0.95, 4000)
    error = difference_n.std() / 20
    assert found.mean == pytest.approx(difference_n.mean())
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.25 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.25 * error)


@checks
def the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        found = bootstrap(generator.normal(0.3, 1.0, 60), 0.9, 400)
        inside += found.low <= 0.3 <= found.high
    assert inside / 300 == pytest.approx(0.9, abs=0.06)


@checks
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.floats(-1, 1))
def equal_gains_leave_no_doubt(champion: list[float], gain: float) -> None:
    base = np.array(champion)
    found = bootstrap((base + gain) - base, 0.95, 200)
    assert found.low == pytest.approx(gain, abs=1e-9) and found.high == pytest.approx(gain, abs=1e-9)


@checks
def pairing_sees_what_two_bare_means_would_not() -> None:
    """Prompts differ by far more than the pairs do; only the comparison prompt by prompt tells them apart."""
    hardness = np.random.default_rng(1).normal(0, 10, 50)
    better = decision(GateRule(metric=METRIC, against_champion="better"), hardness + 0.5, hardness)
    assert better.passed
    shuffled = bootstrap(np.random.default_rng(2).permutation(hardness) + 0.5 - hardness, 0.95, 2000)
    assert shuffled.low < 0 < shuffled.high


@subtests.parametrize(
    ("gain", "noise", "demand", "margin", "passes"),
    [
        (-0.2, 0.01, "not_shown_worse", 0.0, False),
        (-0.2, 0.01, "not_shown_worse", 0.5, True),
        (-0.01, 1.0, "not_shown_worse", 0.0, True),
        (-0.01, 1.0, "not_inferior", 0.0, False),
        (-0.01, 0.001, "not_inferior", 0.05, True),
        (0.0, 0.0, "not_inferior", 0.0, True),
        (0.0, 0.0, "better", 0.0, False),
        (0.1, 0.01, "better", 0.0, True),
        (0.1, 0.01, "better", 0.5, False),
        (-0.9, 0.01, "not_compared", 0.0, True),
    ],
)
def test_what_each_demand_lets_pass(gain: float, noise: float, demand: str, margin: float, passes: bool) -> None:
    generator = np.random.default_rng(3)
    champion = generator.random(40)
    rule = GateRule(metric=METRIC, against_champion=demand, margin=margin)  # type: ignore[arg-type]
    found = decision(rule, champion + gain + noise * generator.standard_normal(40), champion)
    assert found.passed is passes
    if not passes:
        assert METRIC in found.reason and "interval" in found.reason


@checks
def a_distance_gets_better_by_getting_smaller() -> None:
    mine, theirs = scores(np.full(20, 0.1), "loss_en"), scores(np.full(20, 0.3), "loss_en")
    rule = GateRule(metric="loss", against_champion="better")
    assert decide(Gate(rules=(rule,)), "pair", mine.means, mine, Reference("b", theirs)).passed
    assert not decide(Gate(rules=(rule,)), "pair", theirs.means, theirs, Reference("a", mine)).passed


@checks
def the_first_pair_meets_only_absolute_bounds() -> None:
    rule = GateRule(metric=METRIC, at_least=0.5, against_champion="better")
    assert decision(rule, np.full(5, 0.6), None).passed
    refused = decision(rule, np.full(5, 0.4), None)
    assert not refused.passed and refused.reason == f"{METRIC} is 0.4, below 0.5."


@subtests.parametrize("demand", ["not_shown_worse", "not_inferior", "better"])
def test_a_first_pair_that_is_not_better_than_an_untrained_one_is_stopped(demand: str) -> None:
    """The prompts say nothing of a gain of 0.001, which every weaker demand than `better` lets pass."""
    generator = np.random.default_rng(4)
    untrained = generator.random(24)
    rule = GateRule(metric=METRIC, against_champion=demand)  # type: ignore[arg-type]
    floor = Reference("an untrained pair", scores(untrained), untrained=True)
    gains = {"none": 0.001 + 0.1 * generator.standard_normal(24), "plain": np.full(24, 0.4)}
    found = {}
    for name, gain in gains.items():
        mine = scores(untrained + gain)
        found[name] = decide(Gate(rules=(rule,)), "pair", mine.means, mine, floor)
    assert not found["none"].passed and "where an untrained pair has" in found["none"].reason
    assert found["plain"].passed and found["plain"].reason == "All 1 checks hold; compared with an untrained pair."


@checks
def a_gate_that_asks_nothing_says_so() -> None:
    asked = decision(GateRule(metric=METRIC, against_champion="not_compared"), np.full(5, 0.1), np.full(5, 0.9))
    assert asked.passed and "any pair passes" in asked.reason and asked.compared_with == ""


@checks
def a_rule_without_a_language_is_asked_of_each() -> None:
    values = {"retrieval_top1_zh": {"a": 0.0}, "retrieval_top1_en": {"a": 1.0}}
    found = PromptScores(values=values)
    gate = Gate(rules=(GateRule(metric="retrieval_top1", at_least=0.5),))
    verdicts = decide(gate, "pair", found.means, found, None).verdicts
    assert {one.metric: one.passed for one in verdicts} == {"retrieval_top1_zh": False, "retrieval_top1_en": True}


@subtests.parametrize(
    ("rule", "sentence"),
    [
        (GateRule(metric="beauty"), "'beauty', which was not measured"),
        (GateRule(metric="fid_thumbnail-16"), "no value for a single prompt"),
    ],
)
def test_a_rule_that_can_not_be_asked_is_refused(rule: GateRule, sentence: str) -> None:
    mine = scores(np.ones(3))
    with pytest.raises(UserError, match=sentence):
        decide(Gate(rules=(rule,)), "pair", mine.means | {"fid_thumbnail-16": 3.0}, mine, Reference("itself", mine))


@checks
def other_prompts_are_not_compared() -> None:
    with pytest.raises(UserError, match="Only 1 prompts"):
        paired({"a": 1.0, "b": 2.0}, {"a": 1.0, "c": 2.0})


@checks
def the_rules_of_a_recipe_change_neither_its_digest_nor_its_runs_unless_they_are_its_own() -> None:
    for make in RECIPES.values():
        recipe = make()
        own = recipe.model_copy(update={"gate": Gate(confidence=0.99)})
        assert "gate" not in recipe.model_dump() or recipe.gate.floor == "none"
        assert own.learning_digest() == recipe.learning_digest()
        assert own.digest() != recipe.digest()


test_decision = checks.test()
