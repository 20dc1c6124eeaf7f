"""Deployment `deploy-pair`: serve a registered pair."""

from typing import Any

from prefect import flow

from flows.parameters import DeployPair
from flows.reporting import staged
from flows.stages import deploy, stop_everything


@flow(name="deploy-pair", on_cancellation=[stop_everything], on_crashed=[stop_everything])
@staged
def deploy_pair(settings: DeployPair) -> dict[str, Any]:
    """Swap the served API to one version, without downtime."""
    return {"deploy": deploy(settings.pair_version)}
