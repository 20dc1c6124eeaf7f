"""What the dashboard shows of a gate's decision, and the question to a person behind it."""

from collections.abc import Mapping
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from pangu.errors import UserError

ANSWER_WITHIN_S = 7 * 24 * 3600


class Approval(RunInput):
    """What a person is asked."""

    release: bool = Field(False, description="Release this pair and let it serve")
    note: str = Field("", max_length=2000, description="Why")


def pass_gate(outcome: Mapping[str, Any], approval: str) -> None:
    """Show the decision; go on only if the gate let the pair pass and, where one is asked, a person agreed.

    Raises:
        UserError: the gate or the person refused; the champion keeps serving.
    """
    text = markdown(outcome)
    create_markdown_artifact(text, key="gate-decision", description=f"gate: {_word(outcome)}")
    if not outcome["passed"]:
        raise UserError(f"The gate stays closed and the champion keeps serving: {outcome['reason']}")
    if approval == "person" and not outcome["already_done"]:
        question = Approval.with_initial_data(description=text)
        answer = pause_flow_run(wait_for_input=question, timeout=ANSWER_WITHIN_S, poll_interval=2, key="approval")
        if not answer.release:
            raise UserError(
                f"A person refused the pair and the champion keeps serving: {answer.note or 'no reason given'}"
            )


def markdown(outcome: Mapping[str, Any]) -> str:
    """A `pangu.gate.Decision` as a table, one line for each number that was asked for."""
    head = f"## Gate: {_word(outcome)}\n\n{outcome['reason']}\n"
    if not outcome["verdicts"]:
        return head
    rows = "\n".join(
        f"| {one['metric']} | {one['candidate']:.4g} | {_number(one['champion'])} | {_interval(one['difference'])} "
        f"| {'yes' if one['passed'] else '**no**'} |"
        for one in outcome["verdicts"]
    )
    version = outcome["champion_version"]
    compared = outcome["compared_with"]
    reference = compared or "nobody" if version is None else f"champion, {compared or f'version {version}'}"
    interval = f"{outcome['confidence']:.0%} interval"
    return f"{head}\n| number | this pair | {reference} | difference, {interval} | holds |\n|---|---|---|---|---|\n{rows}\n"


def _word(outcome: Mapping[str, Any]) -> str:
    return "open" if outcome["passed"] else "closed"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _interval(difference: Mapping[str, float] | None) -> str:
    if difference is None:
        return "-"
    return f"{difference['mean']:+.4g} [{difference['low']:+.4g}, {difference['high']:+.4g}]"
