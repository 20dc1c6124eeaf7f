"""What the dashboard shows of a stage: a progress bar, its log lines, its outcome, and why it failed."""

import functools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, State

from flows.orphans import stop_orphans
from flows.run_names import call_run
from pangu import jobs
from pangu.errors import UserError
from pangu.progress import Progress

Parameters = ParamSpec("Parameters")

SECONDS_BETWEEN_UPDATES = 2.0
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")
"""Terminal control sequences (ECMA-48: CSI, OSC and two-byte escapes), which Ray and progress bars print."""
PLACES = ("run", "mlflow", "sample")
"""Facts of a training that say where something is."""


class ProgressBar:
    """A stage's progress artifact, updated at most every other second: SQLite serves everyone else too."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._artifact = create_progress_artifact(0.0, key=f"{stage}-progress", description=f"{stage}: starting")
        self._updated_at = 0.0

    def __call__(self, progress: Progress) -> None:
        finished = progress.done >= progress.total
        if finished or time.monotonic() - self._updated_at >= SECONDS_BETWEEN_UPDATES:
            percent = 100.0 * progress.done / max(progress.total, 1)
            update_progress_artifact(self._artifact, min(percent, 100.0), description=sentence(progress))
            self._updated_at = time.monotonic()

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Full, and saying whether anything had to be done."""
        if outcome.get("already_done"):
            update_progress_artifact(self._artifact, 100.0, description=f"{self._stage}: already done")
        else:
            update_progress_artifact(self._artifact, 100.0)


def plain(line: str) -> str:
    """The line as a person reads it: without colours and other terminal control; of what a bar overwrote, the last."""
    return ESCAPES.sub("", line).rstrip("\r").rpartition("\r")[2]


def sentence(progress: Progress) -> str:
    """`train structure: 120 / 700 steps, loss 0.31`; parts of a fact (`loss/t0-124`) and places of things are left out."""
    facts = "".join(
        f", {name} {value:.4g}" if isinstance(value, float) else f", {name} {value}"
        for name, value in progress.facts.items()
        if "/" not in name and name not in PLACES
    )
    return f"{progress.stage}: {progress.done} / {progress.total} {progress.unit}{facts}"


def show_outcome(stage: str, outcome: Mapping[str, Any]) -> None:
    """The outcome as a table in the run's artifacts."""
    title = f"## {stage}" + (": already done" if outcome.get("already_done") else "")
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in outcome.items())
    create_markdown_artifact(f"{title}\n\n| | |\n|---|---|\n{rows}\n", key=f"{stage}-outcome")


def best_effort(show: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """For what is only to be looked at: if it fails it costs the artifact, and not the run."""

    @functools.wraps(show)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            show(*args, **kwargs)
        except Exception as error:
            get_run_logger().warning("%s left nothing to look at: %s", show.__name__, error)

    return wrapped


@best_effort
def name_after(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """The name of a flow's run, by what its form was filled in with."""
    for settings in (*args, *kwargs.values()):
        if deed := getattr(settings, "deed", ""):
            call_run(deed)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return "<br>".join(f"{name}: {_cell(part)}" for name, part in value.items()) or "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).replace("|", "\\|")


def staged(run: Callable[Parameters, dict[str, Any]]) -> Callable[Parameters, State]:
    """What every flow does: fail with the stage's own sentence over bad input, and take its jobs along when it is ended.

    Prefect gives a cancelled process 30 seconds, in which its threads would go on waiting for jobs that nobody stopped.
    """

    @functools.wraps(run)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> State:
        stop_orphans()
        name_after(args, kwargs)
        try:
            return Completed(data=run(*args, **kwargs))
        except UserError as error:
            return Failed(message=str(error))
        except Exception:
            raise
        except BaseException:
            jobs.stop_all(str(flow_run.id))
            raise

    return wrapped
