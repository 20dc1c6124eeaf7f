"""The flows as deployments of a Prefect server: that of a stack, or any other. Knows nothing of how servers are started."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from pangu.errors import UserError
from pangu.stack.automations import install_automations
from pangu.stack.model import WORK_POOL, Stack
from pangu.stack.prefect_api import prefect_api


def install(project: Path, api_url: str, log: Path) -> None:
    """Work pool, deployments and automations on the server at `api_url`; whatever is there already is brought up to date.

    Raises:
        UserError: nobody answers there, or `prefect.yaml` can not be deployed.
    """
    try:
        create_work_pool(api_url)
        install_automations(api_url)
    except httpx.HTTPError as error:
        raise UserError(f"No Prefect server takes orders at {api_url} ({error}); check PREFECT_API_URL.") from error
    deploy_flows(project, {"PREFECT_API_URL": api_url}, log)


def create_work_pool(server: Stack | str) -> None:
    """The worker fills in the pool's job template when it comes."""
    body = {
        "name": WORK_POOL,
        "type": "process",
        "description": "PanGu's flows, as processes of their worker's machine",
    }
    with prefect_api(server) as api:
        response = api.post("/work_pools/", json=body)
    if response.status_code != httpx.codes.CONFLICT:
        response.raise_for_status()


def deploy_flows(project: Path, environment: Mapping[str, str], log: Path) -> None:
    """Apply the project's `prefect.yaml`.

    Raises:
        UserError: it failed; the sentence names the log.
    """
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    deployed = subprocess.run(
        command, cwd=project, env={**os.environ, **environment}, capture_output=True, text=True
    )  # fmt: skip
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(deployed.stdout + deployed.stderr)
    if deployed.returncode != 0:
        raise UserError(f"The flows of {project / 'prefect.yaml'} could not be deployed; see {log}.")
