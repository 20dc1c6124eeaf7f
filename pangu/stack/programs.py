"""The command lines of the servers."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from pangu.stack import postgres
from pangu.stack.model import LOOPBACK, WORK_POOL, Stack
from pangu.storage import Home

LOGICAL_CPUS = 8
"""Slots, not cores: two training jobs, their drivers and the serving replicas hold a slot each and share the cores."""
DATABASE = "postgres"
OBJECT_STORE_BYTES = 384 * 1024**2


@dataclass(frozen=True)
class Program:
    """One supervised server."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    starts_by_itself: bool = True
    user: str = ""
    """Whom it runs as; empty: as we do."""
    folder: str = ""
    """Where it runs; empty: in the project."""
    stop_signal: str = "TERM"
    retries: int = 1000
    """Failed starts in a row before a program is given up: a port may be taken, or a disk full, for a while."""
    is_outlived: bool = False
    """What it started goes on when it is killed, and is not ended before it starts again."""


def programs(stack: Stack) -> tuple[Program, ...]:
    """All servers of the stack. The worker waits for the Prefect server, and what needs PostgreSQL waits for that, so `up`
    starts them."""
    found = (_prefect(stack), _worker(stack), _mlflow(stack), _ray(stack), _reconciler(), _console(stack))
    return (_postgres(stack), *found) if stack.database is not None and stack.database.own else found


def database_uri(stack: Stack, name: str, driver: str) -> str:
    """SQLAlchemy's address of a PostgreSQL database, without the password, which the drivers find in the passfile."""
    assert stack.database is not None
    return f"postgresql+{driver}://{stack.database.user}@{stack.database.address}/{name}"


def mlflow_uri(stack: Stack) -> str:
    """SQLAlchemy's address of MLflow's database; seen from `mlflow_folder`, because MLflow makes a folder of an encoded path."""
    if stack.database is not None:
        return database_uri(stack, "mlflow", "psycopg2")
    return "sqlite:///mlflow.db"


def mlflow_folder(stack: Stack) -> Path:
    """Where MLflow's server runs and keeps its database and artefacts."""
    return stack.home / "stack" / "mlflow"


def _postgres(stack: Stack) -> Program:
    assert stack.database is not None
    owner = postgres.system_user()
    return Program(
        DATABASE,
        postgres.command(Home(stack.home), stack.database.port),
        user=owner.pw_name if owner else "",
        folder=str(postgres.data_folder(Home(stack.home))),
        # SIGTERM would wait for every client to leave.
        stop_signal="INT",
        # After a crash its memory is held until the last of its processes has noticed.
        retries=10,
        is_outlived=True,
    )


def _prefect(stack: Stack) -> Program:
    if stack.database is not None:
        database = database_uri(stack, "prefect", "asyncpg")
    else:
        # Where Prefect puts it by itself, but encoded: SQLAlchemy decodes the path, and ends it at a '?'.
        database = f"sqlite+aiosqlite:///{quote(str(stack.home / 'stack' / 'prefect' / 'prefect.db'))}"
    return Program(
        "prefect",
        _python("prefect", "server", "start", "--host", LOOPBACK, "--port", str(stack.prefect_port)),
        {
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
            "PREFECT_API_DATABASE_CONNECTION_URL": database,
            **_passfile(stack),
        },
        starts_by_itself=stack.database is None,
    )


def _passfile(stack: Stack) -> dict[str, str]:
    """Where libpq and asyncpg find the password."""
    return {} if stack.database is None else {"PGPASSFILE": str(stack.passfile)}


def _worker(stack: Stack) -> Program:
    return Program(
        "worker",
        _python("prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process", "--name", "local"),
        # A person who presses the button should not wait for the next poll.
        {"PREFECT_WORKER_QUERY_SECONDS": "2"},
        starts_by_itself=False,
        is_outlived=True,
    )


def _mlflow(stack: Stack) -> Program:
    # As a URI, because MLflow decodes a path, too.
    artifacts = stack.profile.artifacts or (mlflow_folder(stack) / "artifacts").as_uri()
    return Program(
        "mlflow",
        _python("pangu.stack.mlflow_server", LOOPBACK, str(stack.mlflow_port), mlflow_uri(stack), artifacts),
        # Judges and other server-side jobs would cost several more processes.
        {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **_passfile(stack)},
        folder=str(mlflow_folder(stack)),
        starts_by_itself=stack.database is None,
    )


def _ray(stack: Stack) -> Program:
    return Program(
        "ray",
        _python(
            # Nothing scales this cluster, so nothing has to look whether it should.
            *("pangu.stack.ray_head", "--head", "--disable-usage-stats", "--no-monitor"),
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


def _reconciler() -> Program:
    return Program("reconciler", _python("pangu.stack.reconciler"))


def _console(stack: Stack) -> Program:
    """The pages; they wait for nothing, and show what answers."""
    return Program("console", _python("pangu.console", str(stack.console_port)))


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)
