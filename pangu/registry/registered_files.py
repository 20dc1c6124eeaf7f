"""The files of a version as they lie in MLflow: written, and listed to see whether all are there."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangu.registry import tracking
from pangu.registry.flavour import write_flavour
from pangu.registry.manifest import MANIFEST_FILE, MLFLOW_FILES, Manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient


def upload(client: "MlflowClient", source: str, model: str, folder: Path, manifest: Manifest) -> None:
    """Write a folder to where a version has its files; what says that they are complete comes last.

    source: artifact URI of the version. model: the pair's also gets what makes it a model of MLflow.
    """
    repository = _repository(client, source)
    repository.log_artifacts(str(folder))
    with tempfile.TemporaryDirectory() as scratch:
        if model == tracking.PAIR:
            write_flavour(folder, Path(scratch))
        manifest.save(Path(scratch))
        repository.log_artifacts(scratch)


def is_whole(client: "MlflowClient", source: str, model: str, manifest: Manifest) -> bool:
    """Whether MLflow has every file of a version."""
    needed = manifest.files.keys() | {MANIFEST_FILE, *(MLFLOW_FILES if model == tracking.PAIR else ())}
    return needed <= set(_files(_repository(client, source)))


def _repository(client: "MlflowClient", source: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(source, tracking_uri=client.tracking_uri)


def _files(repository: Any) -> Iterator[str]:
    folders: list[str | None] = [None]
    while folders:
        for found in repository.list_artifacts(folders.pop()):
            if found.is_dir:
                folders.append(found.path)
            else:
                yield found.path
