"""One training job on Ray Train: data parallelism only, no model sharding, no traffic to the other job.

Owns the run folder: `checkpoints/` while it trains, `generator/` and `outcome.json` when it is done.
"""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from pangu.config import Frozen, Recipe, Role
from pangu.contract import GeneratorContract
from pangu.data.batches import Rows, load_rows
from pangu.data.encoded import Manifest, check_encoded
from pangu.data.views import windows
from pangu.errors import UserError
from pangu.models.initial import Resolve
from pangu.storage import Home, read_json, write_json
from pangu.train.attempts import attempted, check_claim, claim
from pangu.train.history import HISTORY_FILE, read_history
from pangu.train.initial import export_generator, pin_initial, starting_network
from pangu.train.job import TrainJob
from pangu.train.loop import Hooks, Trained, train_loop
from pangu.train.spent import Spent
from pangu.train.watching import watched
from pangu.train.world import World


class TrainOutcome(Frozen):
    """What a training job made."""

    role: Role
    run_name: str
    generator: str
    steps: int
    loss: float
    rows: int
    warnings: tuple[str, ...] = Field((), description="What went wrong without ending the run")
    already_done: bool = False


def train(
    role: Role,
    dataset: str,
    encode_id: str,
    recipe: Recipe,
    home: Home,
    run_name: str | None = None,
    resolve: Resolve | None = None,
) -> TrainOutcome:
    """Train the generator of `role` on an encoded dataset, with `recipe.workers` workers on the current Ray cluster.

    The default run name follows from data and recipe: the same input finds its finished run, or continues a stopped one.
    `resolve` fetches a registered pair that the recipe starts from.

    Raises:
        UserError: nothing to train on, a recipe that does not fit the data, or a run name that belongs to another run.
    """
    job = TrainJob(
        role=role,
        run_name=run_name or default_run_name(role, encode_id, recipe),
        encode_id=encode_id,
        recipe=recipe,
        encoded=home.encoded(dataset, encode_id),
        run_folder=home.run(run_name or default_run_name(role, encode_id, recipe)),
    )
    check_job(job)
    outcome = job.run_folder / "outcome.json"
    if outcome.is_file():
        return TrainOutcome.model_validate(read_json(outcome)).model_copy(update={"already_done": True})
    manifest = Manifest.load(job.encoded)
    earlier = earlier_generator(job, home)
    pin_initial(job.run_folder, recipe, role, contract_of(job, manifest), manifest.encoders, earlier, resolve)
    attempted(lambda: _run_on_ray(job))
    if not outcome.is_file():
        raise RuntimeError(f"Ray Train ended, but {outcome} is missing.")
    return TrainOutcome.model_validate(read_json(outcome))


def default_run_name(role: Role, encode_id: str, recipe: Recipe) -> str:
    """Follows from data and recipe."""
    return f"{role}-{encode_id[:8]}-{recipe.learning_digest()[:8]}"


def earlier_generator(job: TrainJob, home: Home) -> Path | None:
    """The generator of the job that this one goes on from (`init_from_role`), or None.

    Raises:
        UserError: that job has not ended yet.
    """
    role = job.recipe.training(job.role).init_from_role
    if role is None:
        return None
    folder = home.run(default_run_name(role, job.encode_id, job.recipe)) / "generator"
    if not folder.is_dir():
        raise UserError(
            f"{job.role} goes on from {role}, which is not trained yet; run `pangu train --role {role}` first."
        )
    return folder


def check_job(job: TrainJob) -> None:
    """Raises UserError if the job could not train what it says, before any worker starts."""
    check_encoded(Manifest.load(job.encoded), job.recipe, job.role)
    outcome = job.run_folder / "outcome.json"
    if outcome.is_file() and TrainOutcome.model_validate(read_json(outcome)).role != job.role:
        raise UserError(f"Run '{job.run_name}' trained the other role; use another run name.")


def _run_on_ray(job: TrainJob) -> None:
    """Start the workers and wait. Each attempt has a name of its own: the run's state is in its own checkpoints.

    Ray itself repeats nothing but preempted attempts, for it cannot tell bad input from bad luck.
    """
    import uuid

    import ray.train
    from ray.train.torch import TorchTrainer

    use_gpu = bool(ray.cluster_resources().get("GPU")) if ray.is_initialized() else torch.cuda.is_available()
    least, most = job.recipe.min_workers, job.recipe.workers
    workers: Any = most if least is None else (least, most)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job.model_dump(mode="json"), "attempt": claim(job.run_folder)},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        run_config=ray.train.RunConfig(
            name=f"{job.run_name}-{uuid.uuid4().hex[:8]}",
            storage_path=str(job.run_folder / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=0),
        ),
    )
    trainer.fit()


def _worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size(), get_device())
    work(TrainJob.model_validate(config["job"]), world, config["attempt"])


def work(job: TrainJob, world: World, attempt: str | None = None) -> Trained:
    """The job on one worker; rank 0 reports, exports and writes the outcome last.

    attempt: the claim under which it works, where there may be others.

    Raises:
        UserError: rows that no timestep of the interval may train, what the loop refuses, or a later attempt has begun.
    """
    rows = load_rows(job.encoded, job.role, job.recipe, world.device)
    manifest = Manifest.load(job.encoded)
    contract = contract_of(job, manifest)
    check_rows(rows, contract)
    with watched(job, world, rows, contract) as watch:
        began = time.process_time()
        trained = train_loop(
            job.role,
            job.recipe,
            rows,
            job.encode_id,
            job.run_folder / "checkpoints",
            world,
            claimed(watch.hooks, job.run_folder, attempt),
            denoiser=starting_network(job.run_folder, job.recipe, job.role, contract, manifest.encoders),
            windows=windows(job.recipe.training(job.role), manifest.encoders.spatial_factor),
            contract=contract,
        )
        keep_spent(job.run_folder, trained, time.process_time() - began, world)
        if world.rank == 0:
            if attempt is not None:
                check_claim(job.run_folder, attempt)
            export(job.run_folder, trained, contract)
            watch.settle("FINISHED", job.run_folder / "generator")
            write_outcome(job, trained, len(rows), watch.warnings)
    return trained


def claimed(hooks: Hooks, run_folder: Path, attempt: str | None) -> Hooks:
    """The hooks, of which the log line is written, and the loop goes on, only while the run folder is this attempt's."""
    if attempt is None or hooks.metrics is None:
        return hooks
    told = hooks.metrics

    def metrics(step: int, values: dict[str, float]) -> None:
        check_claim(run_folder, attempt)
        told(step, values)

    return replace(hooks, metrics=metrics)


def keep_spent(run_folder: Path, trained: Trained, core_s: float, world: World) -> None:
    """`core_seconds.json`, by rank 0: what the loops of all workers took. On a device that says nothing, so it is left out."""
    together = world.sum(core_s)
    steps = trained.steps - trained.resumed_from
    if world.rank == 0 and steps and world.device.type == "cpu":
        Spent(core_s=together, steps=steps, workers=world.size).save(run_folder)


def check_rows(rows: Rows, contract: GeneratorContract) -> None:
    """Raises UserError if a row may train no timestep of the interval: nothing could be drawn for it."""
    least = int(rows.min_timestep_n.max())
    if least >= contract.high:
        row = int(rows.min_timestep_n.argmax())
        raise UserError(
            f"Row {rows.keys[row][:12]} may train timesteps from {least} on (min_timestep), but {contract.role} trains "
            f"{contract.interval}; take such rows out of the dataset or raise the boundary."
        )


def write_outcome(job: TrainJob, trained: Trained, rows: int, warnings: list[str]) -> None:
    """`outcome.json`, which says that the job is done. A run resumed behind its last step knows its loss from the history."""
    lines = read_history(job.run_folder / HISTORY_FILE) if math.isnan(trained.loss) else []
    outcome = TrainOutcome(
        role=job.role,
        run_name=job.run_name,
        generator=str(job.run_folder / "generator"),
        steps=trained.steps,
        loss=lines[-1].metrics["loss"] if lines else trained.loss,
        rows=rows,
        warnings=tuple(warnings),
    )
    write_json(job.run_folder / "outcome.json", outcome.model_dump(mode="json"))


def contract_of(job: TrainJob, manifest: Manifest) -> GeneratorContract:
    """What the generator of this job will have been trained for, and on what."""
    steps = job.recipe.training(job.role).steps
    facts = {"dataset": manifest.dataset, "dataset_version": manifest.version, "trained_steps": steps}
    return manifest.encoders.contract(job.recipe, job.role, **facts)


def export(run_folder: Path, trained: Trained, contract: GeneratorContract) -> None:
    """`generator/` with the first running mean; one folder under `means/` for each further one."""
    for index, decay in enumerate(trained.averages.decays):
        folder = run_folder / "generator" if index == 0 else run_folder / "means" / f"{decay:g}"
        export_generator(folder, trained.denoiser, trained.averages, index, contract)
