"""The stages as Prefect tasks: each runs one `pangu` command, as a Ray Job or as a process, and returns its outcome."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.logging import get_run_logger
from prefect.runtime import flow_run as current_run
from prefect.tasks import Task

from flows.reporting import ProgressBar, show_outcome
from flows.training_report import TrainingReport
from pangu import jobs
from pangu.errors import UserError
from pangu.progress import Progress
from pangu.storage import Home


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
def ingest(card: str) -> dict[str, Any]:
    return run_stage("ingest", ["ingest", card], on_ray=False)


@task(name="prepare", task_run_name="prepare", **stage_task)
def prepare(card: str, ingest_id: str) -> dict[str, Any]:
    return run_stage("prepare", ["prepare", card, "--ingest-id", ingest_id])


@task(name="encode", task_run_name="encode", **stage_task)
def encode(card: str, version: int, recipe: str) -> dict[str, Any]:
    return run_stage("encode", ["encode", card, "--version", str(version), "--recipe", recipe])


@task(name="train", task_run_name="train-{role}", **stage_task)
def train(card: str, encode_id: str, recipe: str, role: str) -> dict[str, Any]:
    return run_stage(f"train-{role}", ["train", card, "--encode-id", encode_id, "--recipe", recipe, "--role", role])


@task(name="evaluate", task_run_name="evaluate", **stage_task)
def evaluate(card: str, structure: str, texture: str, recipe: str, encode_id: str) -> dict[str, Any]:
    generators = ["--structure", structure, "--texture", texture]
    return run_stage("evaluate", ["evaluate", card, *generators, "--recipe", recipe, "--encode-id", encode_id])


@task(name="release", task_run_name="release", **stage_task)
def release(pair: str, structure: str, texture: str, metrics: str) -> dict[str, Any]:
    generators = ["--structure", structure, "--texture", texture]
    return run_stage("release", ["release", "--pair", pair, *generators, "--metrics", metrics], on_ray=False)


@task(name="deploy", task_run_name="deploy", **stage_task)
def deploy(pair_version: int | str) -> dict[str, Any]:
    return run_stage("deploy", ["deploy", "--pair-version", str(pair_version)], on_ray=False)


def run_stage(stage: str, arguments: list[str], on_ray: bool = True) -> dict[str, Any]:
    """Run one `pangu` command for the current flow run, show how it goes, and return its outcome."""
    run = jobs.run_as_job if on_ray else jobs.run_as_process
    bar = ProgressBar(stage)
    training = TrainingReport(stage) if stage.startswith("train-") else None

    def report(progress: Progress) -> None:
        bar(progress)
        if training is not None:
            training(progress)

    try:
        outcome = run(arguments, f"{current_run.id}-{stage}", result_file(stage), report, get_run_logger().info)
    finally:
        if training is not None:
            training.finish()
    bar.finish(outcome)
    show_outcome(stage, outcome)
    return outcome


def result_file(stage: str) -> Path:
    """Where the current flow run keeps the outcome of a stage."""
    return Home.from_environment().root / "flows" / str(current_run.id) / f"{stage}.json"


def stop_everything(flow: Any, flow_run: FlowRun, state: State) -> None:
    """Hook of cancelled and crashed flows, for those that were killed before they could end their jobs themselves."""
    jobs.stop_all(str(flow_run.id))
