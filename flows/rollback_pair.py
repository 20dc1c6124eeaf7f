"""Deployment `rollback-pair`: the release before serves again."""

from typing import Any

from prefect import flow

from flows.parameters import RollbackPair
from flows.reporting import staged
from flows.stages import rollback, stop_everything

DEFAULTS = RollbackPair()


@flow(name="rollback-pair", on_cancellation=[stop_everything], on_crashed=[stop_everything])
@staged
def rollback_pair(settings: RollbackPair = DEFAULTS) -> dict[str, Any]:
    """`champion` and `previous` change places in the registry, and the served API swaps, without downtime."""
    return {"rollback": rollback()}
