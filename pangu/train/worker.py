"""What one worker of a training job does.

Owns the run folder: `checkpoints/` while it trains, `generator/` and `outcome.json` when it is done.
"""

import math
import time
from dataclasses import replace
from pathlib import Path

from pangu.contract import GeneratorContract
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.encode.views import windows
from pangu.data.rows.load import load_mixture
from pangu.data.rows.training_rows import Rows
from pangu.data.trained_on import TrainedOn
from pangu.errors import UserError
from pangu.storage import write_json
from pangu.train.attempts import check_claim
from pangu.train.callbacks import watched
from pangu.train.continuing import continuations
from pangu.train.history import HISTORY_FILE, read_history
from pangu.train.job import TrainJob, TrainOutcome
from pangu.train.loop import Hooks, Trained, train_loop
from pangu.train.out_of_memory import one_sentence_if_full
from pangu.train.rehearsed_rows import with_rehearsal
from pangu.train.starting_weights import export_generator, starting_network, teacher_of
from pangu.train.training_cost import TrainingCost
from pangu.train.world import World


def work(job: TrainJob, world: World, attempt: str | None = None) -> Trained:
    """The job on one worker; rank 0 reports, exports and writes the outcome last.

    attempt: the claim under which it works, where there may be others.

    Raises:
        UserError: rows that no timestep of the interval may train, what the loop refuses, or a later attempt has begun.
    """
    manifest = EncodedManifest.load(job.encoded)
    found = load_mixture(job.encoded, job.role, job.recipe, world.device)
    rows = with_rehearsal(found, manifest.dataset, job.run_folder, job.recipe)
    contract = job.contract(manifest)
    check_rows(rows, contract)
    with watched(job, world, rows, contract) as watch:
        began = time.process_time()
        with one_sentence_if_full(job.role, job.recipe, world.size):
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
                continues={act.before for act in continuations(job.run_folder)},
                teacher=teacher_of(job.run_folder, job.recipe.training(job.role)),
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
        TrainingCost(core_s=together, steps=steps, workers=world.size).save(run_folder)


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
    losses = [line.metrics["loss"] for line in lines if "loss" in line.metrics]
    if trained.skipped_steps:
        warnings = [
            *warnings,
            f"{trained.skipped_steps} of {trained.steps} steps were skipped: their loss or gradient norm was not finite.",
        ]
    outcome = TrainOutcome(
        role=job.role,
        run_name=job.run_name,
        generator=str(job.run_folder / "generator"),
        steps=trained.steps,
        loss=losses[-1] if losses else trained.loss,
        rows=rows,
        warnings=tuple(warnings),
    )
    write_json(job.run_folder / "outcome.json", outcome.model_dump(mode="json"))


def export(run_folder: Path, trained: Trained, contract: GeneratorContract) -> None:
    """`generator/` with the first running mean; one folder under `means/` for each further one."""
    mixture = TrainedOn.load(run_folder)
    for index, decay in enumerate(trained.ema.decays):
        folder = run_folder / "generator" if index == 0 else run_folder / "means" / f"{decay:g}"
        export_generator(folder, trained.denoiser, trained.ema, index, contract)
        if mixture is not None:
            mixture.save(folder)
