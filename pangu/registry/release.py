"""Registering a pair: one version per generator, one of the pair, and the alias that moves last.

Every step first looks for its own result, so a release that was killed is completed by running it again.
"""

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pangu.config import Role
from pangu.contract import GeneratorContract, check_turns, expert_roles
from pangu.data.trained_on import TrainedOn
from pangu.errors import UserError
from pangu.progress import Progress, Reporter, silent
from pangu.registry import logged_model, tracking
from pangu.registry.drawing_model import check_mlflow
from pangu.registry.fetch import pair_contracts
from pangu.registry.manifest import Manifest
from pangu.registry.model_page import write_pages
from pangu.registry.registered_files import is_whole, upload
from pangu.train.mlflow_names import dataset_input

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion


def _as_text(protocol: Any) -> Any:
    """A protocol arrives as a name or as the tree of its settings; a tag is text."""
    return json.dumps(protocol, sort_keys=True) if isinstance(protocol, Mapping) else protocol


LONGEST_TAG = 5000
"""Characters of a tag that MLflow takes."""


class Evaluation(BaseModel):
    """The part of an evaluation's outcome that a release records."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pair_id: str
    pair: Path
    metrics: dict[str, float]
    protocol: Annotated[str, BeforeValidator(_as_text)]
    protocol_hash: str
    sample_grid: str = ""


class ReleaseOutcome(BaseModel):
    """What is registered now. `already_done`: all of it was, and the alias pointed there."""

    model_config = ConfigDict(frozen=True)

    pair_version: int
    structure_version: int
    texture_version: int
    middle_versions: dict[Role, int] = Field({}, exclude_if=lambda value: not value)
    alias: str
    sha256: str
    already_done: bool


def release(
    pair_dir: Path,
    structure_dir: Path,
    texture_dir: Path,
    evaluate_outcome: Mapping[str, Any] | BaseModel,
    alias: str = tracking.CHAMPION,
    report: Reporter = silent,
    middle_dirs: Sequence[Path] = (),
) -> ReleaseOutcome:
    """Register the pair in `pair_dir` and point `alias` at it.

    Args:
        pair_dir: a pair folder, with the same generators under `structure/`, `texture/` and, where there are more, `middle/`, ...
        structure_dir: the structure generator's folder, with its contract.
        texture_dir: the texture generator's folder, with its contract.
        evaluate_outcome: pair_id, pair, metrics, protocol and protocol_hash, as `pangu evaluate` reports them.
        alias: moved as the last step, in one call; the champion it replaces stays reachable as `previous`.
        middle_dirs: those of the experts between the two, the noisiest first.

    Raises:
        UserError: mismatched generators, a pair made of others, metrics of another pair, a file that is no safe
            artifact, an alias that MLflow keeps for itself, no MLflow server, or an MLflow of before models.
    """
    check_mlflow()
    tracking.check_alias(alias)
    evaluation = _evaluation(evaluate_outcome, pair_dir)
    generators = (structure_dir, *middle_dirs, texture_dir)
    halves = dict(zip(expert_roles(len(generators)), generators, strict=True))
    contracts = _checked_contracts(pair_dir, halves)
    folders = {tracking.model_of(role): folder for role, folder in halves.items()} | {tracking.PAIR: pair_dir}
    steps = len(folders) + 1
    manifests = {model: Manifest.of(folder) for model, folder in folders.items()}
    client = tracking.connect()
    versions: dict[str, int] = {}
    created = False
    for done, (model, folder) in enumerate(folders.items()):
        report(Progress(stage="release", done=done, total=steps, unit="steps", facts={"model": model}))
        is_pair = model == tracking.PAIR
        tags = _pair_tags(versions, contracts, evaluation) if is_pair else _generator_tags(contracts[model])
        mixtures = [TrainedOn.load(one) for one in (generators if is_pair else (folder,))]
        tags |= _mixture_tags([one for one in mixtures if one is not None])
        metrics = evaluation.metrics if is_pair else {}
        versions[model], new = _register(client, model, folder, manifests[model], tags, metrics)
        created |= new
    write_pages(client, versions, folders, contracts, evaluation.metrics, evaluation.sample_grid)
    moved = _move_alias(client, alias, str(versions[tracking.PAIR]))
    report(Progress(stage="release", done=steps, total=steps, unit="steps", facts={"alias": alias}))
    return ReleaseOutcome(
        pair_version=versions[tracking.PAIR],
        structure_version=versions[tracking.STRUCTURE],
        texture_version=versions[tracking.TEXTURE],
        middle_versions={role: versions[tracking.model_of(role)] for role in list(halves)[1:-1]},
        alias=alias,
        sha256=manifests[tracking.PAIR].sha256,
        already_done=not created and not moved,
    )


def _evaluation(outcome: Mapping[str, Any] | BaseModel, pair_dir: Path) -> Evaluation:
    fields = outcome.model_dump() if isinstance(outcome, BaseModel) else outcome
    try:
        evaluation = Evaluation.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the outcome"
        raise UserError(
            f"The evaluation outcome is unusable: {place}: {first['msg']}; `pangu evaluate` writes one."
        ) from error
    if evaluation.pair.name != pair_dir.name:
        raise UserError(f"The metrics are those of {evaluation.pair}, not of {pair_dir}; evaluate this pair first.")
    return evaluation


def _checked_contracts(pair_dir: Path, halves: Mapping[Role, Path]) -> dict[str, GeneratorContract]:
    """Name of each model -> contract, the noisiest first."""
    contracts = {role: GeneratorContract.load(folder) for role, folder in halves.items()}
    check_turns(list(contracts.values()))
    inside = pair_contracts(pair_dir)
    if len(inside) != len(contracts):
        raise UserError(
            f"{pair_dir} holds {', '.join(inside)}, but {', '.join(contracts)} are to be released; name all."
        )
    for role, contract in contracts.items():
        if inside[role] != contract:
            raise UserError(f"{pair_dir} holds another {role} generator than {halves[role]}; evaluate that one first.")
    return {tracking.model_of(role): contract for role, contract in contracts.items()}


def _generator_tags(contract: GeneratorContract) -> dict[str, str]:
    return {
        "pangu.role": contract.role,
        "pangu.interval": str(contract.interval),
        "pangu.recipe": contract.recipe,
        "pangu.recipe_digest": contract.recipe_digest,
        "pangu.dataset": contract.dataset,
        "pangu.dataset_version": str(contract.dataset_version),
        "pangu.trained_steps": str(contract.trained_steps),
        **({"pangu.quantised": contract.quantised} if contract.quantised else {}),
    }


def _pair_tags(
    versions: dict[str, int], contracts: dict[str, GeneratorContract], evaluation: Evaluation
) -> dict[str, str]:
    structure, texture = contracts[tracking.STRUCTURE], contracts[tracking.TEXTURE]
    return {
        **{tracking.version_of(each.role): str(versions[model]) for model, each in contracts.items()},
        "pangu.pair_id": evaluation.pair_id,
        "pangu.boundary": ", ".join(str(each.low) for each in contracts.values() if each.low),
        "pangu.recipe": structure.recipe,
        "pangu.recipe_digest": structure.recipe_digest,
        "pangu.dataset": structure.dataset,
        "pangu.dataset_version": str(structure.dataset_version),
        "pangu.texture_dataset_version": str(texture.dataset_version),
        "pangu.protocol": evaluation.protocol,
        "pangu.protocol_hash": evaluation.protocol_hash,
    }


def _mixture_tags(mixtures: Sequence[TrainedOn]) -> dict[str, str]:
    """What was trained on, where it is more than the dataset of the contract: of both halves of a pair what either was."""
    parts = {part.said(): part for mixture in mixtures for part in mixture.parts}
    tags = TrainedOn(parts=tuple(parts.values())).tags() if parts else ()
    return {name: value[:LONGEST_TAG] for name, value in tags}


def _register(
    client: "MlflowClient",
    model: str,
    folder: Path,
    manifest: Manifest,
    tags: dict[str, str],
    metrics: dict[str, float],
) -> tuple[int, bool]:
    """The version of `model` with this content, and whether it, or a file of it, had to be made."""
    existing = tracking.version_with(client, model, manifest.sha256)
    if existing is not None:
        return int(existing.version), _restored(client, model, existing, folder, manifest)
    _ensure_model(client, model)
    run, logged = _uploaded(client, model, folder, manifest, tags, metrics)
    # Tags go into the same call: a version without its content hash would be invisible to the next attempt.
    version = client.create_model_version(
        model,
        source=logged.artifact_location,
        run_id=run.info.run_id,
        model_id=logged.model_id,
        await_creation_for=0,
        tags={tracking.CONTENT: manifest.sha256, **tags},
    )
    return int(version.version), True


def _restored(client: "MlflowClient", model: str, version: "ModelVersion", folder: Path, manifest: Manifest) -> bool:
    """Whether files of a registered version were gone from MLflow, or it is of before models; then they are uploaded again."""
    source = str(version.source)
    if is_whole(client, source, model, manifest):
        return False
    upload(client, source, model, folder, manifest)
    return True


def _uploaded(
    client: "MlflowClient",
    model: str,
    folder: Path,
    manifest: Manifest,
    tags: dict[str, str],
    metrics: dict[str, float],
) -> "tuple[Run, LoggedModel]":
    """The finished run and the model with the files of `folder`; one per content, however often it is tried."""
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

    experiment = _experiment(client)
    found = client.search_runs(
        [experiment],
        f"tags.`pangu.model` = '{model}' and tags.`{tracking.CONTENT}` = '{manifest.sha256}'",
        max_results=1,
    )
    run = found[0] if found else None
    if run is None:
        name = f"{model} {manifest.sha256[:12]}"
        run_tags = {MLFLOW_RUN_NAME: name, "pangu.model": model, tracking.CONTENT: manifest.sha256, **tags}
        run = client.create_run(experiment, tags=run_tags)
    logged = logged_model.logged_model(client, run, model, tags)
    if run.info.status != "FINISHED" or not logged_model.is_ready(logged):
        upload(client, logged.artifact_location, model, folder, manifest)
        logged_model.finish(client, run, logged, metrics, _data(tags, TrainedOn.load(folder)))
        # MLflow prints the run's address; standard output belongs to the outcome.
        with contextlib.redirect_stdout(sys.stderr):
            client.set_terminated(run.info.run_id, "FINISHED")
    return run, logged


def _data(tags: Mapping[str, str], mixture: TrainedOn | None) -> list[Any]:
    """What a half was trained on; of a pair the data of its structure half."""
    if mixture is not None:
        return [dataset_input(part.dataset, part.version) for part in mixture.parts]
    return [dataset_input(tags["pangu.dataset"], int(tags["pangu.dataset_version"]))] if tags["pangu.dataset"] else []


def _experiment(client: "MlflowClient") -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(tracking.EXPERIMENT))
    except MlflowException as error:
        existing = client.get_experiment_by_name(tracking.EXPERIMENT)
        if existing is None:
            raise
        if existing.lifecycle_stage != "active":
            raise UserError(
                f"The MLflow experiment '{tracking.EXPERIMENT}' was deleted; restore it in MLflow."
            ) from error
        return str(existing.experiment_id)


def _ensure_model(client: "MlflowClient", model: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _move_alias(client: "MlflowClient", alias: str, version: str) -> bool:
    """Point `alias` at `version`; the champion it replaces becomes `previous`, before and not after."""
    current = tracking.alias_version(client, tracking.PAIR, alias)
    if current == version:
        return False
    if alias == tracking.CHAMPION and current is not None:
        client.set_registered_model_alias(tracking.PAIR, tracking.PREVIOUS, current)
    client.set_registered_model_alias(tracking.PAIR, alias, version)
    return True
