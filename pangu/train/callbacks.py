"""What surrounds the loop on rank 0: the run's description and history, MLflow, progress, sample grids, copies elsewhere.

Gives the loop its hooks, and settles everything at the end.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch.distributed

from pangu.contract import GeneratorContract
from pangu.data.encode.views import windows
from pangu.data.rows.load import load_mixture
from pangu.data.rows.training_rows import Rows
from pangu.data.table.versions import key_of
from pangu.progress import Progress, Reporter, print_progress
from pangu.storage import Home
from pangu.train.continuing import continuations, said
from pangu.train.grids import DRAWN, Grids
from pangu.train.held_out import HeldOutLoss
from pangu.train.history import HISTORY_FILE, History
from pangu.train.job import TrainJob, describe_run
from pangu.train.loop import Hooks
from pangu.train.mixture_record import trained_on
from pangu.train.mlflow_run import LONGEST_VALUE, Tracker, flatten, system_facts, tags_of
from pangu.train.upload import Uploader, fetch_missing
from pangu.train.world import World

log = logging.getLogger(__name__)

IMPATIENCE_S = 10.0
"""How long a training that fails waits for MLflow and for its last copy."""


@dataclass
class TrainingCallbacks:
    """The hooks of one attempt; on other workers than rank 0 they are empty.

    warnings: what went wrong without ending the run, known once it is settled.
    """

    hooks: Hooks = field(default_factory=Hooks)
    warnings: list[str] = field(default_factory=list)
    tracker: Tracker | None = None
    uploader: Uploader | None = None

    def settle(self, status: str, generator: Path | None = None, **patience: float) -> None:
        """Wait for the last copies, the finished generator's too, and for MLflow, whose run ends with `status`.

        Only the first call does.
        """
        if self.uploader is not None:
            self._note(self.uploader.finish(generator=generator, **patience))
        if self.tracker is not None:
            self._note(self.tracker.finish(status, **patience))
        self.uploader = self.tracker = None

    def _note(self, sentence: str) -> None:
        if sentence:
            log.warning(sentence)
            self.warnings.append(sentence)


@contextmanager
def watched(
    job: TrainJob, world: World, rows: Rows, contract: GeneratorContract, report: Reporter = print_progress
) -> Iterator[TrainingCallbacks]:
    """The watch over one attempt. Before the loop starts, a checkpoint that only `upload_to` still has is fetched.

    Raises:
        UserError: `upload_to` cannot be read, or there are no held-out rows to measure on.
    """
    watch = TrainingCallbacks()
    if world.rank == 0:
        upload_to = job.recipe.watching.upload_to
        held_out = held_out_of(job, contract) if job.recipe.watching.held_out_every else None
        describe_run(job, rows)
        mixture = trained_on(job)
        if mixture is not None:
            mixture.save(job.run_folder)
        if upload_to is not None:
            fetch_missing(upload_to, job.run_name, job.run_folder / "checkpoints")
            watch.uploader = Uploader(upload_to, job.run_name, job.run_folder / ".uploads")
        key = key_of(Home.from_environment(), contract.dataset, contract.dataset_version)
        tags = tags_of(job, contract.dataset, contract.dataset_version, key) | system_facts(world)
        if mixture is not None:
            tags |= {name: value[:LONGEST_VALUE] for name, value in mixture.tags()}
        if acts := continuations(job.run_folder):
            tags["pangu.continued"] = said(acts)[:LONGEST_VALUE]
        parameters = flatten(job.recipe.model_dump(mode="json"))
        watch.tracker = Tracker(job.run_folder / HISTORY_FILE, tags, parameters)
        watch.hooks = replace(hooks_of(job, rows, contract, watch, report), held_out=held_out)
    if world.size > 1:
        torch.distributed.barrier()  # nobody looks for checkpoints before they are fetched
    try:
        yield watch
    except BaseException:
        watch.settle("FAILED", patience_s=IMPATIENCE_S)
        raise
    watch.settle("FINISHED")


def hooks_of(
    job: TrainJob, rows: Rows, contract: GeneratorContract, watch: TrainingCallbacks, report: Reporter
) -> Hooks:
    """The loop's hooks: each log line goes to the history, and from there to MLflow and into the progress."""
    tracker, history = watch.tracker, History(job.run_folder / HISTORY_FILE)
    assert tracker is not None
    links: dict[str, str] = {"run": job.run_name}

    def on_metrics(step: int, metrics: dict[str, float]) -> None:
        history.add(step, metrics)
        tracker.wake()
        facts = {key: round(value, 5) for key, value in metrics.items()} | links
        if tracker.url:
            facts["mlflow"] = tracker.url
        total = job.recipe.training(job.role).steps
        report(Progress(stage=f"train-{job.role}", done=step, total=total, unit="steps", facts=facts))

    def on_grid(path: Path) -> None:
        links["sample"] = str(path)
        tracker.picture(path, path.parent.name)

    wanted = job.recipe.watching.sample_every > 0 and job.recipe.strategy in DRAWN
    grids = Grids(job, rows, contract, on_grid) if wanted else None
    return Hooks(on_metrics, watch.uploader, grids)


def held_out_of(job: TrainJob, contract: GeneratorContract) -> HeldOutLoss:
    """The loss on the held-out rows of the job's encoded datasets.

    Raises:
        UserError: it has none.
    """
    rows = load_mixture(job.encoded, job.role, job.recipe, split="held_out")
    cut = windows(job.recipe.training(job.role), contract.spatial_factor)
    return HeldOutLoss(job.role, job.recipe, rows, contract.interval, cut)
