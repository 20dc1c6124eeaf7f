"""A flow that does nothing but pass the gate and ask a person, as `retrain-pair` does; `test_approval` deploys it."""

from typing import Any

from prefect import flow

from flows.gate import pass_gate
from flows.reporting import staged

DECISION = {"verdicts": [], "champion_version": None, "confidence": 0.95, "already_done": False}
"""The outcome of `pangu gate`, as far as the dashboard tells of it."""


@flow(name="ask-a-person")
@staged
def ask(passed: bool = True) -> dict[str, Any]:
    """Pause until somebody says yes or no, if the gate lets the pair pass."""
    reason = "Every rule holds." if passed else "The foxes became worse."
    pass_gate({**DECISION, "passed": passed, "reason": reason}, "person")
    return {"released": True}
