"""The flows as deployments of a Prefect server: that of a stack, or any other."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from zoneinfo import available_timezones

import httpx
import yaml

from pangu.compatibility import check_server
from pangu.errors import UserError
from pangu.stack.automations import install_automations
from pangu.stack.model import WORK_POOL, Stack
from pangu.stack.prefect_api import prefect_api
from pangu.stack.start_here import write_start_here


def install(project: Path, api_url: str, log: Path) -> None:
    """Work pool, deployments and automations on the server at `api_url`; whatever is there already is brought up to date.

    Raises:
        UserError: nobody answers there, who does refuses us or is too old, or `prefect.yaml` can not be deployed.
    """
    try:
        check_api(api_url)
        create_work_pool(api_url)
        install_automations(api_url)
        write_start_here(api_url)
    except httpx.HTTPError as error:
        raise UserError(f"No Prefect server takes orders at {api_url} ({error}); check PREFECT_API_URL.") from error
    deploy_flows(project, {"PREFECT_API_URL": api_url}, log)


def flows_digest(project: Path) -> str:
    """Digest of whatever decides what `deploy_flows` tells a server: the project's flows, where it lies, Prefect's version."""
    found = hashlib.sha256(f"{project} {version('prefect')}".encode())
    for path in (project / "prefect.yaml", *sorted((project / "flows").glob("*.py"))):
        found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def are_deployed(server: Stack | str, project: Path) -> bool:
    """Whether the server has a deployment of every name in `prefect.yaml`."""
    wanted = {one["name"] for one in yaml.safe_load((project / "prefect.yaml").read_text()).get("deployments") or []}
    with prefect_api(server) as api:
        found = api.post("/deployments/filter", json={}).raise_for_status().json()
    return wanted <= {one["name"] for one in found}


def check_api(api_url: str) -> None:
    """Raises UserError if the server refuses us, is none of Prefect's, or is too old; httpx.HTTPError if nobody answers."""
    with prefect_api(api_url) as api:
        answer = api.get("/admin/version")
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise UserError(
            f"The Prefect server at {api_url} refuses us; set PREFECT_API_AUTH_STRING to its USER:PASSWORD."
        )
    if not answer.is_success:
        raise UserError(
            f"What answers at {api_url} is no Prefect server ({answer.status_code}); PREFECT_API_URL ends in /api."
        )
    check_server("prefect", api_url, answer.text.strip('" \n'))


def check_schedules(project: Path) -> None:
    """Every schedule of `prefect.yaml` says in which timezone it is meant; without one it would run in UTC.

    Raises:
        UserError: one does not, or there is no such timezone, or the file is no YAML.
    """
    path = project / "prefect.yaml"
    try:
        found = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())[:200]}") from error
    for deployment in found.get("deployments") or []:
        for number, schedule in enumerate(deployment.get("schedules") or [], 1):
            name, zone = schedule.get("slug") or f"number {number}", schedule.get("timezone")
            where = f"The schedule '{name}' of {deployment.get('name')} in {path}"
            if not zone:
                raise UserError(f"{where} has no timezone; add one, e.g. timezone: Europe/Berlin.")
            if zone not in available_timezones():
                raise UserError(f"{where} names the timezone '{zone}', which there is not; write e.g. Europe/Berlin.")


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
        UserError: it failed; the sentence names the log. Or a schedule has no timezone.
    """
    check_schedules(project)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    deployed = subprocess.run(
        command, cwd=project, env={**os.environ, **environment}, capture_output=True, text=True
    )  # fmt: skip
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(deployed.stdout + deployed.stderr)
    if deployed.returncode != 0:
        raise UserError(f"The flows of {project / 'prefect.yaml'} could not be deployed; see {log}.")
