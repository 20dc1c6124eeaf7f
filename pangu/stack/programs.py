"""The command lines of the servers. Knows nothing of how they are supervised."""

import sys
from dataclasses import dataclass, field

from pangu.stack.model import LOOPBACK, WORK_POOL, Stack

LOGICAL_CPUS = 8
"""Slots, not cores: two training jobs, their drivers and the serving replicas hold a slot each and share the cores."""
OBJECT_STORE_BYTES = 384 * 1024**2


@dataclass(frozen=True)
class Program:
    """One supervised server."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    starts_by_itself: bool = True


def programs(stack: Stack) -> tuple[Program, ...]:
    """All servers of the stack. The worker waits for the Prefect server, so `up` starts it."""
    return (_prefect(stack), _worker(stack), _mlflow(stack), _ray(stack))


def _prefect(stack: Stack) -> Program:
    return Program(
        "prefect",
        _python("prefect", "server", "start", "--host", LOOPBACK, "--port", str(stack.prefect_port)),
        {"PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false", "PREFECT_LOGGING_SERVER_LEVEL": "WARNING"},
    )


def _worker(stack: Stack) -> Program:
    return Program(
        "worker",
        _python("prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process", "--name", "local"),
        # A person who presses the button should not wait for the next poll.
        {"PREFECT_WORKER_QUERY_SECONDS": "2"},
        starts_by_itself=False,
    )


def _mlflow(stack: Stack) -> Program:
    folder = stack.home / "stack" / "mlflow"
    return Program(
        "mlflow",
        _python(
            *("mlflow", "server", "--host", LOOPBACK, "--port", str(stack.mlflow_port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
            *("--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")),
        ),
        # Judges and other server-side jobs would cost several more processes.
        {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )


def _ray(stack: Stack) -> Program:
    return Program(
        "ray",
        _python(
            *("ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address", LOOPBACK, "--port", str(stack.ray_port)),
            *("--dashboard-host", LOOPBACK, "--dashboard-port", str(stack.ray_dashboard_port)),
            *("--num-cpus", str(LOGICAL_CPUS), "--object-store-memory", str(OBJECT_STORE_BYTES)),
            *("--temp-dir", str(stack.runtime / "ray")),
            *("--ray-client-server-port", str(stack.ray_client_port)),
            # Two stacks live side by side, so whatever else has a customary port takes any free one.
            *("--dashboard-agent-listen-port", "0", "--metrics-export-port", "0"),
        ),
        {
            # Idle workers are started when they are needed: each costs about 100 MB.
            "RAY_prestart_worker_first_driver": "0",
            "RAY_enable_worker_prestart": "0",
            # The only node has nowhere to drain to.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            # Ray's processes rename themselves; this keeps their environment, and the mark in it, readable.
            "SPT_NOENV": "1",
        },
    )


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)
