"""Is each part of the stack there? Real requests to real servers."""

from collections.abc import Callable
from dataclasses import dataclass

import httpx

from pangu.stack import databases, object_storage
from pangu.stack.certificates import trusted
from pangu.stack.model import WORK_POOL, Stack
from pangu.stack.programs import DATABASE


@dataclass(frozen=True)
class Component:
    """One part of the stack as a person sees it."""

    name: str
    program: str
    """The supervised program that carries it; empty where others keep it."""
    address: str
    check: Callable[[Stack], bool]
    optional: bool = False


def parts(stack: Stack) -> tuple[Component, ...]:
    """Everything that `pangu status` shows. The served API is there once a pair was deployed."""
    return (
        *_pages(stack),
        *backing_parts(stack),
        Component("Prefect", "prefect", stack.prefect_url, prefect_answers),
        Component(
            "Prefect worker", "worker", f"{stack.prefect_url}/work-pools/work-pool/{WORK_POOL}", worker_is_online
        ),
        Component("MLflow", "mlflow", stack.mlflow_url, mlflow_answers),
        Component("Ray", "ray", stack.ray_dashboard_url, ray_answers),
        Component("Served API", "ray", f"{stack.serve_url}/v1", api_answers, optional=True),
    )


def _pages(stack: Stack) -> tuple[Component, ...]:
    """None in a stack that code of before began."""
    return (Component("Home page", "console", stack.console_url, console_answers),) if stack.console_port else ()


def backing_parts(stack: Stack) -> tuple[Component, ...]:
    """What the profile `server` stands on."""
    if stack.database is None:
        return ()
    storage = stack.profile.endpoint or stack.profile.tables
    return (
        Component("PostgreSQL", DATABASE, stack.database.address, databases.answers),
        Component("Object storage", "", storage, lambda stack: object_storage.answers(stack.profile)),
    )


def prefect_answers(stack: Stack) -> bool:
    return _get(f"{stack.prefect_api_url}/health") is not None


def worker_is_online(stack: Stack) -> bool:
    try:
        response = httpx.post(
            f"{stack.prefect_api_url}/work_pools/{WORK_POOL}/workers/filter", json={}, timeout=5, trust_env=False,
            verify=trusted(),
        )  # fmt: skip
    except httpx.HTTPError:
        return False
    return response.is_success and any(worker["status"] == "ONLINE" for worker in response.json())


def mlflow_answers(stack: Stack) -> bool:
    return _get(f"{stack.mlflow_url}/health") is not None


def ray_answers(stack: Stack) -> bool:
    """The job server lists jobs, so the token is right and the head node is complete."""
    headers = {"Authorization": f"Bearer {stack.token}"} if stack.token_path.is_file() else {}
    return _get(f"{stack.ray_dashboard_url}/api/jobs/", headers) is not None


def console_answers(stack: Stack) -> bool:
    return _get(f"{stack.console_url}/healthz") is not None


def api_answers(stack: Stack) -> bool:
    return _get(f"{stack.serve_url}/healthz") is not None


def _get(url: str, headers: dict[str, str] | None = None) -> httpx.Response | None:
    """The answer, or None if there is none or it is an error."""
    try:
        response = httpx.get(url, headers=headers, timeout=5, trust_env=False, verify=trusted())
    except httpx.HTTPError:
        return None
    return response if response.is_success else None
