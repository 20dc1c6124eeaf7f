"""The gate between evaluation and release: may this pair take the champion's place?

Owns the comparison, the decision.
"""

from pangu.gate.check import check_pair_at_gate
from pangu.gate.decision import Decision, RuleVerdict, decide

__all__ = ["Decision", "RuleVerdict", "check_pair_at_gate", "decide"]
