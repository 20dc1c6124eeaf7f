"""The stages as Prefect tasks: each runs one `pangu` command, as a Ray Job or as a process, and returns its outcome."""

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.runtime import flow_run as current_run
from prefect.tasks import Task

from flows.overrides import changed
from flows.recipe_changes import CommonChanges
from flows.reporting import ProgressBar, plain, show_outcome
from flows.training_report import TrainingReport
from pangu import jobs
from pangu.config import Recipe
from pangu.errors import UserError
from pangu.forms import flat
from pangu.names import LATEST
from pangu.progress import Progress
from pangu.recipes import recipe as named
from pangu.storage import Home, write_json

SECONDS_BETWEEN_LOOKS = 1.0


async def may_pass(task: Task[..., Any], run: TaskRun, state: State) -> bool:
    """Bad input stays bad and a stopped job was meant to stop; anything else may have been a bad moment."""
    return not isinstance(await state.aresult(raise_on_failure=False), UserError | jobs.CommandStopped)


# Stages are idempotent and remember their own results, so Prefect's cache would only be a second truth.
stage_task = {
    "retries": 2,
    "retry_delay_seconds": [5.0, 30.0],
    "retry_condition_fn": may_pass,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}


@task(name="ingest", task_run_name="ingest", **stage_task)
def ingest(card: str, retry: bool = False, every_node: bool = False) -> dict[str, Any]:
    options = [*(["--retry"] if retry else []), *(["--on-ray"] if every_node else [])]
    return run_stage("ingest", ["ingest", card, *options], on_ray=every_node)


@task(name="prepare", task_run_name="prepare", **stage_task)
def prepare(card: str, ingest_id: str, options: list[str]) -> dict[str, Any]:
    return run_stage("prepare", ["prepare", card, "--ingest-id", ingest_id, *options])


@task(name="encode", task_run_name="{stage}", **stage_task)
def encode(card: str, version: int | None, recipe: str, devices: list[str], stage: str = "encode") -> dict[str, Any]:
    return run_stage(
        stage,
        ["encode", card, "--version", str(LATEST if version is None else version), "--recipe", recipe, *devices],
    )


@task(name="train", task_run_name="train-{role}", **stage_task)
def train(card: str, encode_id: str, recipe: str, role: str) -> dict[str, Any]:
    return run_stage(f"train-{role}", ["train", card, "--encode-id", encode_id, "--recipe", recipe, "--role", role])


@task(name="join", task_run_name="join", **stage_task)
def join(generator: str, recipe: str, run_name: str) -> dict[str, Any]:
    folder = Home.from_environment().partner(run_name)
    return run_stage("join", ["assemble", generator, "--recipe", recipe, "--folder", str(folder)], on_ray=False)


@task(name="evaluate", task_run_name="evaluate", **stage_task)
def evaluate(
    card: str,
    structure: str,
    texture: str,
    recipe: str,
    encode_id: str,
    options: list[str],
    middles: Sequence[str] = (),
) -> dict[str, Any]:
    generators = ["--structure", structure, *between(middles), "--texture", texture]
    chosen = ["--recipe", recipe, "--encode-id", encode_id, *options]
    return run_stage("evaluate", ["evaluate", card, *generators, *chosen])


@task(name="matrix", task_run_name="matrix", **stage_task)
def matrix(
    card: str,
    structure: str,
    texture: str,
    recipe: str,
    encode_id: str,
    options: list[str],
    middles: Sequence[str] = (),
) -> dict[str, Any]:
    generators = ["--structure", structure, *between(middles), "--texture", texture, "--champion"]
    chosen = [
        "--recipe",
        recipe,
        "--encode-id",
        encode_id,
        *options,
        "--folder",
        str(result_file("matrix").with_suffix("")),
    ]
    return run_stage("matrix", ["pair-matrix", card, *generators, *chosen])


@task(name="gate", task_run_name="gate", **stage_task)
def gate(card: str, metrics: str, recipe: str, encode_id: str, judges: list[str]) -> dict[str, Any]:
    chosen = ["--recipe", recipe, "--encode-id", encode_id, *judges]
    return run_stage("gate", ["gate", card, "--metrics", metrics, *chosen])


@task(name="release", task_run_name="release", **stage_task)
def release(pair: str, structure: str, texture: str, metrics: str, middles: Sequence[str] = ()) -> dict[str, Any]:
    generators = ["--structure", structure, *between(middles), "--texture", texture]
    return run_stage("release", ["release", "--pair", pair, *generators, "--metrics", metrics], on_ray=False)


@task(name="deploy", task_run_name="deploy", **stage_task)
def deploy(pair_version: int | str) -> dict[str, Any]:
    settings = os.environ.get("PANGU_SERVE_SETTINGS")
    options = ["--settings", settings] if settings else []
    return run_stage("deploy", ["deploy", "--pair-version", str(pair_version), *options], on_ray=False)


# Another attempt would take the rollback back.
@task(name="rollback", task_run_name="rollback", **(stage_task | {"retries": 0}))
def rollback() -> dict[str, Any]:
    return run_stage("rollback", ["rollback"], on_ray=False)


@task(name="vacuum", task_run_name="vacuum-{dataset}", **stage_task)
def vacuum(dataset: str, keep: int, dry_run: bool) -> dict[str, Any]:
    options = ["--keep", str(keep), *(["--dry-run"] if dry_run else [])]
    stage = f"vacuum-{dataset.replace('_', '-')}"  # keys of artifacts take no underscore
    return run_stage(stage, ["dataset", "vacuum", dataset, *options], on_ray=False)


def between(middles: Sequence[str]) -> list[str]:
    """The options that name the experts between structure and texture, the noisiest first."""
    return [text for folder in middles for text in ("--middle", folder)]


def run_stage(stage: str, arguments: list[str], on_ray: bool = True) -> dict[str, Any]:
    """Run one `pangu` command for the current flow run, show how it goes, and return its outcome.

    Raises:
        UserError: bad input, or it took longer than the form's `timeout_h`.
    """
    run = jobs.run_as_job if on_ray else jobs.run_as_process
    bar, log, job_id = ProgressBar(stage), get_run_logger().info, f"{current_run.id}-{stage}"
    training = TrainingReport(stage) if stage.startswith("train-") else None

    def report(progress: Progress) -> None:
        bar(progress)
        if training is not None:
            training(progress)

    try:
        with interruptible(stage, job_id, hours_allowed()):
            called = f"{stage} of {current_run.name}"
            outcome = run(arguments, job_id, result_file(stage), report, lambda line: log("%s", plain(line)), called)
    finally:
        if training is not None:
            training.finish()
    bar.finish(outcome)
    show_outcome(stage, outcome)
    return outcome


def hours_allowed() -> float | None:
    """What the run's form says about the duration of a stage."""
    settings = (current_run.parameters or {}).get("settings") or {}
    found = flat(settings).get("timeout_h") if isinstance(settings, dict) else getattr(settings, "timeout_h", None)
    return float(found) if found else None


@contextlib.contextmanager
def interruptible(stage: str, job_id: str, hours: float | None) -> Iterator[None]:
    """Stop the stage's job when its time is over, or when somebody suspends the run.

    Raises:
        UserError: its time is over; another attempt would need as long.
        Pause: the run is suspended. Prefect then leaves the flow, and begins it anew when somebody resumes it.
    """
    context = FlowRunContext.get()
    assert context is not None, "stages run inside flows"
    suspension = context.flow_run_suspension_request
    ended, late = threading.Event(), threading.Event()
    last = time.monotonic() + hours * 3600 if hours else math.inf

    def look() -> None:
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            if time.monotonic() > last:
                late.set()
            if late.is_set() or suspension.is_requested():
                jobs.stop_all(job_id)
                return

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    except (jobs.CommandStopped, jobs.CommandFailed) as error:
        suspension.raise_if_requested()
        if late.is_set():
            raise UserError(
                f"{stage} was stopped after {hours:g} h, its timeout_h; run it again, and it continues."
            ) from error
        raise
    finally:
        ended.set()


def result_file(stage: str) -> Path:
    """Where the current flow run keeps the outcome of a stage."""
    return Home.from_environment().root / "flows" / str(current_run.id) / f"{stage}.json"


def stop_everything(flow: Any, flow_run: FlowRun, state: State) -> None:
    """Hook of cancelled and crashed flows, for those that were killed before they could end their jobs themselves."""
    jobs.stop_all(str(flow_run.id))


def recipe_of(name: str, changes: CommonChanges) -> str:
    """What the stages are given as `--recipe`: the name, or a file of this run with the recipe as it was changed.

    Raises:
        UserError: the changes do not go together.
    """
    recipe = named(name)
    wanted = changed(recipe, changes)
    if wanted == recipe:
        return name
    return recipe_file(wanted)


def recipe_file(recipe: Recipe) -> str:
    """A file of this run with the recipe, for `--recipe`."""
    path = result_file("recipe")
    write_json(path, recipe.model_dump(mode="json"))
    return str(path)
