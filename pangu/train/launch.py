"""One training job from what a person asks for to its outcome: is it done, may it start, and with what does it begin?"""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from pangu.config import Recipe, Role
from pangu.contract import CONTRACT_FILE
from pangu.data.encode.encoded import EncodedManifest
from pangu.data.encode.mixture_parts import check_parts
from pangu.errors import UserError
from pangu.models.whole import is_whole_model
from pangu.names import LATEST, encodings
from pangu.names import resolve as id_of
from pangu.progress import Reporter, print_progress
from pangu.recipes import demo
from pangu.storage import Home, read_json
from pangu.train.attempts import attempted
from pangu.train.continuing import check_same_recipe
from pangu.train.follow import followed
from pangu.train.job import TrainJob, TrainOutcome
from pangu.train.on_ray import run_on_ray

if TYPE_CHECKING:
    from pangu.models.init_weights import Resolve


def train(
    role: Role,
    dataset: str,
    encode_id: str = LATEST,
    recipe: Recipe | None = None,
    home: Home | None = None,
    run_name: str | None = None,
    resolve: "Resolve | None" = None,
    report: Reporter | None = None,
) -> TrainOutcome:
    """Train the generator of `role` on an encoded dataset, with `recipe.workers` workers on the current Ray cluster.

    encode_id, recipe, home: the latest, `demo`, and that of the environment, where they are left out.

    The default run name follows from data and recipe: the same input finds its finished run, or continues a stopped one.
    `resolve` fetches a registered pair that the recipe starts from. With `report` this process tells how far the run is, and the
    workers' own output stays in Ray's logs.

    Raises:
        UserError: nothing to train on, a recipe that does not fit the data, or a run name that belongs to another run.
    """
    home, recipe = home or Home.from_environment(), recipe or demo()
    if encode_id == LATEST:
        encode_id = id_of(encode_id, encodings(home, dataset), "encoded dataset", f"pangu encode {dataset}")
    job = TrainJob(
        role=role,
        run_name=run_name or default_run_name(role, encode_id, recipe),
        encode_id=encode_id,
        recipe=recipe,
        encoded=home.encoded(dataset, encode_id),
        run_folder=home.run(run_name or default_run_name(role, encode_id, recipe)),
    )
    check_job(job)
    outcome, generator = job.run_folder / "outcome.json", job.run_folder / "generator"
    if outcome.is_file() and is_whole_model(generator) and (generator / CONTRACT_FILE).is_file():
        done = TrainOutcome.model_validate(read_json(outcome))
        return done.model_copy(update={"generator": str(generator), "already_done": True})
    outcome.unlink(missing_ok=True)  # its generator is gone: made again from the last checkpoint, or from the start
    manifest = EncodedManifest.load(job.encoded)
    earlier = earlier_generator(job, home)
    if earlier is not None or recipe.init_from is not None:
        from pangu.train.starting_weights import pin_initial  # brings diffusers along, which only the workers need else

        pin_initial(job.run_folder, recipe, role, job.contract(manifest), manifest.encoders, earlier, resolve)
    if recipe.rehearsal is not None:
        from pangu.train.rehearsed_rows import pin_rehearsal

        pin_rehearsal(job.run_folder, recipe, role, manifest.encoders, resolve, report or print_progress)
    with followed(job, report) if report is not None else contextlib.nullcontext():
        attempted(lambda: run_on_ray(job, quiet=report is not None))
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
    check_parts(job.encoded, job.recipe, job.role)
    outcome = job.run_folder / "outcome.json"
    if outcome.is_file() and TrainOutcome.model_validate(read_json(outcome)).role != job.role:
        raise UserError(f"Run '{job.run_name}' trained the other role; use another run name.")
    from pangu.train.losses import find_loss  # brings torch along

    find_loss(*job.recipe.optimization.named_loss)
    check_same_recipe(job.run_folder, job)
