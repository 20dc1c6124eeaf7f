"""The servers around the stages: Prefect, MLflow and Ray on one machine, for one home.

Owns starting, finding, checking and ending them.
"""

from pangu.stack.lifecycle import down, up
from pangu.stack.model import Stack

__all__ = ["Stack", "down", "up"]
