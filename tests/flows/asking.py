"""A flow that does nothing but pass the gate and ask a person, as `retrain-pair` does; `test_approval` deploys it."""

from typing import Any

from prefect import flow

from flows.gate import pass_gate
from flows.reporting import staged
from pangu.gate.decision import Decision

DECISION = Decision(
    passed=True,
    reason="",
    verdicts=(),
    pair_id="asked",
    champion_version=None,
    protocol_hash="0",
    confidence=0.95,
)


@flow(name="ask-a-person")
@staged
def ask(passed: bool = True) -> dict[str, Any]:
    """Pause until somebody says yes or no, if the gate lets the pair pass."""
    reason = "Every rule holds." if passed else "The foxes became worse."
    pass_gate(DECISION.model_copy(update={"passed": passed, "reason": reason}).model_dump(mode="json"), "person")
    return {"released": True}
