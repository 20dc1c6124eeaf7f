"""What is known of a running stack: its addresses, its token and its processes, kept in `stack.json`."""

import os
import sys
from pathlib import Path

from pydantic import Field

from pangu.config import Frozen
from pangu.errors import UserError
from pangu.stack.processes import ProcessRecord
from pangu.stack.profile import Profile
from pangu.storage import Home, read_json, write_json

WORK_POOL = "pangu"
HEARTBEAT_S = 30
"""A flow run says so often that it is alive; Prefect allows no less."""
LOOPBACK = "127.0.0.1"


class Database(Frozen):
    """A PostgreSQL server and who we are there; the password lies in `Stack.passfile`."""

    host: str
    port: int
    user: str
    own: bool
    """Whether the stack runs it."""

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


class Stack(Frozen):
    """The servers of one home. All addresses are on the loopback interface, but for a database that others keep."""

    stack_id: str
    """Every process of the stack carries it in its environment, as `PANGU_STACK_ID`."""
    home: Path
    project: Path
    """The folder of `prefect.yaml` and `flows/`."""
    runtime: Path
    """Sockets and Ray's session; short, because the path of a Unix socket has at most 107 bytes."""
    prefect_port: int
    mlflow_port: int
    ray_port: int
    ray_client_port: int
    ray_dashboard_port: int
    serve_port: int
    console_port: int = 0
    """0: of code of before, which had no pages."""
    token_path: Path
    profile: Profile = Profile()
    database: Database | None = None
    """PostgreSQL, where the profile has it."""
    supervisor: ProcessRecord | None = None
    processes: dict[str, ProcessRecord] = Field(default_factory=dict)

    @property
    def passfile(self) -> Path:
        """The database's password, in libpq's format; gone with the stack."""
        return self.runtime / "pgpass"

    @property
    def prefect_url(self) -> str:
        return f"http://{LOOPBACK}:{self.prefect_port}"

    @property
    def prefect_api_url(self) -> str:
        return f"{self.prefect_url}/api"

    @property
    def mlflow_url(self) -> str:
        return f"http://{LOOPBACK}:{self.mlflow_port}"

    @property
    def ray_address(self) -> str:
        return f"{LOOPBACK}:{self.ray_port}"

    @property
    def ray_dashboard_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ray_dashboard_port}"

    @property
    def serve_url(self) -> str:
        return f"http://{LOOPBACK}:{self.serve_port}"

    @property
    def console_url(self) -> str:
        return f"http://{LOOPBACK}:{self.console_port}"

    @property
    def token(self) -> str:
        """The token that Ray's servers ask for."""
        return self.token_path.read_text().strip()

    @property
    def is_running(self) -> bool:
        return self.supervisor is not None and self.supervisor.find() is not None

    @property
    def is_complete(self) -> bool:
        """Whether `up` came to its end: the processes are recorded last."""
        return self.is_running and bool(self.processes)

    def environment(self) -> dict[str, str]:
        """Variables that let a child process find the stack, and that keep its parts from phoning home."""
        folder = str(Path(sys.executable).parent)
        return {
            **self._places(),
            "PANGU_HOME": str(self.home),
            "PANGU_SERVE_PORT": str(self.serve_port),
            "PANGU_CONSOLE_URL": self.console_url if self.console_port else "",
            # Commands are submitted as `python -m pangu ...`, so that every node of a cluster finds its own.
            "PATH": os.pathsep.join([folder, os.environ.get("PATH", os.defpath)]),
            "PREFECT_API_URL": self.prefect_api_url,
            "PREFECT_HOME": str(self.home / "stack" / "prefect"),
            "PREFECT_PROFILES_PATH": str(self.home / "stack" / "prefect" / "profiles.toml"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
            # Flow runs sit out a restart of the server; waits double from two seconds on.
            "PREFECT_CLIENT_MAX_RETRIES": "7",
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "RAY_ADDRESS": self.ray_address,
            "RAY_API_SERVER_ADDRESS": self.ray_dashboard_url,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Nobody takes this machine away with a warning, so no run needs a process that waits for one.
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
            # Without it Ray, server and client, replaces 127.0.0.1 by this machine's public address.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "DO_NOT_TRACK": "1",
            # A proxy of this person's network has no business between two processes of one machine.
            "NO_PROXY": LOOPBACK,
            "no_proxy": LOOPBACK,
            "NO_ALBUMENTATIONS_UPDATE": "1",
        }

    def _places(self) -> dict[str, str]:
        """What the profile adds: where tables lie, and how clients get there; keys come from the environment alone."""
        found = {
            "PANGU_TABLES": self.profile.tables,
            "AWS_ENDPOINT_URL": self.profile.endpoint,
            "AWS_REGION": self.profile.region,
            "AWS_DEFAULT_REGION": self.profile.region,  # boto3 reads no other
        }
        if self.database is not None:
            # What Prefect's server answers while PostgreSQL starts again; 502 and 503 are tried again anyway.
            found["PREFECT_CLIENT_RETRY_EXTRA_CODES"] = "500"
        return {name: value for name, value in found.items() if value}

    def save(self) -> None:
        write_json(path_of(Home(self.home)), self.model_dump(mode="json"))

    @classmethod
    def load(cls, home: Home) -> "Stack | None":
        """The stack that `up` last recorded under `home`, running or not; None if there is none."""
        path = path_of(home)
        return cls.model_validate(read_json(path)) if path.is_file() else None

    @classmethod
    def require(cls, home: Home) -> "Stack":
        """The running stack of `home`.

        Raises:
            UserError: nothing is running.
        """
        stack = cls.load(home)
        if stack is None or not stack.is_running:
            raise UserError(f"No stack is running under {home.root}; start it with `pangu up`.")
        return stack


def path_of(home: Home) -> Path:
    return home.stack / "stack.json"
