"""The rules of a gate applied to numbers: a decision with its reasons. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from pangu.config import Frozen, Gate, GateRule
from pangu.data.captions import LANGUAGES
from pangu.errors import UserError
from pangu.evaluate.bootstrap import Difference, bootstrap, paired
from pangu.evaluate.protocol import lower_is_better
from pangu.evaluate.scored_prompts import PromptScores


class RuleVerdict(Frozen):
    """What one rule says about one number."""

    metric: str
    passed: bool
    sentence: str
    candidate: float
    champion: float | None = None
    difference: Difference | None = None


class Decision(Frozen):
    """Whether a pair may be released, and why. `reason` is one sentence for people."""

    passed: bool
    reason: str
    verdicts: tuple[RuleVerdict, ...]
    pair_id: str
    champion_version: int | None = None
    compared_with: str = ""
    """Whose numbers stand beside the pair's, e.g. 'version 3' or 'what training started from'; empty: nobody's."""
    protocol_hash: str = ""
    confidence: float = 0.95
    already_done: bool = False
    champion_grid: str = ""
    """Picture of what the champion, or the reference of a first pair, drew for the same prompts; empty where none was drawn."""


@dataclass(frozen=True)
class Reference:
    """Whose numbers a pair is held against: the champion, or for a first pair the floor that it must not fall below.

    untrained: it has random weights, so that every comparison must show the pair better.
    """

    name: str
    scores: PromptScores
    version: int | None = None
    untrained: bool = False


def decide(
    gate: Gate,
    pair_id: str,
    metrics: Mapping[str, float],
    candidate: PromptScores,
    reference: Reference | None,
    protocol_hash: str = "",
) -> Decision:
    """Apply every rule; all must hold. Without a reference only absolute bounds are asked.

    Raises:
        UserError: a rule names a number that was not measured, or compares one that single prompts do not have.
    """
    verdicts = tuple(
        verdict(rule, metric, gate, metrics, candidate, reference)
        for rule in gate.rules
        for metric in metrics_of(rule, metrics)
    )
    failed = [one for one in verdicts if not one.passed]
    compared = reference is not None and compares(gate)
    return Decision(
        passed=not failed,
        reason=failed[0].sentence if failed else _all_hold(gate, verdicts, reference),
        verdicts=verdicts,
        pair_id=pair_id,
        champion_version=reference.version if reference else None,
        compared_with=reference.name if reference and compared else "",
        protocol_hash=protocol_hash,
        confidence=gate.confidence,
    )


def compares(gate: Gate) -> bool:
    """Whether any rule holds a pair against another."""
    return any(rule.against_champion != "not_compared" for rule in gate.rules)


def bounds(gate: Gate) -> bool:
    """Whether any rule has an absolute bound."""
    return any(rule.at_least is not None or rule.at_most is not None for rule in gate.rules)


def _all_hold(gate: Gate, verdicts: tuple[RuleVerdict, ...], reference: Reference | None) -> str:
    if not compares(gate) and not bounds(gate):
        return "No rule of the recipe's gate compares or bounds a number, so any pair passes; give one at_least or at_most."
    if not compares(gate):
        against = "bounds alone were asked"
    elif reference is None:
        against = "there is no champion, and the recipe's gate has no floor for a first pair"
    else:
        against = f"compared with {reference.name}"
    return f"All {len(verdicts)} checks hold; {against}."


def metrics_of(rule: GateRule, metrics: Mapping[str, float]) -> list[str]:
    """The measured numbers that a rule is about: the one it names, or that of every language.

    Raises:
        UserError: there is none.
    """
    by_language = [f"{rule.metric}_{language}" for language in LANGUAGES if f"{rule.metric}_{language}" in metrics]
    found = by_language or [name for name in (rule.metric,) if name in metrics]
    if not found:
        raise UserError(
            f"The gate asks for '{rule.metric}', which was not measured; measured were {', '.join(sorted(metrics))}."
        )
    return found


def verdict(
    rule: GateRule,
    metric: str,
    gate: Gate,
    metrics: Mapping[str, float],
    candidate: PromptScores,
    reference: Reference | None,
) -> RuleVerdict:
    """One rule on one number."""
    value = metrics[metric]
    if rule.at_least is not None and value < rule.at_least:
        return RuleVerdict(
            metric=metric,
            passed=False,
            candidate=value,
            sentence=f"{metric} is {value:.4g}, below {rule.at_least:.4g}.",
        )
    if rule.at_most is not None and value > rule.at_most:
        return RuleVerdict(
            metric=metric, passed=False, candidate=value, sentence=f"{metric} is {value:.4g}, above {rule.at_most:.4g}."
        )
    if reference is None or rule.against_champion == "not_compared":
        return RuleVerdict(metric=metric, passed=True, candidate=value, sentence=f"{metric} is {value:.4g}.")
    if metric not in candidate.values or metric not in reference.scores.values:
        raise UserError(
            f"{metric} has no value for a single prompt, so the gate can not compare it; "
            f"give it at_least or at_most with against_champion: not_compared."
        )
    return _compared(rule, metric, gate, candidate, reference)


def _compared(rule: GateRule, metric: str, gate: Gate, candidate: PromptScores, reference: Reference) -> RuleVerdict:
    demand = "better" if reference.untrained else rule.against_champion
    difference_n = paired(candidate.values[metric], reference.scores.values[metric])
    difference = bootstrap(difference_n, gate.confidence, gate.resamples)
    gain_low, gain_high = difference.low, difference.high
    if lower_is_better(metric):
        gain_low, gain_high = -difference.high, -difference.low
    passed = {
        "not_shown_worse": gain_high >= -rule.margin,
        "not_inferior": gain_low >= -rule.margin,
        "better": gain_low > rule.margin,
    }[demand]
    mine, theirs = candidate.means[metric], reference.scores.means[metric]
    return RuleVerdict(
        metric=metric,
        passed=passed,
        candidate=mine,
        champion=theirs,
        difference=difference,
        sentence=f"{metric} is {mine:.4g} where {reference.name} has {theirs:.4g}: a difference of {difference.mean:+.4g}, "
        f"{gate.confidence:.0%} interval [{difference.low:+.4g}, {difference.high:+.4g}] over {difference.prompts} prompts, "
        f"{'is' if passed else 'is not'} {demand.replace('_', ' ')}"
        + (f" by a margin of {rule.margin:.4g}." if rule.margin else "."),
    )
